"""A study by several processes of one machine at once, each on its share of the devices.

The workdir's claims divide the trials among them. A small net keeps few cores busy: two trials of a
core each take little longer than one of two cores.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from squeeze_jax.cpu_affinity import usable_cores
from squeeze_jax.errors import UserError
from squeeze_jax.signals import STOP_SIGNALS, handled_signals, held_signals
from squeeze_jax.study.plan import Plan
from squeeze_jax.study.progress import RelayedProgress
from squeeze_jax.study.tpu_chips import chip_environment

_VARIABLE = "SQUEEZE_JAX_JOB"  # in the environment of each process: "0/2", "1/2"
# The cores of a TPU chip, which are devices, share its coordinates.
_PROBE = """
import jax
places = {tuple(getattr(device, "coords", [device.id])) for device in jax.local_devices()}
print(jax.default_backend(), len(places))
"""


def job_index() -> tuple[int, int]:
    """Returns (index, count) of the job that this process is; (0, 1) outside of any."""
    index, _, count = os.environ.get(_VARIABLE, "0/1").partition("/")
    return int(index), int(count)


def stop_with_parent() -> None:
    """Makes SIGTERM stop this process, a job, once the process that started it has ended.

    A parent that is killed can send no signal, but the system closes the pipe that it holds.
    """

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # nobody reads it any more
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def run(plan: Plan) -> int:
    """Runs `plan.jobs` processes on the same study; see `run_command`."""
    return run_command(plan.jobs, plan.arguments)


def run_command(jobs: int, command: Sequence[str]) -> int:
    """Runs a command several times at once; passes on what they print and the signals to stop.

    Their progress is shown as one, see `RelayedProgress`.

    Args:
      jobs: how many; each gets the same number of this machine's CPU cores, and of its GPUs or TPU
        chips where JAX uses these. What is left over stays idle, so that trials are equally fast.
      command: the command line of a process that lets the signals to stop through, as
        `exit_on_signals` does, and that calls `stop_with_parent`.

    Returns:
      The largest exit code; 128 + signal for a job that a signal ended.

    Raises:
      UserError: fewer devices than jobs, or TPU chips that cannot be divided so.
    """
    shares, progress, printing = _shares(jobs), RelayedProgress(), threading.Lock()
    # XLA partitions loops and sums by the number of its threads, so a job has as many as a process
    # that trains alone: then a trial's numbers do not depend on how many run beside it.
    threads = {"NPROC": str(usable_cores())}

    def pass_on(stderr) -> None:
        for line in stderr:
            with printing:
                progress.take(line)

    processes, readers = [], []
    with _forward_signals(processes) as all_started:
        for job, (cores, variables) in enumerate(shares):
            environment = threads | os.environ | variables | {_VARIABLE: f"{job}/{jobs}"}
            with _cpu_affinity(cores), _blocked_signals():
                # A group of its own: Ctrl-C reaches it through this process alone, and once.
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    process_group=0,
                )
            processes.append(process)
            readers.append(threading.Thread(target=pass_on, args=(process.stderr,)))
            readers[-1].start()
        all_started()
        codes = [process.wait() for process in processes]
    for reader in readers:
        reader.join()
    progress.close()
    for code in codes:
        if code < 0:
            print(
                f"a job was ended by {signal.Signals(-code).name}; "
                "run the same command again to continue",
                file=sys.stderr,
            )
    return max(128 - code if code < 0 else code for code in codes)


def _shares(jobs: int) -> list[tuple[list[int], dict[str, str]]]:
    """Returns each job's CPU cores, and what its environment says of its GPUs or TPU chips."""
    # Asked of another process: one that has opened a GPU holds its memory.
    with held_signals():
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            process_group=0,
        )
    backend, count = probe.stdout.split()
    cores: list[list[int]] = [[] for _ in range(jobs)]
    if hasattr(os, "sched_setaffinity"):
        cores = split_evenly(sorted(os.sched_getaffinity(0)), jobs, "CPU cores")
    if backend == "cpu":
        return [(share, {}) for share in cores]
    if backend == "tpu":
        chips = split_evenly(list(range(int(count))), jobs, "TPU chips")
        return list(zip(cores, map(chip_environment, chips), strict=True))
    every_gpu = ",".join(map(str, range(int(count))))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", every_gpu).split(",")
    return [
        (share, {"CUDA_VISIBLE_DEVICES": ",".join(gpus)})
        for share, gpus in zip(cores, split_evenly(visible, jobs, "GPUs"), strict=True)
    ]


def split_evenly(devices: list, jobs: int, what: str) -> list[list]:
    """Returns as many devices for each job, in order; what is left over is nobody's.

    Raises:
      UserError: fewer devices than jobs.
    """
    if jobs > len(devices):
        raise UserError(f"{jobs} jobs need as many {what}; there are {len(devices)}")
    each = len(devices) // jobs
    return [devices[job * each : (job + 1) * each] for job in range(jobs)]


@contextlib.contextmanager
def _cpu_affinity(cores: Sequence[int]) -> Iterator[None]:
    """Makes what is started inside run on these cores; on any if none are given."""
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
def _blocked_signals() -> Iterator[None]:
    """Makes the signals to stop wait, in a process started inside, until it lets them through.

    Python would end it with a traceback before it has set its own handlers.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _forward_signals(processes: Sequence[subprocess.Popen]) -> Iterator[Callable[[], None]]:
    """Sends SIGTERM and SIGINT on to the processes while inside.

    Yields a function to call once they are all there; signals wait for it.
    """
    received: list[int] = []
    complete = False

    def send() -> None:
        while complete and received:
            signum = received.pop(0)
            for process in processes:
                process.send_signal(signum)

    def forward(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        send()

    def all_started() -> None:
        nonlocal complete
        complete = True
        send()

    with handled_signals(forward):
        yield all_started
