"""Where XLA's worker threads run on a CPU."""

import contextlib
import os
from pathlib import Path

import jax


def pin_xla_threads() -> None:
    """Gives each of XLA's worker threads on a CPU a core of its own, as onnxruntime does with its threads.

    After a pause Linux may wake two of them on one core, and leave them there for tens of milliseconds: experiments/benchmarks/README.md
    has what that costs. Elsewhere than on Linux, or where there isn't just one core for each thread, everything stays as it is.
    """
    if jax.default_backend() != "cpu" or not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0)
    with contextlib.suppress(
        OSError
    ):  # it's only for speed; a system may hide its threads or forbid this
        workers = [
            int(task.name)
            for task in Path("/proc/self/task").iterdir()
            if _name(task).startswith("tf_XLAEigen")
        ]
        if len(workers) == len(cores):
            for worker, core in zip(sorted(workers), sorted(cores)):
                os.sched_setaffinity(worker, {core})


def _name(task: Path) -> str:
    """Of a thread; "" for one that has ended."""
    try:
        return (task / "comm").read_text()
    except OSError:
        return ""
