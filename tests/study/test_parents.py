"""Trials that need the networks of two earlier ones: to start from, and to learn from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from squeeze_jax import study
from squeeze_jax.data import open_data
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, build_model, split_model
from squeeze_jax.study import Plan, Workdir, preflight, program_cache
from squeeze_jax.study.trials import PARENTS
from squeeze_jax.train import open_once
from squeeze_jax.train.checkpoint import save_network
from tests.study.staged import staged_config

STAGES = ("dense", "wide", "taught")
DENSE, WIDE, TAUGHT = ([f"stage={stage},seed={seed}" for seed in range(2)] for stage in STAGES)


def config_of(**changes):
    """Three stages; see `staged_config`."""
    return staged_config("parents", steps=44, **changes)


def points(config):
    for stage in STAGES:
        for seed in range(config.seeds):
            yield {"stage": stage, "seed": seed}


def derive(config):
    if config.stage == "wide":
        config.model.base_e = 40
    if config.stage == "taught":
        config.train.update(
            init_from=f"trial:stage=dense,seed={config.seed}",
            teacher=f"trial:stage=wide,seed={config.seed}",
            steps=4,
        )


def trials(config, derive=derive):
    return study.make_trials(config, points, derive=derive)


def run(workdir, config=None):
    config = config or config_of()
    return study.run(Plan(config, trials(config), workdir, "test"))


def timeless(workdir):
    """Every trial's result without what a clock says."""
    results = {name: Workdir(workdir).read_result(name) for name in DENSE + WIDE + TAUGHT}
    return {
        name: {key: value for key, value in result.items() if "second" not in key}
        for name, result in results.items()
        if result
    }


def again(workdir, *names):
    """As if these trials had never been started."""
    for name in names:
        shutil.rmtree(Workdir(workdir).trial_directory(name))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The workdir of the study; it was built with one program a design."""
    workdir, built = tmp_path_factory.mktemp("parents") / "trained", []
    with pytest.MonkeyPatch.context() as patch:
        build = program_cache.compile_trial
        patch.setattr(
            program_cache, "compile_trial", lambda *arguments: built.append(1) or build(*arguments)
        )
        assert run(workdir) == {"ok": 6}
    assert len(built) == 3
    return workdir


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A copy to spoil, whose taught trials are still to be trained."""
    copy = Path(shutil.copytree(trained, tmp_path / "copied"))
    again(copy, *TAUGHT)
    return copy


def test_both_are_named_by_their_keys():
    taught = {trial.name: trial.parents for trial in trials(config_of())}
    assert taught[TAUGHT[1]] == {"train.init_from": DENSE[1], "train.teacher": WIDE[1]}
    assert taught[DENSE[1]] == taught[WIDE[1]] == {}


def test_a_teacher_comes_before_its_pupils():
    def later(config):
        if config.stage == "dense":
            config.train.teacher = f"trial:stage=wide,seed={config.seed}"

    words = "stage=dense,seed=0 learns from trial:stage=wide,seed=0: which comes later"
    with pytest.raises(UserError, match=words):
        trials(config_of(), later)


def test_without_either_a_trial_is_left_out_of_the_budget():
    named = trials(config_of())
    costs = {
        trial.name: {"params": 9 if trial.name in (DENSE[0], WIDE[1]) else 1} for trial in named
    }
    kept = preflight._within_budget(named, costs, config_of(**{"budget.max_params": 5}).budget)
    assert [trial.name for trial in kept] == [DENSE[1], WIDE[0]]


def test_a_teacher_of_other_images_is_told_before_anything_is_trained(tmp_path):
    def smaller(config):
        derive(config)
        if config.stage == "wide":
            config.data.update(image_size=28)

    problems = problems_of(config_of(), smaller)
    assert problems.keys() == set(TAUGHT)
    words = f"teacher {WIDE[0]} was trained on another part of each picture, data.image_size 28"
    assert words in problems[TAUGHT[0]]


@pytest.mark.slow
def test_a_later_launch_trains_the_same(trained, copied):
    """What it learns, it learns from the checkpoints: they are all that is left of the parents."""
    assert run(copied) == {"ok": 6}
    assert timeless(copied) == timeless(trained)
    changed = config_of(**{"train.teacher_weight": 0.0})
    again(copied, *TAUGHT)
    (copied / "study.json").unlink()
    assert run(copied, changed)["ok"] == 6
    assert timeless(copied)[TAUGHT[0]]["loss"] != timeless(trained)[TAUGHT[0]]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("parent", [DENSE[0], WIDE[0]])
