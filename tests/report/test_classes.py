"""Evaluations by class as text and in the report: what is worst, and what is taken for what."""

import json

import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.report import classes
from squeeze_jax.study import Workdir
from tests.report.test_report import page


def record_of(confusion, names=None, error=2.5):
    """An evaluation of which this is the confusion matrix."""
    size = len(confusion)
    names = names or [f"class {label}" for label in range(size)]
    return {
        "calibration_error": error,
        "classes": [
            {
                "name": name,
                "images": sum(row),
                "top1": 100 * row[label] / sum(row) if sum(row) else None,
            }
            for label, (name, row) in enumerate(zip(names, confusion, strict=True))
        ],
        "confusion": [
            [label, answer, count]
            for label, row in enumerate(confusion)
            for answer, count in enumerate(row)
            if count
        ],
    }


ANIMALS = record_of([[8, 2, 0], [1, 3, 6], [0, 0, 0]], ["cat", "<dog>", "eel"])


def many(size=30):
    """Every class is right in as many of 50 images as its label, else taken for the next one."""
    rows = [[0] * size for _ in range(size)]
    for label in range(size):
        rows[label][label], rows[label][(label + 1) % size] = label, 50 - label
    return record_of(rows)


def test_the_worst_come_first_and_classes_without_images_not_at_all():
    head, *rows = classes.worst_classes(ANIMALS)
    assert head == ["Class", "Images", "Top-1 (%)", "Most often taken for"]
    assert rows == [["<dog>", "10", "30.0", "eel (6)"], ["cat", "10", "80.0", "<dog> (2)"]]
    assert classes.commonest_confusions(ANIMALS)[1:] == [
        ["<dog>", "eel", "6"],
        ["cat", "<dog>", "2"],
        ["<dog>", "cat", "1"],
    ]


def test_seeds_are_pooled_by_their_images():
    other = record_of([[5, 5, 0], [0, 10, 0], [0, 0, 0]], ["cat", "<dog>", "eel"], error=7.5)
    pooled = classes.pool([ANIMALS, other])
    expected = record_of([[13, 7, 0], [1, 13, 6], [0, 0, 0]], ["cat", "<dog>", "eel"], error=5.0)
    assert pooled["confusion"] == expected["confusion"]
    assert pooled["calibration_error"] == 5.0
    for found, each in zip(pooled["classes"], expected["classes"], strict=True):
        assert found["images"] == each["images"]
        assert found["top1"] == (each["top1"] and pytest.approx(each["top1"]))


def test_text_of_few_and_of_many_classes():
    text = classes.classes_text(ANIMALS)
    assert "expected calibration error 2.50 %" in text and "Worst" not in text
    assert text.splitlines()[-3].split() == ["all", "20", "55.0"]
    assert text.endswith("confusions: <dog> as eel (6); cat as <dog> (2); <dog> as cat (1)")
    lines = classes.classes_text(many()).splitlines()
    assert lines[2].startswith("Worst 10 of 30 classes")
    assert [line.split()[:2] for line in lines[4:14]] == [["class", str(i)] for i in range(10)]
    without = {**many(), "confusion": None}
    assert "confusions" not in classes.classes_text(without)


def test_a_name_from_a_file_stays_on_its_line():
    assert "a?b" in classes.classes_text(record_of([[1, 1], [0, 2]], ["a\nb", "c"]))


def write_classes(workdir, records):
    for name, record in records.items():
        (workdir / "trials" / name / "classes.json").write_text(json.dumps(record))


def test_the_report_shows_the_best_points_matrix(sweep, finished):
    """Of the seeds that have one, together; other points have none."""
    workdir = sweep(finished)
    write_classes(
        workdir,
        {f"squeeze_ratio=1.0,seed={seed}": ANIMALS for seed in (0, 2)}
        | {"squeeze_ratio=0.5,seed=0": many()},
    )
    shown = page(workdir)
    assert "squeeze_ratio = 1, 2 seeds together. Expected calibration error: 2.5 %" in shown.text
    assert "<dog>" in shown.text and "dog" not in shown.tags
    styles = [value for value in shown.all("style") if value.startswith("background")]
    assert len(styles) == 5  # cells that are not 0
    assert "60.0" in shown.text and "class 7" not in shown.text


def test_of_many_classes_the_worst_are_shown(sweep, finished):
    workdir = sweep(finished)
    write_classes(workdir, {"squeeze_ratio=1.0,seed=1": many()})
    shown = page(workdir)
    assert "Most often taken for" in shown.text and "Taken for" in shown.text
    assert "class 9" in shown.text and "class 12" not in shown.text
    assert not [value for value in shown.all("style") if value.startswith("background")]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"calibration_error": 1, "classes": [], "confusion": [[0, 1, 2]]}']
)
def test_a_damaged_file_is_one_clear_line(sweep, finished, content):
    workdir = sweep(finished)
    (workdir / "trials/squeeze_ratio=0.5,seed=0/classes.json").write_text(content)
    with pytest.raises(UserError, match="classes.json is damaged") as error:
        Workdir(workdir).read_classes("squeeze_ratio=0.5,seed=0")
    assert "\n" not in str(error.value)
    assert Workdir(workdir).read_classes("squeeze_ratio=0.5,seed=1") is None
