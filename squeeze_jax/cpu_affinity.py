"""The cores of a CPU that a process may use, and XLA's worker threads on them."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax


def pin_xla_threads() -> None:
    """Pins each of XLA's worker threads to a core of its own, as onnxruntime does with its threads.

    After a pause Linux may wake two of them on one core and leave them there for tens of
    milliseconds (experiments/benchmarks/README.md has the cost). Does nothing outside Linux, or
    where threads and cores differ in number.
    """
    if jax.default_backend() != "cpu" or not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0)
    # A system may hide its threads or forbid this; it is only for speed.
    with contextlib.suppress(OSError):
        workers = [
            int(task.name)
            for task in Path("/proc/self/task").iterdir()
            if _name(task).startswith("tf_XLAEigen")
        ]
        if len(workers) == len(cores):
            for worker, core in zip(sorted(workers), sorted(cores), strict=True):
                os.sched_setaffinity(worker, {core})


def usable_cores() -> int:
    """Counts the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def reserved_cores(count: int) -> Iterator[list[int]]:
    """Runs this process on `count` cores that no other process inside this function has.

    Yields them. Where so few are free, or outside Linux, all cores stay usable: the list is empty.
    The number of XLA's threads is not touched, so that the numbers it computes are not, either.
    """
    with contextlib.ExitStack() as held:
        cores: list[int] = []
        usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        folder = Path(tempfile.gettempdir()) / f"squeeze_jax-cores-{os.getuid()}"
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
        for core in usable:
            with contextlib.suppress(OSError):
                file = held.enter_context((folder / str(core)).open("w"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends
                cores.append(core)
            if len(cores) == count:
                break
        if len(cores) < count:
            cores = []
        if cores:
            _set_affinity(cores)
            held.callback(_set_affinity, usable)
        yield cores


def _set_affinity(cores: list[int]) -> None:
    """Makes every thread of this process run on the cores."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(int(task.name), cores)


def _name(task: Path) -> str:
    """Returns the name of a thread, or "" if it has ended."""
    try:
        return (task / "comm").read_text()
    except OSError:
        return ""
