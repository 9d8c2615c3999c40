"""Which network a file holds, and whether all of its weights are there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_jax import models
from squeeze_jax.convert import parameter_names
from squeeze_jax.convert.parameter_names import Library, Weight
from squeeze_jax.errors import UserError, list_names
from squeeze_jax.network import Network, imagenet, validate_metadata
from squeeze_jax.network.labels import numbered_classes

Arrays = Mapping[str, np.ndarray]  # by foreign name
Model = Mapping[str, Any]  # name and options, as `network.build_model` takes them
Candidate = tuple[Library, tuple[Model, ...]]  # several models if their names and shapes agree

# Stands for the number of classes until the file has told it. No other layer has this size.
_UNKNOWN = 1_000_003

# What a file can hold if the caller does not say. Models with the same names and shapes share a
# line. The released Caffe networks are v1.0 with a padded conv10, v1.1, and SqueezeNext's.
RELEASED: dict[Library, list[tuple[Model, ...]]] = {
    "torchvision": [
        ({"name": name},)
        for name in ("squeezenet_v1_0", "squeezenet_v1_1", "alexnet_torchvision", "vgg16", "vgg19")
    ],
    "pytorchcv": [
        ({"name": "squeezenet_v1_0"}, {"name": "squeezenet_simple_bypass"}),
        ({"name": "squeezenet_v1_1"}, {"name": "squeezenet_v1_1", "bypass": "simple"}),
        *(({"name": name},) for name in models.model_names() if name.endswith("_pytorchcv")),
    ],
    "caffe": [
        (
            {"name": "squeezenet_v1_0_released"},
            {"name": "squeezenet_v1_0_released", "bypass": "simple"},
        ),
        ({"name": "squeezenet_v1_1"}, {"name": "squeezenet_v1_1", "bypass": "simple"}),
        *(({"name": name},) for name in ("alexnet", "vgg16", "vgg19")),
        *(
            ({"name": f"squeezenext_{name}"},)
            for name in ("23", "23_v5", "23_g", "23_w2", "23_v5_w2", "44_w2")
        ),
    ],
}


def identify(path: Path, kind: str, candidates: Sequence[Candidate], arrays: Arrays) -> Network:
    """Returns the network of the first candidate whose weights these arrays are.

    Args:
      path: of the file, for messages.
      kind: the format's name, for the network's source.
      candidates: libraries and models.
      arrays: float32, by foreign name.

    Raises:
      UserError: no candidate fits, and how the nearest does not; or several do.
    """
    is_given = all(nets == candidates[0][1] for _, nets in candidates)
    nearest: tuple[int, str] | None = None
    unnamed: UserError | None = None
    for library, nets in candidates:
        try:
            table = parameter_names.weights(nets[0], _UNKNOWN, library)
        except UserError as e:  # this library has no such network, but the next may
            unnamed = e
            continue
        wanted = {name for weight in table for name in weight.names}
        if not is_given and 2 * len(wanted ^ arrays.keys()) >= len(wanted):
            continue  # a damaged file of a network shares most names with it
        fitted = _drop_leading_ones(arrays, table) if library == "caffe" else arrays
        num_classes = _count_classes(table, fitted)
        table = parameter_names.weights(nets[0], num_classes, library)
        count, faults = find_faults(fitted, table)
        if not count:
            if len(nets) > 1:
                raise UserError(
                    f"{path}: {' and '.join(map(_describe, nets))} have the same weights, and the "
                    "file does not say: give --model"
                )
            return build_network(path, kind, nets[0], num_classes, library, table, fitted)
        if nearest is None or count < nearest[0]:
            nearest = count, f"{path}: not {_describe(nets[0])} in {library}'s names: {faults}"
    if nearest:
        raise UserError(nearest[1])
    if is_given and unnamed:
        raise unnamed
    raise UserError(
        f"{path}: its {len(arrays)} arrays are not those of a released network: give --model"
    )


def _describe(model: Model) -> str:
    """Returns a model in words, such as "squeezenet_v1_1 with bypass=simple"."""
    options = (f"{key}={value}" for key, value in model.items() if key != "name")
    return " with ".join([model["name"], *options])


def _drop_leading_ones(arrays: Arrays, table: Sequence[Weight]) -> Arrays:
    """Drops the leading axes of Caffe's old format, whose blobs always have four dimensions."""
    dimensions = {
        name: len(shape)
        for weight in table
        for name, shape in zip(weight.names, weight.foreign_shapes, strict=True)
    }
    fitted = {}
    for name, array in arrays.items():
        while array.ndim > dimensions.get(name, array.ndim) and array.shape[0] == 1:
            array = array[0]
        fitted[name] = array
    return fitted


