"""Compiles inner loops to machine code."""

from collections.abc import Callable
from typing import Any

import numba


def njit(function: Callable) -> Any:
    """Compiles a function when it is first called, and keeps its code on disk if that is writable.

    Numba itself refuses to import the function where neither the package's folder nor the user's
    cache can be written, as in a container of another user.
    """
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # no locator available
        return numba.njit(function)
