"""Reads .safetensors files: PyTorch's state dicts without PyTorch."""

from pathlib import Path

import numpy as np
import safetensors

from squeeze_jax.convert import state_dict, wrappings
from squeeze_jax.convert.imported import Imported, Wanted
from squeeze_jax.convert.metadata import KEY
from squeeze_jax.convert.state_dict import StateDict
from squeeze_jax.errors import UserError, list_names

NAME = "safetensors"
SUFFIXES = (".safetensors",)
_MAX_HEADER = 100_000_000  # bytes, as the format's own reader has it


def recognizes(head: bytes) -> bool:
    """Returns whether a file begins with a header's length and a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER


def read(path: Path, wanted: Wanted) -> Imported:
    """Reads a network: the one that metadata of ours describe, or the given model.

    Raises:
      UserError: the file is damaged, or does not hold the given model, the one that its metadata
        describe, or any released one.
    """
    return state_dict.identify_network(path, NAME, read_arrays(path), wanted)


def read_arrays(path: Path) -> StateDict:
    """Returns float32 arrays by name, without counters, and the metadata.

    Raises:
      UserError: the file is no .safetensors file, or holds tensors of another type than floating
        point.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names, changes = wrappings.without_counters(file.keys())
            arrays = {name: file.get_tensor(name) for name in names}
    except (
        safetensors.SafetensorError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        MemoryError,
    ) as e:
        if path.stat().st_size and "incomplete" in str(e):
            raise UserError(
                f"{path}: it is cut off or damaged, not all of a .safetensors file"
            ) from e
        raise UserError(
            f"{path}: not a .safetensors file, or its numbers are of a type that NumPy lacks"
        ) from e
    # bfloat16 is no floating type to NumPy, and is known by its name. Masks may be of any type.
    if odd := [
        name
        for name, array in arrays.items()
        if not array.dtype.name.startswith(("float", "bfloat")) and not name.endswith("_mask")
    ]:
        raise UserError(f"{path}: {list_names(odd)} is not of floating-point numbers")
    return StateDict(
        {name: array.astype(np.float32, copy=False) for name, array in arrays.items()},
        metadata.get(KEY),
        changes,
    )
