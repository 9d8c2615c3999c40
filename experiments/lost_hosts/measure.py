"""Measures how a run of two processes ends when one of them does not do its part.

python -m experiments.lost_hosts.measure [CASE ...]: prints a row of a table for each case.
"""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from squeeze_jax.study import Workdir
from tests.test_processes import FAILING, LAUNCH, start
from tests.test_resume import checkpoint_step, metrics

SIGNALS = {"killed": signal.SIGKILL, "hung": signal.SIGSTOP, "terminated": signal.SIGTERM}
CASES = [
    *(f"{case} {index}" for case in (*SIGNALS, "never") for index in (0, 1)),
    *("exception 1", "late 1", "config 1"),
]
NAME = "seed=0"


def measure(case: str, workdir: Path, cache: str) -> tuple[float, int | None, str]:
    """Returns the seconds from what goes wrong to the other's end, its exit code and last line.

    The number in `case` is the index of the process that goes wrong. "late" is 60 s late, and its
    seconds are those until its own end.
    """
    what, _, number = case.partition(" ")
    faulty = int(number)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def go(index: int, *flags: str, program: str = LAUNCH) -> subprocess.Popen[str]:
        place = (f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process_id={index}")
        return start(workdir, 1, cache, "--distributed", *place, *flags, program=program)

    processes = [go(1 - faulty)]
    began = time.monotonic()
    try:
        if what == "late":
            time.sleep(60)
            began = time.monotonic()
        if what != "never":
            flags = ["--config.train.weight_decay=0.125"] if what == "config" else []
            processes.append(go(faulty, *flags, program=FAILING if what == "exception" else LAUNCH))
        log = workdir / "trials" / NAME / "metrics.jsonl"
        while what == "exception" and not (log.exists() and log.read_text().count("\n") >= 29):
            time.sleep(0.01)
        while what in SIGNALS and checkpoint_step(workdir, NAME) < 20:
            time.sleep(0.01)
        if what in SIGNALS or what == "exception":
            began = time.monotonic()
        if what in SIGNALS:
            processes[1].send_signal(SIGNALS[what])
        _, stderr = processes[0].communicate()
        return time.monotonic() - began, processes[0].returncode, (stderr.splitlines() or [""])[-1]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def finish(workdir: Path, cache: str) -> list[dict]:
    """Runs both processes to the end; returns the lines of the log, without what a clock says."""
    measure("finished 1", workdir, cache)
    return metrics(workdir, NAME)


def main(cases: list[str]) -> None:
    """Prints the table."""
    root = Path(tempfile.mkdtemp())
    cache = f"--compilation_cache={root / 'cache'}"
    untouched = finish(root / "untouched", cache)
    print("| case | seconds | exit code | last line | trial after it | continued |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in cases:
        workdir = root / case.replace(" ", "-")
        seconds, code, line = measure(case, workdir, cache)
        status = Workdir(workdir).status(NAME) if workdir.exists() else "not begun"
        same = "the same" if finish(workdir, cache) == untouched else "OTHER NUMBERS"
        print(f"| {case} | {seconds:.1f} | {code} | {line} | {status} | {same} |", flush=True)
    shutil.rmtree(root)


if __name__ == "__main__":
    main(sys.argv[1:] or CASES)
