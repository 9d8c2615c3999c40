"""The files of a workdir: the table, the lock, and the refusal to mix two configs."""

import csv
import json
import multiprocessing

import pytest

from squeeze_jax.configs import base
from squeeze_jax.cost import design_costs
from squeeze_jax.errors import UserError
from squeeze_jax.study import Workdir, make_trials


@pytest.fixture
def study(tmp_path):
    """An opened workdir with two trials."""
    config = base.get_config("digits", "sr_sweep")
    config.report.x = "model.squeeze_ratio"
    trials = make_trials(
        config, lambda config: [{"model.squeeze_ratio": 0.5, "seed": seed} for seed in range(2)]
    )
    costs = {trial.name: design_costs(trial.config.model, 10, (32, 32, 3)) for trial in trials}
    Workdir(tmp_path).open_study(config, trials, costs, "python launch.py")
    return tmp_path, config, trials, costs


def rows(workdir):
    with Workdir(workdir).write_table().open() as file:
        return list(csv.DictReader(file))


def test_costs_are_the_papers():
    """v1.0 on ImageNet: the SqueezeNet paper's Table 1 and Fig. 3a."""
    config = base.get_config("imagenet", "x")
    costs = design_costs(config.model, 1000, (227, 227, 3))
    assert (costs["params"], costs["macs"], costs["model_mb"]) == (1_248_424, 832_667_936, 4.7624)
    # arXiv 1803.10615, Table 3 and Fig. 8: 2.59 times 1.245 M cycles, 4.5e9 MACs
    assert costs["cycles"] == pytest.approx(2.59 * 1.245e6, rel=0.1)
    assert costs["energy"] == pytest.approx(4.5e9, rel=0.1)


def test_a_row_a_trial(study):
    workdir, _, trials, costs = study
    Workdir(workdir).write_result(
        trials[1].name,
        {
            "status": "ok",
            "top1": 91.25,
            "top5": 99.0,
            "loss": 0.3,
            "seconds": 9.5,
            "images_per_second": 800.0,
        },
    )
    first, second = rows(workdir)
    assert (first["trial"], first["status"], first["top1"]) == (
        "squeeze_ratio=0.5,seed=0",
        "pending",
        "",
    )
    assert (second["squeeze_ratio"], second["seed"], second["status"], float(second["top1"])) == (
        "0.5",
        "1",
        "ok",
        91.25,
    )
    assert int(second["params"]) == costs[trials[1].name]["params"]
    expected = {
        "trial",
        "squeeze_ratio",
        "seed",
        "status",
        "params",
        "macs",
        "model_mb",
        "top1",
        "top5",
        "seconds",
        "images_per_second",
    }
    assert expected <= second.keys()


def test_a_swept_key_called_as_a_result_has_a_column_of_its_own(tmp_path):
    config = base.get_config("digits", "x")
    config.report.x = "train.steps"
    trials = make_trials(config, lambda config: [{"train.steps": n, "seed": 0} for n in (9, 20)])
    costs = {trial.name: {} for trial in trials}
    workdir = Workdir(tmp_path)
    workdir.open_study(config, trials, costs, "python launch.py")
    workdir.write_result(trials[1].name, {"status": "diverged", "steps": 7})
    found = [(row["train.steps"], row["steps"]) for row in rows(tmp_path)]
    assert found == [("9", ""), ("20", "7")]
    trials = workdir.read_trials()
    assert [trial.measures["steps"] for trial in trials] == [None, 7]
    assert [trial.design for trial in trials] == [{"train.steps": 9}, {"train.steps": 20}]


def test_a_trial_without_costs_leaves_its_cells_empty(study):
    """Whichever trial it is: the first one can't be built here."""
    workdir, config, trials, costs = study
    Workdir(workdir).open_study(
        config,
        trials,
        {trials[0].name: {}, trials[1].name: costs[trials[1].name]},
        "python launch.py",
    )
    first, second = rows(workdir)
    assert (first["params"], first["status"]) == ("", "pending")
    assert int(second["params"]) > 0
    assert list(first)[3:6] == ["status", "params", "macs"]


def test_another_config_is_refused_with_the_difference(study):
    workdir, config, trials, costs = study
    config.train.learning_rate = 0.01
    config.data.mirror = True
    with pytest.raises(
        UserError, match="data.mirror was False, is True.*train.learning_rate was 0.05, is 0.01"
    ):
        Workdir(workdir).open_study(config, trials, costs, "again")
    assert json.loads((workdir / "study.json").read_text())["command"] == "python launch.py"


def test_more_seeds_are_welcome(study):
    workdir, config, _, _ = study
    config.seeds = 5
    trials = make_trials(
        config, lambda config: [{"model.squeeze_ratio": 0.5, "seed": seed} for seed in range(5)]
    )
    Workdir(workdir).open_study(config, trials, {trial.name: {} for trial in trials}, "again")
    assert len(json.loads((workdir / "study.json").read_text())["trials"]) == 5


def test_what_a_result_depends_on_is_recorded(study):
    record = json.loads((study[0] / "study.json").read_text())
    assert (
        record["command"] == "python launch.py" and record["commit"] and "cpu" in record["device"]
    )
    assert {"python", "jax", "flax", "numpy"} <= record["versions"].keys()


def _hold(workdir, got, release):
    with Workdir(workdir).claim("t") as mine:
        got.put(mine is not None)
        release.wait(600)


@pytest.mark.slow
def test_a_trial_belongs_to_one_launcher_until_its_process_ends(tmp_path):
    context = multiprocessing.get_context("spawn")
    got, release = context.Queue(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, got, release))
    other.start()
    assert got.get(timeout=600)
    with Workdir(tmp_path).claim("t") as mine:
        assert not mine
    other.kill()  # not released by the program: the system does it
    other.join(600)
    with Workdir(tmp_path).claim("t") as mine:
        assert mine


def test_a_folder_that_is_no_workdir(tmp_path):
    with pytest.raises(UserError, match="no study.json"):
        Workdir(tmp_path).write_table()
