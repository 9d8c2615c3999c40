"""Times whole commands of this checkout and of another one, in turn: how long until they end.

python -m experiments.first_minutes CHECKOUT     of an earlier commit

Compiled programs are cached, as from the second command of a user on. Writes startup.json beside
this file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from squeeze_jax.study.environment import environment
from tests.launching import NET

ROOT = Path(__file__).parents[2]
RUNS = 5
STUDY = (
    "squeezenet",
    *(f"--config.{setting}" for setting in NET),
    "--config.train.steps=4",
    "--config.seeds=1",
)


def command(checkout: Path, *arguments: str) -> float:
    """Runs a command of a checkout; returns its seconds."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "squeeze_jax", *arguments],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begun


def main() -> None:
    """Runs each command in both checkouts, once unmeasured and RUNS times in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", type=Path)
    before = parser.parse_args().checkout.resolve()
    found = environment(f"python -m experiments.first_minutes {before.name}")
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photo.png")
        command(ROOT, "launch", *STUDY, f"--workdir={folder / 'study'}")
        trial = str(folder / "study" / "trials" / "seed=0")
        commands = {
            "predict": ("predict", "cifar10-48k", str(folder / "photo.png")),
            "evaluate": ("evaluate", trial),
            "summary": ("summary", "squeezenet_v1_0"),
            "hardware": ("hardware", "squeezenet_v1_0"),
            "launch": ("launch", *STUDY),
        }
        for name, arguments in commands.items():
            seconds: dict[str, list[float]] = {"before": [], "after": []}
            for run in range(RUNS + 1):
                for when, checkout in (("before", before), ("after", ROOT)):
                    own = (f"--workdir={folder / f'{when}{run}'}",) if name == "launch" else ()
                    taken = command(checkout, *arguments, *own)
                    if run:
                        seconds[when].append(round(taken, 2))
            results[name] = seconds
            medians = {when: statistics.median(each) for when, each in seconds.items()}
            print(name, medians, flush=True)
    content = {**found, "load_average": round(os.getloadavg()[0], 1), "results": results}
    Path(__file__).with_name("startup.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