def test_it_waits_for_each_and_fails_with_the_reason(copied, parent):
    workdir, verb = Workdir(copied), "starts" if parent in DENSE else "learns"
    good = workdir.read_result(parent)
    workdir.forget_result(parent)
    with workdir.claim(parent):  # another launcher trains it
        assert run(copied) == {"pending": 2, "ok": 4}
    workdir.write_result(parent, good | {"status": "diverged"})
    assert run(copied) == {"diverged": 1, "ok": 4, "failed": 1}
    reason = workdir.read_result(TAUGHT[0])["reason"]
    assert reason == f"it {verb} from {parent}, which is diverged"
    workdir.write_result(parent, good)
    assert run(copied) == {"ok": 6}


@pytest.mark.slow
def test_it_waits_for_one_that_failed_before_and_is_tried_again(copied):
    """Also where a job begins behind it in the list."""
    workdir = Workdir(copied)
    again(copied, DENSE[0])
    for name in (DENSE[0], TAUGHT[0]):
        workdir.write_result(name, {"status": "failed", "reason": "the disk was full"})
    plan = Plan(config_of(), trials(config_of()), copied, "test")
    assert study.run(plan, job=(1, 2)) == {"ok": 6}


@pytest.mark.slow
def test_a_damaged_teacher_fails_its_pupil_alone(copied):
    record = Workdir(copied).trial_directory(WIDE[0]) / "config.json"
    record.write_text(
        json.dumps(json.loads(record.read_text()) | {"class_names": list("abcdefghij")})
    )
    assert run(copied) == {"ok": 5, "failed": 1}
    assert (
        "classes that the network does not know" in Workdir(copied).read_result(TAUGHT[0])["reason"]
    )


def test_other_versions_of_the_data_have_parents_of_their_own():
    from squeeze_jax.study.data_versions import _numbered

    named = trials(config_of())
    for versions in ((2, 2, 2), (1, 2, 2), (2, 1, 1), (1, 1, 1)):
        numbers = dict(zip((DENSE[1], WIDE[1], TAUGHT[1]), versions, strict=True))
        dense, wide, taught = (
            name if number == 1 else f"{name},data={number}" for name, number in numbers.items()
        )
        numbered = _numbered(named[-1], numbers)
        assert (numbered.name, numbered.data) == (taught, versions[-1])
        assert numbered.parents == dict(zip(PARENTS, (dense, wide), strict=True))


def problems_of(config, derive=derive):
    named = trials(config, derive)
    data = {trial.name: open_data(trial.parsed.data) for trial in named}
    return preflight._preflight(named, data, {})[1]


def test_views_are_for_the_trials_with_a_teacher():
    assert problems_of(config_of(**{"train.teacher_views": 2})) == {}
    problems = problems_of(config_of(**{"train.teacher_views": 2, "train.mixup": 0.2}))
    assert problems.keys() == set(TAUGHT)
    assert "train.mixup mixes them" in problems[TAUGHT[0]]


def test_what_needs_a_trial_that_cannot_run_cannot_run():
    def too_large(config):
        derive(config)
        if config.stage == "wide":
            config.model.conv1_kernel = 99

    problems = problems_of(config_of(), too_large)
    assert problems.keys() == {*WIDE, *TAUGHT}
    assert problems[TAUGHT[0]] == f"it needs {WIDE[0]}: {problems[WIDE[0]]}"


def test_a_network_that_was_replaced_is_read_again(tmp_path):
    model = config_of().model.to_dict()
    preprocessing = Preprocessing(32, 32, "squash", "rgb", mean=(0.0,) * 3, std=(1.0,) * 3)

    def save(seed):
        _, params, stats = split_model(build_model(model, 10, seed))
        network = Network(model, tuple("0123456789"), preprocessing, params, stats)
        shutil.rmtree(tmp_path / "net", ignore_errors=True)
        save_network(network, tmp_path / "net")
        return np.asarray(params["conv1"]["kernel"])

    for seed in (0, 1):
        kernel = save(seed)
        preflight.check(Plan(config_of(), trials(config_of())[:1], tmp_path / "run", "test"))
        found = open_once(str(tmp_path / "net")).params["conv1"]["kernel"]
        np.testing.assert_array_equal(found, kernel)
