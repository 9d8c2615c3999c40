"""A workdir written by commit 7561e69 lives on: it resumes, reports, evaluates and exports.

golden/workdir_7561e69 is what configs/deep_compression.py with FLAGS (under the names of that time)
left behind when SIGTERM stopped it at step 54 of its second stage, on one CPU device.
"""

import json
import shutil
from pathlib import Path

import pytest

from squeeze_jax import cli
from squeeze_jax.study.schema import RENAMED_KEYS, SCHEMA, current_key, flatten, nest, upgrade_study
from squeeze_jax.train.checkpoint import load_network
from tests.launching import completed, launch, rows

OLD = Path(__file__).parent / "golden" / "workdir_7561e69"
DENSE, PRUNED = "stage=dense,seed=0", "stage=pruned,seed=0"
MODEL = (
    "num_fire=2",
    "base_e=8",
    "incr_e=8",
    "conv1_filters=8",
    "dropout=0.3",
    "batch_norm=True",
    "pool_after=('conv1',)",
)
TRAIN = ("batch_size=16", "steps=600", "log_every=30", "eval_every=150", "checkpoint_every=20")
FLAGS = (
    "--config.seeds=1",
    *(f"--config.model.{key}" for key in MODEL),
    *(f"--config.train.{key}" for key in TRAIN),
)
DENSITY = "(('fire*',0.5),('conv10',0.3))"


@pytest.fixture
def workdir(tmp_path) -> Path:
    """A copy of the old workdir."""
    return Path(shutil.copytree(OLD, tmp_path / "work"))


def untimed(workdir: Path, trial: str) -> list[dict]:
    """The lines of a trial's metrics.jsonl without what a clock says."""
    lines = [
        json.loads(line)
        for line in (workdir / "trials" / trial / "metrics.jsonl").read_text().splitlines()
    ]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "images_per_second")}
        for line in lines
    ]


@pytest.mark.slow
def test_it_resumes_where_it_was_stopped(workdir, cache):
    """The interrupted trial goes on after step 54 and starts its two followers.

    The finished one is left alone.
    """
    before = {name: untimed(workdir, name) for name in (DENSE, PRUNED)}
    flag = f"--config.pruned.keep={DENSITY}"  # under its old name
    process = completed("configs/deep_compression.py", cache, *FLAGS, flag, f"--workdir={workdir}")
    assert (
        process.stderr.splitlines()[0]
        == "--config.pruned.keep is called --config.pruned.prune_density now"
    )
    assert [row["status"] in ("ok", "chance") for row in rows(workdir)] == [True] * 4
    row, before_row = rows(workdir)[0], rows(OLD)[0]
    assert before_row.pop("activation_bytes")  # a column that is gone, and four that are new
    new = ("ram_bytes", "engine_ram_bytes", "flash_bytes", "steps")
    assert all(row.pop(name) for name in new)
    assert row == before_row
    assert untimed(workdir, DENSE) == before[DENSE]
    lines = untimed(workdir, PRUNED)
    assert lines[:1] == before[PRUNED] and [line["step"] for line in lines if "loss" in line] == [
        *range(30, 301, 30)
    ]
    result = json.loads((workdir / "trials" / PRUNED / "result.json").read_text())
    assert result["steps"] == 300 and result["seconds"] > 0
    study = json.loads((workdir / "study.json").read_text())
    assert (
        study["schema"] == SCHEMA
        and study["config"]["pruned"]["prune_density"]
        and "sweep" not in study["config"]
    )
    kernel = load_network(workdir / "trials" / PRUNED).params["fire2"]["squeeze"]["kernel"]
    assert (kernel == 0).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_another_value_is_still_refused(workdir):
    """Also of a key that was renamed, and of one that the old workdir lacks."""
    process = launch(
        "configs/deep_compression.py",
        *FLAGS,
        "--config.pruned.prune_density=(('*',0.5),)",
        f"--workdir={workdir}",
    )
    assert (
        process.returncode == 2
        and "pruned.prune_density was [['fire*', 0.5], ['conv10', 0.3]], is [['*', 0.5]]"
        in process.stderr
    )
    study = json.loads((workdir / "study.json").read_text())
    del study["config"]["train"]["momentum"]
    (workdir / "study.json").write_text(json.dumps(study))
    flags = (*FLAGS, f"--config.pruned.prune_density={DENSITY}", f"--workdir={workdir}")
    process = launch("configs/deep_compression.py", *flags, "--config.train.momentum=0.5")
    assert process.returncode == 2 and "train.momentum was 0.9, is 0.5" in process.stderr


@pytest.mark.slow
def test_it_reports_evaluates_and_exports(workdir, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["squeeze-jax", *map(str, arguments)])
        assert cli.main() == 0, capsys.readouterr().err
        return capsys.readouterr().out

    run("report", workdir)
    assert "stage=pruned,seed=0" in (workdir / "report.html").read_text()
    before, after = rows(OLD), rows(workdir)
    assert [row.pop("steps") for row in after] == ["600", "", "", ""]
    assert after == before
    trial = workdir / "trials" / DENSE
    for net in (trial, trial / "net.arithmetic.sqz"):
        data = ("--data", "digits") if net.suffix else ()
        found = json.loads(run("evaluate", net, *data, "--format", "json"))
        assert found["top1"] == pytest.approx(float(before[0]["top1"]), abs=0.3)
    run("export", trial, "--format", "stablehlo", "-o", workdir / "net.stablehlo")
    assert json.loads(
        run("evaluate", workdir / "net.stablehlo", "--data", "digits", "--format", "json")
    )["top1"] == pytest.approx(found["top1"], abs=0.3)


def test_every_old_name_is_read_as_the_new_one():
    """In the config, among the swept keys, in overrides and in what derive() set."""
    config = nest(dict.fromkeys(RENAMED_KEYS, 1))
    trial = {"name": "x", "overrides": {"train.keep": 1}, "derived": {"train.accumulate": 2}}
    study = {
        "config": config,
        "swept": ["train.keep", "sweep.max_params"],
        "report": {"x": "train.keep"},
        "trials": [trial],
    }
    upgraded = upgrade_study(study)
    assert set(flatten(upgraded["config"])) == set(RENAMED_KEYS.values())
    assert upgraded["swept"] == ["train.prune_density", "budget.max_params"]
    assert upgraded["trials"] == [
        {
            "name": "x",
            "overrides": {"train.prune_density": 1},
            "derived": {"train.grad_accum_steps": 2},
        }
    ]
    assert current_key("train.keeper") == "train.keeper"
    with pytest.raises(ValueError, match="schema version 9.*update squeeze_jax"):
        upgrade_study(study | {"schema": 9})
