"""A study in stages, really trained.

Trials that start from others, and nets that are also written in few bytes.
"""

import json
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
import pytest

from squeeze_jax import study
from squeeze_jax.compress.sqz import container
from squeeze_jax.errors import UserError
from squeeze_jax.study import Plan, Workdir, preflight, program_cache, runner, sqz_files
from squeeze_jax.train import Interrupted
from squeeze_jax.train.checkpoint import load_network
from tests.launching import launch
from tests.study.staged import staged_config

CODERS = ("huffman", "arithmetic")
DENSE, COPY = ([f"stage={stage},seed={seed}" for seed in range(2)] for stage in ("dense", "copy"))


def config_of(**changes):
    """Two stages; see `staged_config`."""
    return staged_config("staged", steps=66, **changes)


def points(config):
    for stage in ("dense", "copy"):
        for seed in range(config.seeds):
            yield {"stage": stage, "seed": seed}


def derive(config):
    """The second stage takes a step at rate 0: its weights stay those that it started from."""
    if config.stage == "copy":
        config.train.update(
            init_from=f"trial:stage=dense,seed={config.seed}", learning_rate=0.0, steps=1
        )


def run(workdir, config):
    return study.run(
        Plan(config, study.make_trials(config, points, derive=derive), workdir, "test")
    )


def result(workdir, name):
    return Workdir(workdir).read_result(name)


def timeless(workdir):
    """Every trial's result without what a clock says."""
    return {
        name: {key: value for key, value in result(workdir, name).items() if "second" not in key}
        for name in DENSE + COPY
    }


def folder(workdir, name):
    return Workdir(workdir).trial_directory(name)


