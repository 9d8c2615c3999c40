"""What the processes of one run, which take every step together, agree on."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def first_process() -> bool:
    """Returns whether this process writes the files and prints for all."""
    return jax.process_index() == 0


def agreed(flags: list[bool]) -> list[bool]:
    """Returns the first process's flags in every process: they must take the same trials."""
    return [bool(flag) for flag in agreed_array(np.asarray(flags))]


def agreed_array(values: np.ndarray) -> np.ndarray:
    """Returns the first process's values, of the same shape in all, in every process."""
    if jax.process_count() == 1:
        return values
    return np.asarray(multihost_utils.broadcast_one_to_all(values))
