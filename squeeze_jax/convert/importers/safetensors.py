"""Reads .safetensors files: PyTorch's state dicts without PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors

from squeeze_jax.convert import state_dict
from squeeze_jax.convert.metadata import KEY
from squeeze_jax.errors import UserError, list_names

if TYPE_CHECKING:
    from squeeze_jax.network import Network

NAME = "safetensors"
SUFFIXES = (".safetensors",)


def read(path: Path, model: Mapping[str, Any] | None) -> "Network":
    """Reads a network: the given model, or the one that metadata of ours describe.

    Raises:
      UserError: the file is damaged, or does not hold the given model, the one that its metadata
        describe, or any released one.
    """
    arrays, metadata = read_arrays(path)
    if KEY in metadata and not model:
        from squeeze_jax.convert import identify

        return identify.read_described(path, metadata[KEY], arrays)
    return state_dict.identify_network(path, NAME, arrays, model)


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns float32 arrays by name, without BatchNorm's counters, and the metadata.

    Raises:
      UserError: the file is no .safetensors file, or holds tensors of another type than floating
        point.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if not name.endswith(state_dict.COUNTER)]  # noqa: SIM118
            arrays = {name: file.get_tensor(name) for name in names}
    except (
        safetensors.SafetensorError,
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        MemoryError,
    ) as e:
        raise UserError(
            f"{path}: not a .safetensors file, or not all of one, or its numbers are of a type "
            "that NumPy lacks"
        ) from e
    floats = (np.float16, np.float32, np.float64)
    if odd := [name for name, array in arrays.items() if array.dtype not in floats]:
        raise UserError(f"{path}: {list_names(odd)} is not of floating-point numbers")
    return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}, metadata
