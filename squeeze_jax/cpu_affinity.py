"""The cores of a CPU that a process may use, and XLA's worker threads on them."""

import contextlib
import os
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


def _name(task: Path) -> str:
    """Returns the name of a thread, or "" if it has ended."""
    try:
        return (task / "comm").read_text()
    except OSError:
        return ""
