"""What the processes of one run, which take every step together, agree on."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def first_process() -> bool:
    """Returns whether this process writes the files and prints for all."""
    return jax.process_index() == 0


def agreed(flags: list[bool]) -> list[bool]:
    """Returns the first process's flags in every process: they must take the same trials."""
    if jax.process_count() == 1:
        return flags
    return [bool(flag) for flag in multihost_utils.broadcast_one_to_all(np.asarray(flags))]
