"""A sweep that is killed, stopped or run twice at once ends with the numbers of an unbroken one."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from squeeze_jax.storage import list_names
from tests.launching import (
    DEADLINE,
    NET,
    ROOT,
    command,
    communicated,
    completed,
    environment,
    finished_lines,
    rows,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sharding info not provided"
)  # any sharding will do for comparing

STEPS = 400
SEEDS = ("seed=0", "seed=1")
# Dropout and shuffling on, so that a resumed run must repeat each random draw; no step count
# divides another.
FLAGS = (
    *(f"--config.{setting}" for setting in (*NET, "model.dropout=0.3", "seeds=2")),
    *(
        f"--config.train.{setting}"
        for setting in (f"steps={STEPS}", "batch_size=16", "log_every=7", "eval_every=150")
    ),
)
CHECKPOINTS = "--config.train.checkpoint_every=20"


def start(*flags: str) -> subprocess.Popen:
    """Starts a launch in the background."""
    return subprocess.Popen(
        command("configs/squeezenet.py", *flags),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Polls; fails when the process ends first or the deadline passes."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def stop_when(
    condition: Callable[[], bool], signum: signal.Signals, *flags: str
) -> tuple[int, str]:
    """Starts a launch and signals it once the condition holds; its exit code and stderr."""
    process = start(*flags)
    try:
        wait_until(condition, process)
        process.send_signal(signum)
        _, stderr = process.communicate(timeout=DEADLINE)
        return process.returncode, stderr
    finally:
        process.kill()


def trial(workdir: Path, name: str) -> Path:
    return workdir / "trials" / name


def checkpoint_step(workdir: Path, name: str) -> int:
    """The step of the newest whole checkpoint, 0 where there is none; on a disk or in a bucket."""
    found = list_names(trial(workdir, name) / "checkpoints")
    return max([int(each) for each in found if each.isdigit()], default=0)


def metrics(workdir: Path, name: str) -> list[dict]:
    """The lines of metrics.jsonl without what a clock says."""
    lines = [
        json.loads(line)
        for line in (trial(workdir, name) / "metrics.jsonl").read_text().splitlines()
    ]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "images_per_second")}
        for line in lines
    ]


def table(workdir: Path) -> list[dict]:
    """sweep.csv without what a clock says."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
        for row in rows(workdir)
    ]


def final_state(workdir: Path, name: str) -> dict:
    """The arrays of the last checkpoint."""
    with ocp.training.Checkpointer(trial(workdir, name) / "checkpoints") as checkpoints:
        return checkpoints.load(checkpoint_step(workdir, name))


def assert_same(workdir: Path, reference: Path) -> None:
    """Equal tables, metrics and states: to the last bit."""
    assert table(workdir) == table(reference)
    for name in SEEDS:
        assert metrics(workdir, name) == metrics(reference, name)
        ours, theirs = final_state(workdir, name), final_state(reference, name)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert ours["params"]["conv1"]["kernel"].any()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, cache) -> Path:
    """The workdir of a run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("untouched")
    completed("configs/squeezenet.py", cache, *FLAGS, CHECKPOINTS, f"--workdir={workdir}")
    return workdir


@pytest.mark.slow
def test_untouched_run_is_worth_comparing(untouched):
    """The seeds differ, the loss moves, and the log has every line once."""
    first, second = rows(untouched)
    assert first["loss"] != second["loss"]
    lines = metrics(untouched, SEEDS[0])
    assert [line["step"] for line in lines if "loss" in line] == [*range(7, STEPS, 7), STEPS]
    assert [line["step"] for line in lines if "top1" in line] == [150, 300, 400]
    assert lines[0]["loss"] != lines[-2]["loss"]


@pytest.mark.slow
def test_killed_twice(untouched, tmp_path, cache):
    """SIGKILL during the first trial, and before the second's first checkpoint; then once more."""
    flags = (cache, *FLAGS, CHECKPOINTS, f"--workdir={tmp_path}")
    first, second = SEEDS
    code, _ = stop_when(lambda: checkpoint_step(tmp_path, first) >= 40, signal.SIGKILL, *flags)
    assert code == -signal.SIGKILL
    assert 0 < checkpoint_step(tmp_path, first) < STEPS
    log = trial(tmp_path, second) / "metrics.jsonl"
    code, _ = stop_when(lambda: log.exists() and log.stat().st_size > 0, signal.SIGKILL, *flags)
    assert code == -signal.SIGKILL
    assert [row["status"] == "pending" for row in rows(tmp_path)] == [False, True]
    process = completed("configs/squeezenet.py", *flags)
    assert finished_lines(process) == [second]
    assert_same(tmp_path, untouched)


@pytest.mark.slow
def test_terminated_and_a_line_cut_short(untouched, tmp_path, cache):
    """SIGTERM saves where it strikes; the log's last line, cut short, is dropped on resumption."""
    # Only the signal makes a checkpoint before the end.
    flags = (
        cache,
        *FLAGS,
        f"--config.train.checkpoint_every={10 * STEPS}",
        f"--workdir={tmp_path}",
    )
    log = trial(tmp_path, SEEDS[0]) / "metrics.jsonl"
    code, stderr = stop_when(
        lambda: log.exists() and log.stat().st_size > 0, signal.SIGTERM, *flags
    )
    assert code == 128 + signal.SIGTERM
    assert stderr.splitlines() == [
        f"2 of 2 trials to train in {tmp_path}",
        "stopped by SIGTERM, state saved; run the same command again to continue",
    ]
    assert 0 < checkpoint_step(tmp_path, SEEDS[0]) < STEPS
    with log.open("a") as file:
        file.write('{"step": 3')
    completed("configs/squeezenet.py", *flags)
    assert_same(tmp_path, untouched)


@pytest.mark.slow
def test_two_launchers_share_the_work(tmp_path, cache):
    """Both start at once on one workdir: every trial is run by one of them, once."""
    flags = (cache, *FLAGS, "--config.seeds=4", "--config.train.steps=60", f"--workdir={tmp_path}")
    processes = [start(*flags) for _ in range(2)]
    outputs = communicated(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    names = [f"seed={seed}" for seed in range(4)]
    finished = [
        name
        for (_, stderr), process in zip(outputs, processes, strict=True)
        for name in finished_lines(subprocess.CompletedProcess([], 0, "", stderr))
    ]
    assert sorted(finished) == names
    assert all(row["status"] in ("ok", "chance") for row in rows(tmp_path))
    for name in names:
        steps = [line["step"] for line in metrics(tmp_path, name) if "loss" in line]
        assert steps == sorted(set(steps))
