"""A whole study (5 squeeze ratios x 3 seeds on the digits) by one command, beside the same trials one after another from cold processes.

Every trial is trained to its end, and nothing is compiled before: the study's compilation cache starts empty, and so does that of
each single trial. The study runs before and after the single ones, since a machine may be busier at one time than at another.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from configs import sr_sweep
from experiments.benchmarks import interleaved

PACKAGES = ()
ROOT = Path(__file__).parents[2]
SINGLE = """from configs.sr_sweep import get_config


def sweep(config):
    yield {overrides!r}
"""


def rows() -> list[interleaved.Row]:
    """Minutes, so two runs of the study and one of each trial."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
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
        setting | {"who": "one by one", "seconds_quartiles": [total] * 3, "ours_over_it_quartiles": ratios},
    ]


def launch(config: str | Path, workdir: Path) -> float:
    """Seconds of one `launch.py`, from command to end."""
    cache = workdir.with_suffix(".cache")
    command = [sys.executable, "launch.py", "--config", config, "--workdir", workdir, "--compilation_cache", cache]
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start
