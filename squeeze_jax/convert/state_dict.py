"""PyTorch's state dicts, which .pth and .safetensors files hold, both ways."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    from squeeze_jax.convert.parameter_names import Library
    from squeeze_jax.network import Network

COUNTER = ".num_batches_tracked"  # of a BatchNorm; inference has no use for it


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


def identify_network(
    path: Path, kind: str, arrays: Mapping[str, np.ndarray], model: Mapping[str, Any] | None
) -> "Network":
    """Returns the network whose state dict these arrays are.

    Args:
      path: of the file, for messages.
      kind: the format's name, for the network's source.
      arrays: float32, by name.
      model: name and options; None for one of the released networks.

    Raises:
      UserError: the arrays are not this model's, or those of no or several released networks.
    """
    from squeeze_jax.convert import identify

    candidates: list[identify.Candidate] = []
    if model:
        for library in ("torchvision", "pytorchcv", "squeeze_jax"):
            candidates.append((library, (model,)))
    else:
        for library in ("torchvision", "pytorchcv"):
            candidates.extend((library, nets) for nets in identify.RELEASED[library])
    return identify.identify(path, kind, candidates, arrays)


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
        name.removesuffix(".running_mean") + COUNTER: np.zeros((), np.int64) for name in means
    }
