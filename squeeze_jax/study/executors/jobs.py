"""A study by several processes at once, each on its share of the devices; the workdir's locks divide the trials among them.

A small net keeps few cores busy: two trials of a core each take little longer than one of two cores.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from squeeze_jax.errors import UserError

_PLACE = "SQUEEZE_JAX_JOB"  # in the environment of each process: "0/2", "1/2"
_DEVICES = "import jax; print(jax.default_backend(), jax.local_device_count())"


def job_index() -> tuple[int, int]:
    """(which, of how many) processes on the study this one is; (0, 1) where it was started alone."""
    which, _, jobs = os.environ.get(_PLACE, "0/1").partition("/")
    return int(which), int(jobs)


def run(jobs: int, command: Sequence[str]) -> int:
    """Runs a command `jobs` times at once, and passes on what they say and the signals that ask to stop.

    Args:
      jobs: how many; each gets as many of this machine's CPU cores, and of its GPUs where JAX uses these, and what is left over rests:
        a trial's last digits depend on its share, so all shares are alike.
      command: the command line.

    Returns:
      The largest exit code.

    Raises:
      UserError: fewer devices than jobs, or devices that can't be divided.
    """
    shares, said, speak = _shares(jobs), set(), threading.Lock()

    def pass_on(process: subprocess.Popen) -> None:
        for line in process.stderr:
            with speak:
                if line not in said:  # a mistake is each one's, and is told once
                    print(line, end="", file=sys.stderr, flush=True)
                said.add(line)

    processes, readers = [], []
    with _forwarding_signals(processes):
        for job, (cores, variables) in enumerate(shares):
            with _on(cores):
                environment = os.environ | variables | {_PLACE: f"{job}/{jobs}"}
                # A group of its own: Ctrl-C reaches it through this process alone, and once.
                processes.append(
                    subprocess.Popen(
                        command, env=environment, stderr=subprocess.PIPE, text=True, process_group=0
                    )
                )
            readers.append(threading.Thread(target=pass_on, args=processes[-1:]))
            readers[-1].start()
        codes = [process.wait() for process in processes]
    for reader in readers:
        reader.join()
    for code in codes:
        if code < 0:
            print(
                f"a job was ended by {signal.Signals(-code).name}; run the same command again to continue",
                file=sys.stderr,
            )
    return max(128 - code if code < 0 else code for code in codes)


def _shares(jobs: int) -> list[tuple[list[int], dict[str, str]]]:
    """What each job gets: CPU cores, and what its environment says of its GPUs."""
    # Asked of another process: one that has opened a GPU holds its memory.
    probe = subprocess.run(
        [sys.executable, "-c", _DEVICES], stdout=subprocess.PIPE, text=True, check=True
    )
    backend, count = probe.stdout.split()
    cores = (
        split_evenly(sorted(os.sched_getaffinity(0)), jobs, "CPU cores")
        if hasattr(os, "sched_setaffinity")
        else [[]] * jobs
    )
    if backend == "cpu":
        return [(share, {}) for share in cores]
    if backend != "gpu":
        raise UserError(
            f"jobs share CPU cores or GPUs, and this machine computes on a {backend.upper()}"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(int(count))))).split(
        ","
    )
    return [
        (share, {"CUDA_VISIBLE_DEVICES": ",".join(gpus)})
        for share, gpus in zip(cores, split_evenly(visible, jobs, "GPUs"))
    ]


def split_evenly(devices: list, jobs: int, what: str) -> list[list]:
    """As many to each, in order."""
    if jobs > len(devices):
        raise UserError(f"{jobs} jobs need as many {what}; there are {len(devices)}")
    each = len(devices) // jobs
    return [devices[job * each : (job + 1) * each] for job in range(jobs)]


@contextlib.contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """What is started inside runs on these cores; on any where they are not known."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _forwarding_signals(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    def forward(signum, frame):
        for process in processes:
            process.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
