"""Gives a process some of a host's TPU chips, by the variables that libtpu reads."""

from collections.abc import Sequence

from squeeze_jax.errors import UserError

# Chips -> how they lie in the host's torus, x,y,z.
_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
_FIRST_PORT = 8476  # libtpu's own; processes with chips of their own each need another


def chip_environment(chips: Sequence[int]) -> dict[str, str]:
    """Returns what makes libtpu open these chips alone, as the whole of a slice of one process.

    The names are those of JAX's own tests of several processes on a host
    (jax/_src/test_multiprocess.py). They must be set before JAX looks for devices.

    Raises:
      UserError: a number of chips that do not form a rectangle.
    """
    if len(chips) not in _BOUNDS:
        raise UserError(f"a process has 1, 2, 4 or 8 TPU chips, not {len(chips)}")
    port = str(_FIRST_PORT + chips[0])
    return {
        "TPU_VISIBLE_CHIPS": ",".join(map(str, chips)),
        "TPU_CHIPS_PER_PROCESS_BOUNDS": _BOUNDS[len(chips)],
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
        "TPU_PROCESS_PORT": port,
        "CLOUD_TPU_TASK_ID": "0",
    }
