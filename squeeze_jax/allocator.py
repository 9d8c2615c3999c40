"""What the C library does with memory that XLA frees."""

import contextlib
import ctypes
import sys

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next allocation.

    On a CPU, XLA allocates a step's temporary arrays anew each time. glibc maps large ones from the
    system and gives them back at once, so that each step pays for the zeroing of every page that it
    touches (experiments/benchmarks/README.md has the cost). The process then keeps the most that it
    ever needed. Threads keep heaps of their own, since a single one made steps up to 1.4 times as
    long; blocks of over 32 MB that they free still go back. Does nothing with another C library.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
