"""PyTorch's state dicts, which .pth and .safetensors files hold, both ways."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from squeeze_jax.convert import wrappings
from squeeze_jax.convert.imported import Imported, Wanted
from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    from squeeze_jax.convert.parameter_names import Library
    from squeeze_jax.network import Network


class StateDict(NamedTuple):
    """What a file holds."""

    arrays: Mapping[str, np.ndarray]  # float32, by name
    metadata: str | None = None  # `Network.metadata()` as JSON, where the file claims to have it
    changes: tuple[str, ...] = ()  # what was done to find the arrays


def import_torch() -> ModuleType:
    """Imports PyTorch, which only .pth files need.

    Raises:
      UserError: it is not installed.
    """
    try:
        import torch
    except ImportError as e:
        raise UserError(
            ".pth files need PyTorch: pip install torch (.safetensors files do not)"
        ) from e
    return torch


def identify_network(path: Path, kind: str, found: StateDict, wanted: Wanted) -> Imported:
    """Returns the network whose state dict this is.

    That is the one that its own metadata describe, or else the given model or a released network.

    Args:
      path: of the file, for messages.
      kind: the format's name, for the network's source.
      found: in the file.
      wanted: what the caller says.

    Raises:
      UserError: the arrays are not those of the described or given model, or those of no or several
        released networks.
    """
    from squeeze_jax.convert import identify

    if found.metadata is not None:
        network = identify.read_described(path, found.metadata, found.arrays, wanted.model)
        return Imported(network, is_described=True)
    candidates: list[identify.Candidate] = []
    if wanted.model:
        for library in ("torchvision", "pytorchcv", "squeeze_jax"):
            candidates.append((library, (wanted.model,)))
    else:
        for library in ("torchvision", "pytorchcv"):
            candidates.extend((library, nets) for nets in identify.RELEASED[library])
    arrays, changes = wrappings.tidy(found.arrays)
    imported = identify.identify(path, kind, candidates, arrays, wanted.num_classes)
    return imported._replace(changes=(*found.changes, *changes, *imported.changes))


def state_dict(network: "Network", library: "Library") -> dict[str, np.ndarray]:
    """Returns the weights under a library's names and in its layouts, float32.

    With pytorchcv's BatchNorm come its counters, which load_state_dict asks for.

    Raises:
      UserError: the library has no network with these layers.
    """
    from squeeze_jax.convert import parameter_names
    from squeeze_jax.network import leaves_by_path

    arrays: dict[str, np.ndarray] = {}
    params, stats = leaves_by_path(network.params), leaves_by_path(network.stats)
    for weight in parameter_names.weights(network.model, len(network.class_names), library):
        ours = np.asarray((stats if weight.is_statistic else params)[weight.path], np.float32)
        foreign = weight.conversion.encode(ours)
        arrays |= {
            name: np.ascontiguousarray(array)
            for name, array in zip(weight.names, foreign, strict=True)
        }
    means = [name for name in arrays if name.endswith(".running_mean")]
    return arrays | {
        f"{name.removesuffix('running_mean')}{wrappings.BATCH_COUNTER}": np.zeros((), np.int64)
        for name in means
    }