def again(workdir, *names):
    """As if these trials had never been started."""
    for name in names:
        shutil.rmtree(folder(workdir, name))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The workdir of the study, run without compression."""
    workdir = tmp_path_factory.mktemp("stages") / "trained"
    assert run(workdir, config_of()) == {"ok": 4}
    return workdir


@pytest.fixture(scope="module")
def compressed(trained) -> Path:
    """A copy of it, completed by a launch that asks for files."""
    workdir = trained.with_name("compressed")
    shutil.copytree(trained, workdir)
    assert run(workdir, config_of(**{"compress.coders": CODERS})) == {"ok": 4}
    return workdir


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "copied"))


# ---------------------------------------------------------------- stages


@pytest.mark.slow
def test_each_seed_starts_from_its_own_dense_net(trained):
    nets = {name: load_network(folder(trained, name)) for name in DENSE + COPY}
    for dense, copy in zip(DENSE, COPY, strict=True):
        jax.tree.map(np.testing.assert_array_equal, nets[dense].params, nets[copy].params)
    first, second = (nets[name].params["conv1"]["kernel"] for name in DENSE)
    assert np.abs(first - second).max() > 0.01
    assert [result(trained, name)["steps"] for name in DENSE + COPY] == [66, 66, 1, 1]


@pytest.mark.slow
def test_seeds_of_a_stage_share_a_program(trained, copied, monkeypatch):
    built, build = [], program_cache.compile_trial
    monkeypatch.setattr(
        program_cache, "compile_trial", lambda *arguments: built.append(1) or build(*arguments)
    )
    again(copied, *COPY)
    assert run(copied, config_of()) == {"ok": 4}
    assert len(built) == 1
    assert timeless(copied) == timeless(trained)


@pytest.mark.slow
def test_interrupted_between_stages_and_resumed(trained, copied, monkeypatch):
    again(copied, *COPY)

    class Stopped(runner.Progress):
        def start_trial(self, name, steps, done=0):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "Progress", Stopped)
        with pytest.raises(Interrupted):
            run(copied, config_of())
    assert [Workdir(copied).status(name) for name in COPY] == ["pending", "pending"]
    assert run(copied, config_of()) == {"ok": 4}
    assert timeless(copied) == timeless(trained)


@pytest.mark.slow
def test_a_trial_whose_start_has_not_learned_fails_until_it_has(copied):
    again(copied, *COPY)
    good = result(copied, DENSE[0])
    Workdir(copied).write_result(DENSE[0], good | {"status": "diverged"})
    assert run(copied, config_of()) == {"diverged": 1, "ok": 2, "failed": 1}
    assert result(copied, COPY[0]) == {
        "status": "failed",
        "reason": "it starts from stage=dense,seed=0, which is diverged",
    }
    Workdir(copied).write_result(DENSE[0], good)
    assert run(copied, config_of()) == {"ok": 4}


@pytest.mark.slow
def test_weights_that_do_not_fit_fail_that_trial_alone(copied):
    """Nothing can know it before the first stage is trained."""
    again(copied, *COPY)
    record = folder(copied, DENSE[0]) / "config.json"
    record.write_text(
        json.dumps(json.loads(record.read_text()) | {"model": {"name": "squeezenet_v1_1"}})
    )
    assert run(copied, config_of()) == {"ok": 3, "failed": 1}
    assert (
        "checkpoint" in result(copied, COPY[0])["reason"]
        and "\n" not in result(copied, COPY[0])["reason"]
    )


@pytest.mark.slow
def test_a_trial_waits_for_the_launcher_that_trains_its_start(copied, monkeypatch):
    """It is pending while that one runs, and starts in the same launch if that one ends."""
    again(copied, *COPY)
    good = result(copied, DENSE[0])
    Workdir(copied).forget_result(DENSE[0])
    with Workdir(copied).claim(DENSE[0]):  # another launcher
        assert run(copied, config_of()) == {"pending": 2, "ok": 2}
    again(copied, COPY[1])
    with ExitStack() as other:
        other.enter_context(Workdir(copied).claim(DENSE[0]))

        class Meanwhile(runner.Progress):
            def finish_trial(self, name, ended):
                Workdir(copied).write_result(DENSE[0], good)
                other.close()

        monkeypatch.setattr(runner, "Progress", Meanwhile)
        assert run(copied, config_of()) == {"ok": 4}


@pytest.mark.slow
def test_a_failed_start_is_pending_while_it_is_tried_again(copied, monkeypatch):
    Workdir(copied).write_result(DENSE[0], {"status": "failed", "reason": "x"})
    seen = []
    monkeypatch.setattr(
        runner,
        "train",
        lambda *_, **__: seen.append(Workdir(copied).status(DENSE[0])) or {"status": "chance"},
    )
    run(copied, config_of())
    assert seen == ["pending"]


def test_a_start_over_the_budget_leaves_its_followers_out(capsys):
    trials = study.make_trials(config_of(), points, derive=derive)
    costs = {trial.name: {"params": 9 if trial.name == DENSE[0] else 1} for trial in trials}
    budget = config_of(**{"budget.max_params": 5}).budget
    assert [trial.name for trial in preflight._within_budget(trials, costs, budget)] == [
        DENSE[1],
        COPY[1],
    ]
    assert f"left out: {DENSE[0]}, {COPY[0]}" in capsys.readouterr().err


def test_a_study_whose_derive_changed_is_refused(copied):
    def other(config):
        derive(config)
        if config.stage == "copy":
            config.train.steps = 2

    config = config_of()
    with pytest.raises(
        UserError,
        match="another stage=copy,seed=0: train.steps was 1, is 2; give another folder",
    ):
        study.run(Plan(config, study.make_trials(config, points, derive=other), copied, "test"))


@pytest.mark.slow
def test_launch_passes_derive_what_the_command_line_set(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(
        "from squeeze_jax.configs import base\n\n\n"
        "def get_config(preset='digits'):\n    return base.get_config(preset, 'x')\n\n\n"
        "def sweep(config):\n    yield {'seed': 0}\n\n\n"
        "def derive(config):\n    config.train.momentum = 0.5\n"
    )
    process = launch(str(path), "--config.train.momentum=0.7", f"--workdir={tmp_path / 'work'}")
    assert process.returncode == 2
    assert process.stderr == (
        "error: derive() makes train.momentum 0.5 for seed=0, "
        "but it is set on the command line: 0.7\n"
    )


# ---------------------------------------------------------------- compression


def test_trained_trials_are_completed_without_training(trained, compressed):
    for name in DENSE + COPY:
        before, after = result(trained, name), result(compressed, name)
        assert after.keys() - before.keys() == {"bytes_huffman", "bytes_arithmetic", "sqz_top1"}
        assert before.items() <= after.items()  # its seconds too
        logs = [folder(workdir, name) / "metrics.jsonl" for workdir in (trained, compressed)]
        assert logs[0].read_text() == logs[1].read_text()


@pytest.mark.parametrize("coder", CODERS)
def test_files_hold_the_checkpoint_bit_for_bit(compressed, coder):
    for name in DENSE + COPY:
        path = folder(compressed, name) / f"net.{coder}.sqz"
        assert result(compressed, name)[f"bytes_{coder}"] == path.stat().st_size > 0
        found, kept = container.read(path.read_bytes()), load_network(folder(compressed, name))
        jax.tree.map(
            np.testing.assert_array_equal, (found.params, found.stats), (kept.params, kept.stats)
        )
        assert found.class_names == kept.class_names and found.preprocessing == kept.preprocessing


def test_what_is_read_back_is_as_accurate(compressed):
    for name in DENSE + COPY:
        assert result(compressed, name)["sqz_top1"] == pytest.approx(
            result(compressed, name)["top1"], abs=1e-6
        )


def test_columns_only_where_asked_for(trained, compressed):
    before, after = (
        (workdir / "sweep.csv").read_text().partition("\n")[0].split(",")
        for workdir in (trained, compressed)
    )
    assert [name for name in after if name not in before] == [
        "bytes_huffman",
        "bytes_arithmetic",
        "sqz_top1",
    ]
    assert [name for name in before if name not in after] == []


@pytest.mark.slow
def test_a_net_that_can_not_be_compressed_fails_nothing_else(trained, copied, monkeypatch):
    config = config_of(**{"compress.coders": ("huffman",)})
    again(copied, COPY[1])

    def refused(*arguments):
        raise UserError("no file can hold it")

    with monkeypatch.context() as patch:
        patch.setattr(sqz_files, "encode", refused)
        assert run(copied, config) == {"ok": 4}
    for name in DENSE + COPY:
        assert result(copied, name)["reason"] == "not compressed: no file can hold it"
        assert result(copied, name)["top1"] == result(trained, name)["top1"]
    assert run(copied, config) == {"ok": 4}
    assert all(
        "bytes_huffman" in result(copied, name) and "reason" not in result(copied, name)
        for name in DENSE + COPY
    )


@pytest.mark.slow
def test_lossy_files_are_smaller_and_nearly_as_accurate(compressed, copied):
    """A trained study is compressed again, and what was measured of other files is gone."""
    changes = {"compress.coders": ("arithmetic",), "seeds": 1}

    def compressed_again(max_loss):
        config = config_of(**changes, **{"compress.max_loss": max_loss})
        trials = study.make_trials(config, lambda config: [{"stage": "dense", "seed": 0}])
        assert study.run(Plan(config, trials, copied, "test")) == {"ok": 1}
        return result(copied, DENSE[0])

    assert run(copied, config_of(**{"compress.coders": CODERS})) == {"ok": 4}
    lossless = result(compressed, DENSE[0])
    assert result(copied, DENSE[0]) == lossless
    lossy = compressed_again(0.001)
    assert lossy["bytes_arithmetic"] < 0.3 * lossless["bytes_arithmetic"]
    assert lossy["sqz_top1"] == pytest.approx(lossy["top1"], abs=3)
    assert lossy["sqz_max_loss"] == 0.001 and "bytes_huffman" not in lossy
    assert compressed_again(0.1)["bytes_arithmetic"] < lossy["bytes_arithmetic"]
    assert compressed_again(None) == {k: v for k, v in lossless.items() if k != "bytes_huffman"}


def test_compression_stops_when_asked_to(copied, monkeypatch):
    class Stopped(runner.Progress):
        def start_trial(self, name, steps, done=0):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(runner, "Progress", Stopped)
    with pytest.raises(Interrupted):
        run(copied, config_of(**{"compress.coders": ("huffman",)}))
    assert not list(copied.glob("trials/*/*.sqz"))
    assert all(Workdir(copied).status(name) == "ok" for name in DENSE + COPY)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"compress.coders": ("huffman", "zip")},
            "compress.coders: 'zip' is none of arithmetic, huffman",
        ),
        ({"compress.max_loss": 0.0}, "compress.max_loss is above 0; got 0.0"),
    ],
)
def test_settings_that_can_not_be_meant_are_told_before_anything_is_written(
    tmp_path, changes, words
):
    with pytest.raises(UserError, match=words):
        run(tmp_path / "work", config_of(**changes))
    assert not (tmp_path / "work").exists()
