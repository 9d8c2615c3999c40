"""Data that change under a study, and sets smaller than a batch.

What a launch records and which rows it makes is tested without training.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from squeeze_jax import study
from squeeze_jax.configs import base
from squeeze_jax.errors import UserError
from squeeze_jax.report.tables import aggregate
from squeeze_jax.study import Plan, Trial, Workdir, data_versions, runner
from squeeze_jax.study.program_cache import ProgramCache


def make(root: Path, counts: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(
                root / f"{name}/{i}.bmp"
            )
    return root


def plan(workdir: Path, images: Path | str, seeds=1, stages=("one",), **changes) -> Plan:
    config = base.get_config("folder", "test")
    config.stage, config.seeds = "", seeds
    config.model.update(base_e=8, incr_e=8, conv1_filters=8, num_fire=2, pool_after=("conv1",))
    config.data.update(data_dir=str(images), resize=16, image_size=16)
    config.train.update(steps=1, batch_size=8, warmup=0.0)
    new_data = changes.pop("new_data", False)
    config.update_from_flattened_dict(changes)

    def points(config):
        for stage in stages:
            for seed in range(config.seeds):
                yield {"stage": stage, "seed": seed}

    def derive(config):
        if config.stage == "two":
            config.train.init_from = f"trial:stage=one,seed={config.seed}"

    trials = study.make_trials(config, points, derive=derive)
    return Plan(config, trials, workdir, "test", new_data=new_data)


def names(workdir: Path) -> list[str]:
    return [row["trial"] for row in Workdir(workdir).read_rows()]


@pytest.fixture
def untrained(monkeypatch):
    """Trials end without being trained."""
    monkeypatch.setattr(ProgramCache, "get", lambda *_: None)
    monkeypatch.setattr(
        runner, "train", lambda *_, **__: {"status": "ok", "top1": 50.0, "top5": 100.0}
    )


@pytest.fixture
def begun(untrained, tmp_path):
    """A study of one trial on two classes of ten images, which has not finished yet."""
    workdir, images = tmp_path / "work", make(tmp_path / "images", {"a": 10, "b": 10})
    study.run(plan(workdir, images))
    (workdir / "trials/stage=one,seed=0/result.json").unlink()
    return workdir, images


@pytest.mark.parametrize(
    "counts, words",
    [
        ({"a": 15}, "16 train images, now 20, 4 eval images, now 5"),
        ({"zebra": 10}, "class 'zebra' is new, 16 train images, now 24"),
        ({}, "as many images, but other files or other sizes"),
    ],
)
def test_changed_data_are_refused_with_the_difference(begun, counts, words):
    workdir, images = begun
    files = [workdir / "study.json", workdir / "trials/stage=one,seed=0/config.json"]
    before = [file.read_bytes() for file in files]
    make(images, counts)
    (images / "b/3.bmp").rename(images / "b/10.bmp")
    with pytest.raises(UserError) as caught:
        study.run(plan(workdir, images, seeds=2))
    assert words in str(caught.value) and "--new-data" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [file.read_bytes() for file in files] == before


def test_new_data_have_rows_of_their_own(begun):
    workdir, images = begun
    study.run(plan(workdir, images))
    first = Workdir(workdir).read_result("stage=one,seed=0")
    make(images, {"a": 15})
    two_stages = dict(seeds=2, stages=("one", "two"))
    study.run(plan(workdir, images, new_data=True, **two_stages))
    later = [f"stage={stage},seed={seed},data=2" for stage in ("one", "two") for seed in (0, 1)]
    assert names(workdir) == ["stage=one,seed=0", *later]
    assert [row["data"] for row in Workdir(workdir).read_rows()] == [1, 2, 2, 2, 2]
    assert Workdir(workdir).read_result("stage=one,seed=0") == first
    assert not Workdir(workdir).counts().keys() & {"failed", "pending"}
    Workdir(workdir).write_table()
    points = aggregate(Workdir(workdir).read_trials())
    assert [(point.design, len(point.trials)) for point in points] == [
        ({"stage": "one", "data": 1}, 1),
        ({"stage": "one", "data": 2}, 2),
        ({"stage": "two", "data": 2}, 2),
    ]
    study.run(plan(workdir, images, **two_stages))  # known by now: no flag is needed
    assert names(workdir) == ["stage=one,seed=0", *later]
    for number in range(10, 15):
        (images / f"a/{number}.bmp").unlink()
    study.run(plan(workdir, images, seeds=2))  # the first version again
    assert names(workdir) == [*later, "stage=one,seed=0", "stage=one,seed=1"]


def test_trials_beyond_a_budget_leave_the_table_with_their_data():
    small, large = {"data.image_size": 16}, {"data.image_size": 24}
    versions = [
        {"overrides": overrides, "version": version}
        for overrides, version in ((small, 1), (large, 1), (large, 2))
    ]
    current = [Trial("small", small, ConfigDict())]
    found = [
        data_versions.is_current({"overrides": overrides, "data": data}, current, versions)
        for overrides, data in ((small, 1), (large, 2), (large, 1))
    ]
    assert found == [True, True, False]  # the last is of older data, and stays


def test_a_study_of_an_older_program_records_its_data(begun):
    workdir, images = begun
    record = json.loads((workdir / "study.json").read_text())
    versions = record.pop("data")
    (workdir / "study.json").write_text(json.dumps(record))
    study.run(plan(workdir, images))
    assert json.loads((workdir / "study.json").read_text())["data"] == versions
    (version,) = versions
    assert version["class_names"] == ["a", "b"]
    assert version["images"] == {"train": 16, "eval": 4}


def test_a_folder_may_move_and_be_named_from_elsewhere(begun, monkeypatch, tmp_path):
    workdir, images = begun
    monkeypatch.chdir(tmp_path)
    study.run(plan(workdir, "images"))
    config = json.loads((workdir / "trials/stage=one,seed=0/config.json").read_text())
    assert config["data"]["data_dir"] == str(images)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    study.run(plan(workdir, "images", seeds=2))  # there is none here
    images.rename(tmp_path / "moved")
    study.run(plan(workdir, tmp_path / "moved", seeds=3))
    assert len(names(workdir)) == 3 and Workdir(workdir).counts().keys() <= {"ok", "chance"}


def test_a_batch_is_lowered_to_the_set(untrained, tmp_path, capsys):
    images = make(tmp_path / "images", {"a": 4, "b": 4})
    study.run(plan(tmp_path / "work", images, **{"train.batch_size": 32}))
    line = "train.batch_size 32 is larger than the 6 training images; lowered to 6"
    assert capsys.readouterr().err.splitlines().count(line) == 1
    config = json.loads((tmp_path / "work/trials/stage=one,seed=0/config.json").read_text())
    assert config["train"]["batch_size"] == 6


def test_no_batch_fits_fewer_images_than_micro_batches(tmp_path):
    images = make(tmp_path / "images", {"a": 2, "b": 2})
    changes = {"train.batch_size": 32, "train.grad_accum_steps": 4}
    with pytest.raises(UserError, match="larger than the 2 training images; they are fewer than"):
        study.run(plan(tmp_path / "work", images, **changes))


@pytest.mark.slow
def test_the_test_set_is_reported_apart(tmp_path):
    for split, count in (("train", 8), ("valid", 2), ("test", 3)):
        make(tmp_path / "images" / split, {"a": count, "b": count})
    study.run(plan(tmp_path / "work", tmp_path / "images"))
    (row,) = Workdir(tmp_path / "work").read_rows()
    assert row["top1"] in (0, 25, 50, 75, 100)
    assert round(row["test_top1"] * 6 / 100, 6) in range(7) and row["test_top5"] == 100
