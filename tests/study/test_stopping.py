"""A study whose trials are stopped early: promoted, killed, resumed, and shared by launchers."""

import json
import os
import shutil

import pytest

from squeeze_jax import study
from squeeze_jax.errors import UserError
from squeeze_jax.report import page, spaces
from squeeze_jax.study import Plan, Workdir, runner
from squeeze_jax.train import Interrupted, loop
from tests.launching import NET, completed, rows
from tests.study.staged import staged_config

pytestmark = pytest.mark.slow

RUNGS, STEPS = (8, 16), 32
WIDTHS = (16, 8, 32, 24)


def config_of(**stopping):
    keys = {"train.log_every": 8, "compress.coders": ("arithmetic",)}
    config = staged_config("stopping", steps=STEPS, **keys)
    config.stopping.update({"rungs": RUNGS, "reduction_factor": 2} | stopping)
    return config


def sweep(config):
    for width in WIDTHS:
        for seed in range(config.seeds):
            yield {"model.base_e": width, "seed": seed}


def plan(workdir, **stopping):
    config = config_of(**stopping)
    return Plan(config, study.make_trials(config, sweep), workdir, "test")


def timeless(workdir):
    """Every trial's result without what a clock says."""
    names = [trial.name for trial in Workdir(workdir).read_record().trials]
    return {
        name: {key: value for key, value in result.items() if "second" not in key}
        for name, result in Workdir(workdir).read_results(names).items()
        if result
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All trials trained to their end."""
    workdir = tmp_path_factory.mktemp("whole")
    study.run(plan(workdir))
    return timeless(workdir)


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("halved")
    assert study.run(plan(workdir, scheduler="successive_halving")) == {"ok": 2, "stopped": 6}
    return workdir


def test_half_of_the_designs_go_on_from_their_checkpoints(halved, whole):
    results = timeless(halved)
    assert sorted(result["steps"] for result in results.values()) == [8] * 4 + [16] * 2 + [32] * 2
    finished = [name for name, result in results.items() if result["status"] == "ok"]
    assert len({name.partition(",")[0] for name in finished}) == 1  # both seeds of one design
    for name in finished:
        rungs = results[name].pop("rungs")
        assert [rung["steps"] for rung in rungs] == list(RUNGS)
        assert results[name] == whole[name], "a stop at a rung changes nothing"


def test_the_best_at_each_rung_went_on(halved):
    results = timeless(halved)

    def mean(width, rung):
        values = [
            results[f"base_e={width},seed={seed}"]["rungs"][rung]["top1"] for seed in range(2)
        ]
        return sum(values)

    entered = list(WIDTHS)
    for rung in range(2):
        ranked = sorted(entered, key=lambda width, rung=rung: -mean(width, rung))
        entered = ranked[: len(ranked) // 2]
    assert {name for name, result in results.items() if result["status"] == "ok"} == {
        f"base_e={entered[0]},seed={seed}" for seed in range(2)
    }


def test_killed_anywhere_and_resumed_it_is_as_untouched(halved, tmp_path, monkeypatch):
    """Asked to stop at step 11 of some trial, and between a rung's checkpoint and its result."""
    workdir, train = tmp_path / "run", loop.train
    launches = 0

    def killed(*arguments, **options):
        nonlocal launches
        launches += 1
        if launches == 3:
            train(*arguments, **options)  # its result is lost
            raise Interrupted(9)
        asked = options["asked_to_stop"]
        options["asked_to_stop"] = lambda step: 15 if step == 11 and launches % 2 else asked(step)
        return train(*arguments, **options)

    monkeypatch.setattr(runner, "train", killed)
    for _ in range(40):
        try:
            study.run(plan(workdir, scheduler="successive_halving"))
            break
        except Interrupted:
            launches += 1
    monkeypatch.undo()
    study.run(plan(workdir, scheduler="successive_halving"))
    assert timeless(workdir) == timeless(halved)


def test_without_the_scheduler_the_others_are_trained_to_their_end(halved, whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(halved, workdir)
    assert "stopped" not in study.run(plan(workdir))
    for name, result in timeless(workdir).items():
        assert {key: result[key] for key in whole[name]} == whole[name]


def test_other_rungs_are_another_study(halved):
    with pytest.raises(UserError, match="stopping.rungs was"):
        study.run(plan(halved, scheduler="asha", rungs=(4, 16)))
    with pytest.raises(UserError, match="stopping.reduction_factor was"):  # rungs follow from it
        study.run(plan(halved, scheduler="asha", reduction_factor=3))


def test_the_table_and_the_report_tell_who_was_stopped(halved):
    Workdir(halved).write_table()
    found = rows(halved)
    assert [row["status"] for row in found].count("stopped") == 6
    assert {row["steps"] for row in found if row["status"] == "stopped"} == {"8", "16"}
    page.draw(halved)
    assert "6 stopped early" in (halved / "report.html").read_text()


def test_spaces_are_compared_at_a_rung(halved):
    workdir = Workdir(halved)
    results = timeless(halved)
    for rung, step in enumerate(RUNGS):
        there = [result for result in results.values() if len(result["rungs"]) > rung]
        space = spaces.read_space(workdir, {}, steps=step)
        assert len(space.points) == len(there) // 2 and space.steps == {step}
        assert 100 - space.errors.mean() == pytest.approx(
            sum(result["rungs"][rung]["top1"] for result in there) / len(there)
        )
    assert len(spaces.read_space(workdir, {}).points) == 1
    assert len(spaces.read_space(workdir, {}, steps=STEPS).points) == 1


def test_trials_that_need_each_other_are_not_stopped(tmp_path):
    config = config_of(scheduler="asha")
    with pytest.raises(UserError, match="which stopping.scheduler may stop early"):
        trials = study.make_trials(
            config,
            lambda config: [
                {"seed": 0, "train.init_from": ""},
                {"seed": 1, "train.init_from": "trial:seed=0,init_from="},
            ],
        )
        study.run(Plan(config, trials, tmp_path, "test"))


FLAGS = (
    "configs/bypass_sweep.py",  # of three designs
    *(f"--config.{setting}" for setting in (*NET, "train.batch_size=16", "train.steps=12")),
    "--config.train.eval_every=0",
    "--config.seeds=1",
    "--config.stopping.rungs=(4,)",
    "--config.stopping.scheduler=successive_halving",
    "--config.stopping.reduction_factor=2",
)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_every_executor_stops_the_same_trials(tmp_path, cache):
    def table(name, *flags):
        workdir = tmp_path / name
        completed(*FLAGS, cache, f"--workdir={workdir}", *flags)
        kept = ("trial", "status", "steps")
        return [{key: row[key] for key in kept} for row in rows(workdir)], [
            json.loads((workdir / "trials" / row["trial"] / "result.json").read_text())["rungs"]
            for row in rows(workdir)
        ]

    local, _ = table("local")
    assert [row["status"] for row in local].count("stopped") == 2
    # Ray takes a core a trial and JAX's devices of this test's environment.
    for name, flags in (("jobs", ("--jobs=2",)), ("ray", ("--executor=ray",))):
        found, rungs = table(name, *flags)
        assert [row["steps"] for row in found].count("4") == 2, name
        assert all(rung[0]["steps"] == 4 for rung in rungs)
