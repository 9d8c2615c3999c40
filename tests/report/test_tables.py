import dataclasses
import json
import random

import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.report.page import best_point
from squeeze_jax.report.statistics import Interval
from squeeze_jax.report.tables import (
    Point,
    aggregate,
    cost_columns,
    markdown,
    pareto_front,
    point_table,
)
from squeeze_jax.study import Workdir
from squeeze_jax.study.records import TrialRecord


def read(workdir):
    return Workdir(workdir).read_record(), aggregate(Workdir(workdir).read_trials())


def test_points_keep_the_order_and_average_the_seeds(sweep, finished):
    _, points = read(sweep(finished))
    assert [point.design for point in points] == [
        {"model.squeeze_ratio": value} for value in (0.125, 0.5, 1.0)
    ]
    assert [point.interval("top1").mean for point in points] == [80.0, 95.0, 97.0]
    assert points[0].interval("loss").errors == (0, 0)


def test_collapsed_seeds_are_counted_not_averaged(sweep, troubled):
    _, (first, second, third) = read(sweep(troubled))
    assert first.interval("top1").mean == 80.0  # of 79 and 81, without the 10 of chance
    assert (first.count("ok"), first.count("chance", "diverged")) == (2, 1)
    assert second.interval("top1") == Interval(95.0)
    assert (second.count("ok"), second.count("diverged"), second.count("failed")) == (1, 1, 1)
    assert third.interval("top1") is None and third.interval("seconds") is None
    assert third.constant("params") == 3000
    assert third.count("pending") == 1


def test_a_study_without_results_is_pending(sweep):
    workdir = sweep({})
    (workdir / "sweep.csv").unlink()
    study, points = read(workdir)
    assert [point.count("pending") for point in points] == [3, 3, 3]
    assert point_table(study, points)[1] == ["0.125", "0", "0", "0", "0", "3"]


def test_a_key_a_trial_does_not_override_has_the_configs_value(sweep, finished):
    workdir = sweep(finished)
    raw = json.loads((workdir / "study.json").read_text())
    raw["swept"].append("model.bypass")
    (workdir / "study.json").write_text(json.dumps(raw))
    assert {trial.design["model.bypass"] for trial in Workdir(workdir).read_record().trials} == {
        "none"
    }


def test_table(sweep, troubled):
    head, *rows = point_table(*read(sweep(troubled)))
    assert head == [
        *("Squeeze ratio (SR)", "Top-1 (%)", "Top-5 (%)", "Loss"),
        *("Seeds", "Collapsed", "Stopped", "Failed", "Pending"),
        *("Parameters", "Size (MiB)", "Seconds", "latency ms"),
    ]
    assert rows[0] == [
        "0.125",
        "80.0 +9.8 −15.6, n = 2 (1 left out)",
        "81.0 +9.7 −15.9, n = 2 (1 left out)",
        "0.500 ± 0.000, n = 2 (1 left out)",
        "2",
        "1",
        "0",
        "0",
        "0",
        "1,000",
        "1",
        "11.0",
        "7",
    ]
    assert rows[2] == ["1", "–", "–", "–", "0", "2", "0", "0", "1", "3,000", "3", "–", "–"]


def test_compressed_bytes_are_a_cost_that_differs_from_seed_to_seed(stages):
    study, points = read(stages)
    assert [point.representative("bytes_arithmetic") for point in points] == [
        9010,
        3010,
        1005,
    ]  # means, of those that could be coded
    assert cost_columns(points, "top1") == ["bytes_arithmetic"]  # the size is every stage's
    assert [
        point.design["stage"] for point in pareto_front(points, "bytes_arithmetic", "top1")
    ] == ["shared"]
    head, *rows = point_table(study, points)
    cells = [row[head.index("Arithmetic-coded (bytes)")] for row in rows]
    assert cells == [
        "9,010 ± 25",
        "3,010 ± 25",
        "1,005 ± 64, n = 2",
    ]  # t(2) 10/sqrt(3), t(1) sqrt(50)/sqrt(2)


def test_costs_of_points_that_learned_nothing_weigh_nothing(sweep):
    _, points = read(sweep({(0, 0): ("ok", 90.0), (1, 0): ("chance", 10.0)}))
    assert cost_columns(points, "top1") == []
    _, points = read(sweep({(0, 0): ("ok", 90.0), (1, 0): ("ok", 80.0)}))
    assert cost_columns(points, "top1") == ["model_mb"]


def test_markdown():
    assert (
        markdown([["a", "b"], ["1", "x | y\nz"]]) == "| a | b |\n| --- | --- |\n| 1 | x \\| y z |\n"
    )


