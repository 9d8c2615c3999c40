"""Running launch.py as a process, on a study shrunken to seconds."""

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEADLINE = (
    1200  # seconds after which a process is taken to hang; generous, for a machine that is busy
)
# A real config shrunken: two Fire modules of a few filters each.
NET = (
    "model.num_fire=2",
    "model.pool_after=('conv1',)",
    "model.base_e=8",
    "model.incr_e=8",
    "model.conv1_filters=8",
)
TINY = tuple(f"--config.{setting}" for setting in (*NET, "train.steps=4", "train.batch_size=16"))


def command(config: str, *flags: str) -> list[str]:
    """The command line of a launch."""
    return [sys.executable, "launch.py", "--config", config, *flags]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment (conftest: two CPU devices), as strict as the tests are.

    Even small programs are cached.
    """
    return (
        os.environ
        | {"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        | variables
    )


def launch(config: str, *flags: str) -> subprocess.CompletedProcess:
    """Runs launch.py to its end; killed at the deadline."""
    return subprocess.run(
        command(config, *flags),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def completed(config: str, *flags: str) -> subprocess.CompletedProcess:
    """A launch that must succeed."""
    process = launch(config, *flags)
    assert process.returncode == 0, process.stderr
    return process


def communicated(processes: Sequence[subprocess.Popen]) -> list[tuple[str, str]]:
    """(stdout, stderr) of each process that was started, all killed at the deadline."""
    try:
        return [process.communicate(timeout=DEADLINE) for process in processes]
    finally:
        for process in processes:
            process.kill()


def rows(workdir: Path) -> list[dict[str, str]]:
    """sweep.csv."""
    with (workdir / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def finished_lines(process: subprocess.CompletedProcess) -> list[str]:
    """The trials of which the process says how they ended."""
    return [
        line.partition(": ")[0]
        for line in process.stderr.splitlines()
        if "trials to train in" not in line and not line.partition(": ")[2].startswith("step ")
    ]
