"""Times the first training step from the command on, with an empty and a warm cache.

The cache is JAX's persistent compilation cache.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks import interleaved
from squeeze_jax.study import Workdir

PACKAGES = ()
ROOT = Path(__file__).parents[2]
ROUNDS = 3
TRIAL = "seed=0"  # the only trial of configs/squeezenet.py


def rows() -> list[interleaved.Row]:
    """Measures warm and cold starts of the default preset in turn."""
    seconds = {"warm cache": [], "cold": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first_step(folder / "first", folder / "warm")
        for i in range(ROUNDS):
            seconds["warm cache"].append(first_step(folder / f"warm{i}", folder / "warm"))
            seconds["cold"].append(first_step(folder / f"cold{i}", folder / f"cache{i}"))
    ratios = [warm / cold for warm, cold in zip(*seconds.values(), strict=True)]
    rows = [
        {
            "setting": "one step of configs/squeezenet.py",
            "who": who,
            "rounds": ROUNDS,
            "seconds_quartiles": interleaved.quartiles(times),
        }
        for who, times in seconds.items()
    ]
    rows[-1]["ours_over_it_quartiles"] = interleaved.quartiles(ratios)
    return rows


def first_step(workdir: Path, cache: Path) -> float:
    """Trains for one step and returns the seconds until its loss is on disk."""
    command = [
        sys.executable,
        "launch.py",
        "--config",
        "configs/squeezenet.py",
        "--config.train.steps=1",
        "--workdir",
        workdir,
    ]
    study, start = Workdir(workdir), time.perf_counter()
    with subprocess.Popen(
        [*command, "--compilation_cache", cache],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not study.read_curve(TRIAL):
            if process.poll() is not None:
                raise RuntimeError(f"launch.py ended with {process.returncode} and without a step")
            time.sleep(0.01)
        return time.perf_counter() - start