def _count_classes(table: Sequence[Weight], arrays: Arrays) -> int:
    """Returns how many classes the file's last layer has; 1000 if the file has no such layer.

    Args:
      table: the weights of a network with _UNKNOWN classes.
      arrays: the file's.
    """
    for weight in table:
        for name, shape in zip(weight.names, weight.foreign_shapes, strict=True):
            array = arrays.get(name)
            if _UNKNOWN in shape and array is not None and array.ndim == len(shape) and array.size:
                return array.shape[shape.index(_UNKNOWN)]
    return 1000


def find_faults(arrays: Arrays, table: Sequence[Weight]) -> tuple[int, str]:
    """Counts and lists arrays that are missing, left over, misshapen or not finite."""
    wanted = {
        name: shape
        for weight in table
        for name, shape in zip(weight.names, weight.foreign_shapes, strict=True)
    }
    present = [name for name in wanted if name in arrays]
    found_by_kind = {
        "lacks ": [name for name in wanted if name not in arrays],
        "has also ": [name for name in arrays if name not in wanted],
        "": [
            f"{name} is {list(arrays[name].shape)[:8]}, not {list(wanted[name])}"
            for name in present
            if arrays[name].shape != wanted[name]
        ],
        "not finite is ": [name for name in present if not np.isfinite(arrays[name]).all()],
    }
    words = (f"{kind}{list_names(found)}" for kind, found in found_by_kind.items() if found)
    return sum(map(len, found_by_kind.values())), "; ".join(words)


def build_network(
    path: Path,
    kind: str,
    model: Model,
    num_classes: int,
    library: Library,
    table: Sequence[Weight],
    arrays: Arrays,
) -> Network:
    """Builds the network of arrays that fit the table, with its library's preprocessing."""
    is_imagenet = num_classes == 1000
    return Network(
        model,
        imagenet.class_names() if is_imagenet else numbered_classes(num_classes),
        imagenet.CAFFE if library == "caffe" else imagenet.TORCH,
        *parameter_names.decode_weights(table, arrays),
        source=f"{path.name}, {kind}",
        has_class_names=is_imagenet,
    )


def read_described(path: Path, text: str, arrays: Arrays) -> Network:
    """Returns the network that a file's own metadata describe.

    Args:
      path: of the file, for messages.
      text: `Network.metadata()` as JSON, or something that claims to be that.
      arrays: float32, by foreign name.

    Raises:
      UserError: the metadata describe no network, or one whose weights the arrays are not.
    """
    try:
        metadata = json.loads(text)
        validate_metadata(metadata, [array.shape for array in arrays.values()])
        model, num_classes = metadata["model"], metadata["num_classes"]
        library = parameter_names.matching_library(model, num_classes)
        table = parameter_names.weights(model, num_classes, library)
    except (
        UserError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        IndexError,
    ) as e:
        raise UserError(f"{path}: its metadata describe no network: {list_names([str(e)])}") from e
    count, faults = find_faults(arrays, table)
    if count:
        raise UserError(f"{path}: not the network that its metadata describe: {faults}")
    return Network.from_metadata(metadata, *parameter_names.decode_weights(table, arrays))