def test_curve_merges_a_step_and_ignores_the_line_being_written(sweep, finished):
    workdir = sweep(finished)
    name = Workdir(workdir).read_record().trials[0].name
    path = workdir / "trials" / name / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 10, "epoch": 2.0, "loss": 0.5}\n{"step": 15, "ep')
    assert Workdir(workdir).read_curve(name) == [
        {"step": 5, "epoch": 1.0, "loss": 2.0, "eval_loss": 2.0, "top1": 39.5},
        {"step": 10, "epoch": 2.0, "loss": 0.5, "eval_loss": 1.0, "top1": 79.0},
    ]
    assert Workdir(workdir).read_curve("no such trial") == []
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged: line 6 is no record of a step"):
        Workdir(workdir).read_curve(name)


def test_a_long_curve_is_sampled_and_keeps_its_evaluations(sweep, finished):
    workdir = sweep(finished)
    name = Workdir(workdir).read_record().trials[0].name
    lines = [{"step": step, "loss": 1.0, "train_top1": 9.0} for step in range(1, 1001)]
    lines += [{"step": step, "top1": 50.0} for step in range(100, 1001, 100)]
    lines.sort(key=lambda line: line["step"])
    path = workdir / "trials" / name / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = Workdir(workdir).read_curves([name], at_most=20)[name]
    assert [entry["step"] for entry in curve if "top1" in entry] == [*range(100, 1001, 100)]
    steps = [entry["step"] for entry in curve if "loss" in entry]
    assert len(steps) == 20 and steps[0] == 1 and steps[-1] == 1000
    assert max(b - a for a, b in zip(steps, steps[1:], strict=False)) <= 54
    assert len(Workdir(workdir).read_curves([name], at_most=2000)[name]) == 1000


def test_no_study(tmp_path):
    with pytest.raises(UserError, match="is not a sweep's workdir: it has no study.json"):
        Workdir(tmp_path).read_record()


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"study": "x", ', "study.json is damaged: "),
        ("[]", "study.json is damaged: "),
        ('{"report": {}, "swept": []}', "study.json is incomplete: no 'study'"),
        (b"\xff\xfe", "study.json is damaged: "),
    ],
)
def test_damaged_study(tmp_path, content, message):
    (tmp_path / "study.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    with pytest.raises(UserError, match=message):
        Workdir(tmp_path).read_record()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda text: "", "cut short"),
        (lambda text: text[:-9], "cut short"),
        (lambda text: text[: text.rindex(",1000,")] + "\r\n", "line 4 has not as many cells"),
        (
            lambda text: text.replace("ok", "fine", 1),
            "line 2: status 'fine' is none of ok, diverged",
        ),
        (
            lambda text: text.replace("79.0", "7q", 1),
            "line 2: could not convert string to float: '7q'",
        ),
        (
            lambda text: text.replace("squeeze_ratio=0.125,seed=1", "stranger", 1),
            "line 3: 'stranger' is no trial of study.json",
        ),
        (lambda text: text + '"open', "cut short"),
        (lambda text: text + '"open\n', "unexpected end of data"),
    ],
)
def test_damaged_results(sweep, finished, damage, message):
    workdir = sweep({key: value for key, value in finished.items() if key[0] == 0})
    path = workdir / "sweep.csv"
    path.write_bytes(damage(path.read_bytes().decode()).encode())
    with pytest.raises(
        UserError,
        match=f"sweep.csv is damaged: {message}|sweep.csv is damaged: the file is {message}",
    ):
        Workdir(workdir).read_trials()


@pytest.mark.parametrize(("metric", "sign"), [("top1", 1), ("loss", -1)])
def test_pareto_front_is_what_no_other_beats(metric, sign):
    """Against the definition, over every pair of points; of loss, less is better."""
    generator = random.Random(0)
    for _ in range(50):
        points = [
            Point(
                {"x": i},
                (
                    TrialRecord(
                        str(i),
                        {"x": i},
                        0,
                        "ok",
                        {"macs": generator.randint(1, 9), metric: generator.randint(1, 9)},
                    ),
                ),
            )
            for i in range(12)
        ]
        place = {
            id(point): (point.constant("macs"), sign * point.interval(metric).mean)
            for point in points
        }
        beaten = {
            id(p)
            for p in points
            for q in points
            if place[id(q)] != place[id(p)]
            and place[id(q)][0] <= place[id(p)][0]
            and place[id(q)][1] >= place[id(p)][1]
        }
        front = pareto_front(points, "macs", metric)
        assert {place[id(p)] for p in front} == {
            place[id(p)] for p in points if id(p) not in beaten
        }


@pytest.mark.parametrize(("metric", "best"), [("top1", 2.0), ("loss", 0.3)])
def test_the_best_point_has_the_best_metric(sweep, metric, best):
    study = dataclasses.replace(Workdir(sweep({})).read_record(), metric=metric)
    points = [Point({"x": x}, (TrialRecord("", {}, 0, "ok", {metric: x}),)) for x in (0.3, 2.0)]
    assert best_point(study, points).design == {"x": best}


def test_collapsed_points_are_on_no_front():
    point = Point({}, (TrialRecord("a", {}, 0, "chance", {"macs": 1.0, "top1": 10.0}),))
    assert pareto_front([point], "macs", "top1") == []
