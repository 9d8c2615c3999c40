"""State dicts as training programs save them, made those of the network alone.

They lie under a key beside the optimizer's, their names have prefixes of wrappers, and masks,
counters and the loss's weights stand between the network's.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_jax.errors import UserError, list_names

# Keys that hold the network's weights, the preferred first: averages follow what was trained.
KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
# Numbers that wrappers and profilers keep beside the weights; inference has no use for them.
BATCH_COUNTER = "num_batches_tracked"  # of every BatchNorm in PyTorch
COUNTERS = ("n_averaged", "total_ops", "total_params")  # AveragedModel's, thop's
LOSSES = ("criterion", "loss", "loss_fn")  # modules of training alone
# Ends of the names of length, direction and weight under torch.nn.utils.weight_norm, the older one
# and the parametrization.
WEIGHT_NORM = (
    ("weight_g", "weight_v", "weight"),
    (
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
        "weight",
    ),
)
NET_PREFIX = "features"  # of torchvision's and pytorchcv's own names


def without_counters(names: Iterable[str]) -> tuple[list[str], tuple[str, ...]]:
    """Returns the names of entries that do not only count, and which others were left out."""
    names = list(names)
    kept = [name for name in names if _leaf(name) not in (BATCH_COUNTER, *COUNTERS)]
    counters = sorted({_leaf(name) for name in names} & set(COUNTERS))
    return kept, (f"without {list_names(counters)}",) if counters else ()


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def find_state_dict(
    path: Path, loaded: Any, is_tensor: Callable[[Any], bool]
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Returns the state dict that a file holds, by itself or under one of its keys.

    Args:
      path: of the file, for messages.
      loaded: its content.
      is_tensor: tells tensors from other values.

    Returns:
      The tensors by name, and what was done to find them.

    Raises:
      UserError: there is none, or several and none under a key of KEYS.
    """

    def is_state_dict(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and all(isinstance(name, str) for name in value)
            and all(map(is_tensor, value.values()))
            and any(tensor.ndim > 1 for tensor in value.values())
        )

    if not isinstance(loaded, Mapping):
        raise _no_state_dict(path, f"it holds a {type(loaded).__name__}")
    if not loaded:
        raise _no_state_dict(path, f"it holds an empty {type(loaded).__name__}")
    if all(isinstance(name, str) and is_tensor(value) for name, value in loaded.items()):
        return loaded, ()
    keys = [key for key, value in loaded.items() if is_state_dict(value)]
    if not keys:
        raise _no_state_dict(path, f"its entries are {list_names(list(map(str, loaded)))}")
    chosen = next((key for key in KEYS if key in keys), keys[0] if len(keys) == 1 else None)
    if chosen is None:
        raise UserError(
            f"{path}: it holds several state dicts, {list_names(list(map(str, keys)))}: save the "
            "network's by itself"
        )
    others = [str(key) for key in keys if key != chosen]
    words = f"the weights under {chosen!r}"
    return loaded[chosen], (f"{words}, not {list_names(others)}" if others else words,)


def _no_state_dict(path: Path, words: str) -> UserError:
    return UserError(
        f"{path}: not a state dict, which torch.save(model.state_dict(), ...) writes: {words}"
    )


def tidy(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns a network's arrays under the names that its own module gives them.

    Pruned weights are multiplied with their masks, weights of weight_norm with their lengths, the
    weights of losses are left out, and prefixes that all names share are removed.

    Args:
      arrays: float32, by name.

    Returns:
      The arrays, and what was done to them.
    """
    arrays, changes = dict(arrays), []
    pruned = [name.removesuffix("_orig") for name in arrays if name.endswith("_orig")]
    pruned = [
        name
        for name in pruned
        if (mask := arrays.get(f"{name}_mask")) is not None
        and mask.shape == arrays[f"{name}_orig"].shape
    ]
    for name in pruned:
        # Plus 0, for a negative weight times 0 is -0.0, which no level of a .sqz file stands for.
        arrays[name] = arrays.pop(f"{name}_orig") * arrays.pop(f"{name}_mask") + np.float32(0)
    if pruned:
        changes.append(f"{len(pruned)} pruned weights times their masks")
    if normed := _apply_weight_norm(arrays):
        changes.append(f"{normed} weights of weight_norm, direction times length")
    if losses := [name for name in arrays if name.partition(".")[0] in LOSSES]:
        arrays = {name: array for name, array in arrays.items() if name not in losses}
        changes.append(f"without {list_names(losses)}")
    prefix = _shared_prefix(list(arrays))
    if prefix:
        arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
        changes.append(f"without the prefix {list_names([prefix])!r}")
    return arrays, tuple(changes)


def _apply_weight_norm(arrays: dict[str, np.ndarray]) -> int:
    """Puts weights in place of the lengths and directions of weight_norm; returns how many.

    The length is of all axes along which its array is 1: weight = g * v / |v|.
    """
    count = 0
    for name in list(arrays):
        for length, direction, whole in WEIGHT_NORM:
            stem = name.removesuffix(length)
            if stem == name or (v := arrays.get(stem + direction)) is None:
                continue
            g = arrays[name]
            if g.ndim not in (0, v.ndim) or any(
                m not in (1, n) for m, n in zip(g.shape, v.shape, strict=g.ndim > 0)
            ):
                continue
            axes = tuple(axis for axis in range(v.ndim) if not g.ndim or g.shape[axis] == 1)
            norms = np.sqrt(np.sum(v.astype(np.float64) ** 2, axes, keepdims=True))
            with np.errstate(divide="ignore", invalid="ignore"):  # refused as not finite
                weight = (g / norms * v).astype(np.float32)
            del arrays[name], arrays[stem + direction]
            arrays[stem + whole] = weight
            count += 1
    return count


def _shared_prefix(names: list[str]) -> str:
    """Returns the modules around the network, with a point after each: "module.model."."""
    prefix = ""
    while names:
        first = names[0].partition(".")[0]
        start = f"{first}."
        rests = [name.removeprefix(start) for name in names]
        # Every name of a network has a layer and a leaf, "conv1.weight" or "conv1/kernel".
        if first == NET_PREFIX or not all(
            name.startswith(start) and ("." in rest or "/" in rest)
            for name, rest in zip(names, rests, strict=True)
        ):
            break
        prefix, names = prefix + start, rests
    return prefix
