"""Trains every study of the modern recipe on CIFAR-10, one after another, and keeps their tables.

    python -m experiments.modern [STUDY ...] [--epochs N] [--seeds N] [--workdir DIR]

200 epochs are for an accelerator; `--epochs 5` gives early trainings on a CPU. Other flags, such as
--config.data.data_dir=DIR, go to each launch. Run again after an interruption, it continues. The
tables go to STUDY.csv in this folder; `python -m experiments.tiny.measure` makes .sqz files of the
trials of ablation.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STUDIES = ("ablation", "sr_sweep", "pct3x3_sweep", "bypass_sweep")


def main() -> None:
    """Runs the studies that the command line names, all by default."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog="Other flags go to each launch."
    )
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--epochs", type=float, default=200.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=Path("runs/modern"))
    arguments, flags = parser.parse_known_args()
    studies = arguments.studies or STUDIES
    if unknown := set(studies) - set(STUDIES):
        parser.error(f"no study {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    for study in studies:
        workdir = arguments.workdir / study
        command = [
            *(sys.executable, str(ROOT / "launch.py")),
            *("--config", f"{ROOT / 'configs' / study}.py:cifar10_modern"),
            f"--workdir={workdir}",
            f"--config.train.epochs={arguments.epochs}",
            f"--config.seeds={arguments.seeds}",
            *flags,
        ]
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)
        shutil.copyfile(workdir / "sweep.csv", HERE / f"{study}.csv")


if __name__ == "__main__":
    main()
