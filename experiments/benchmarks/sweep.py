"""Times a study run by one command, and its trials run one by one from cold processes.

The study is 5 squeeze ratios x 3 seeds on the digits. Every trial is trained to its end. The
study's compilation cache starts empty, and so does that of each single trial. The study runs before
and after the single trials, since the machine's load may change. A second comparison runs two
trials at once (--jobs 2) and one after another.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks import interleaved
from squeeze_jax.configs import sr_sweep

PACKAGES = ()
ROOT = Path(__file__).parents[2]
# Trials long enough for training to outweigh compilation, as it does on larger data sets.
LONGER = ("--config.seeds=4", "--config.train.epochs=100")
SINGLE = """from configs.sr_sweep import get_config


def sweep(config):
    yield {overrides!r}
"""


def rows() -> list[interleaved.Row]:
    """Measures two runs of the study and one of each trial; each takes minutes."""
    with tempfile.TemporaryDirectory() as name:
        return in_one(Path(name)) + at_once(Path(name))


def in_one(folder: Path) -> list[interleaved.Row]:
    """Compares a study with its trials run one by one."""
    studies = [launch("configs/sr_sweep.py", folder / "before")]
    singles = []
    for i, overrides in enumerate(sr_sweep.sweep(sr_sweep.get_config())):
        (folder / f"{i}.py").write_text(SINGLE.format(overrides=overrides))
        singles.append(launch(folder / f"{i}.py", folder / str(i)))
    studies.append(launch("configs/sr_sweep.py", folder / "after"))
    setting, total = {"setting": f"{len(singles)} trials of configs/sr_sweep.py"}, sum(singles)
    ratios = interleaved.quartiles([seconds / total for seconds in studies])
    return [
        setting | {"who": "one command", "seconds_quartiles": interleaved.quartiles(studies)},
        setting
        | {"who": "one by one", "seconds_quartiles": [total] * 3, "ours_over_it_quartiles": ratios},
    ]


def at_once(folder: Path) -> list[interleaved.Row]:
    """Compares two trials at once, on half of the cores each, with one after another.

    It does so for short trials and for trials that are ten times as long.
    """
    found = []
    for setting, config, flags in (
        ("15 trials of configs/sr_sweep.py", "configs/sr_sweep.py", ()),
        ("4 trials of configs/squeezenet.py, 100 epochs", "configs/squeezenet.py", LONGER),
    ):

        def run(*jobs: str) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as workdir:
                launch(config, Path(workdir) / "runs", *flags, *jobs)

        found += interleaved.compare(
            setting, {"--jobs 2": lambda: run("--jobs=2"), "--jobs 1": run}, rounds=2, warm_up=0
        )
    return found


def launch(config: str | Path, workdir: Path, *flags: str) -> float:
    """Runs `launch.py` and returns the seconds that it took."""
    cache = workdir.with_suffix(".cache")
    command = [
        sys.executable,
        "launch.py",
        "--config",
        config,
        "--workdir",
        workdir,
        "--compilation_cache",
        cache,
        *flags,
    ]
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start
