"""Which network a file holds, and whether all of its weights are there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from squeeze_jax import models
from squeeze_jax.convert import parameter_names
from squeeze_jax.convert.imported import Imported
from squeeze_jax.convert.parameter_names import Library, Weight
from squeeze_jax.errors import UserError, list_names
from squeeze_jax.models import conv_backend
from squeeze_jax.network import (
    Network,
    abstract_model,
    forward,
    imagenet,
    split_model,
    validate_metadata,
)
from squeeze_jax.network.config import DEFAULT_CHANNELS, IN_CHANNELS
from squeeze_jax.network.labels import numbered_classes
from squeeze_jax.network.preprocessing import in_grey

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


def identify(
    path: Path,
    kind: str,
    candidates: Sequence[Candidate],
    arrays: Arrays,
    num_classes: int | None = None,
) -> Imported:
    """Returns the network of the first candidate whose weights these arrays are.

    Args:
      path: of the file, for messages.
      kind: the format's name, for the network's source.
      candidates: libraries and models.
      arrays: float32, by foreign name.
      num_classes: of the network; None if the file has to tell.

    Raises:
      UserError: no candidate fits, and how the nearest does not; or several do.
    """
    is_given = all(nets == candidates[0][1] for _, nets in candidates)
    nearest: tuple[int, str] | None = None
    unnamed: UserError | None = None
    is_similar = any(name.endswith("/kernel") for name in arrays)  # our own names
    for library, nets in candidates:
        first, *twins = nets
        try:
            table = parameter_names.weights(first, _UNKNOWN, library)
        except UserError as e:  # this library has no such network, but the next may
            unnamed = e
            continue
        wanted = {name for weight in table for name in weight.names}
        is_similar = is_similar or 2 * len(wanted & arrays.keys()) >= len(arrays)
        if not is_given and 2 * len(wanted ^ arrays.keys()) >= len(wanted):
            continue  # a damaged file of a network shares most names with it
        fitted, changes = _rename_classifier(arrays, table)
        fitted = _drop_leading_ones(fitted, table) if library == "caffe" else fitted
        count_classes = num_classes or _count_classes(table, fitted)
        table = parameter_names.weights(first, count_classes, library)
        count, faults = find_faults(fitted, table)
        grey = {**first, IN_CHANNELS: 1}
        if count == 1 and IN_CHANNELS not in first and models.takes(first["name"], IN_CHANNELS):
            in_grey = parameter_names.weights(grey, count_classes, library)
            if not find_faults(fitted, in_grey)[0]:
                first, table, count = grey, in_grey, 0
        if not count:
            if twins:
                raise UserError(
                    f"{path}: {' and '.join(map(_describe, nets))} have the same weights, and the "
                    "file does not say: give --model"
                )
            network = build_network(path, kind, first, count_classes, library, table, fitted)
            return Imported(network, changes)
        if nearest is None or count < nearest[0]:
            nearest = count, f"{path}: not {_describe(first)} in {library}'s names: {faults}"
    if nearest:
        raise UserError(nearest[1])
    if is_given and unnamed:
        raise unnamed
    if is_similar:
        raise UserError(
            f"{path}: its {len(arrays)} arrays are not those of a released network: give --model"
        )
    raise UserError(
        f"{path}: its {len(arrays)} arrays ({list_names(list(arrays))}) are those of another kind "
        f"of network than {', '.join(models.FAMILIES)}"
    )


def check_definition(path: Path, model: Model, num_classes: int) -> None:
    """Rejects a model that pads or pools otherwise than the released network of its weights.

    Files in Caffe's formats hold no such thing. Options that the caller gives may differ.

    Args:
      path: of the file, for messages.
      model: name and options that the caller gave.
      num_classes: of the network in the file.

    Raises:
      UserError: it is such a model; or there is no such model or option.
    """
    options = {key: value for key, value in model.items() if key != "name"}

    def shapes(network: Model) -> dict[str, tuple[int, ...]]:
        return {w.path: w.shape for w in parameter_names.weights(network, num_classes, "caffe")}

    family, given = models.find(model["name"])[0], shapes(model)
    released = (network for nets in RELEASED["caffe"] for network in nets)
    twins = [
        network
        for network in released
        if models.find(network["name"])[0] is family and shapes(network) == given
    ]
    if twins and _computation(model) not in [
        _computation({**network, **options}) for network in twins
    ]:
        names = " or ".join(dict.fromkeys(network["name"] for network in twins))
        raise UserError(
            f"{path}: {model['name']} has the weights of Caffe's {names}, but computes other "
            f"logits: give --model {names}"
        )


def _computation(model: Model) -> str:
    """Returns the equations of a model's forward pass."""
    network = abstract_model(model, 1000)
    graphdef, params, stats = split_model(network)
    size = models.find(model["name"])[1].input_size
    channels = model.get(IN_CHANNELS, DEFAULT_CHANNELS)
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    with conv_backend.conv_backend("native"):
        return str(jax.make_jaxpr(lambda *x: forward(graphdef, *x)[0])(params, stats, images))


def _rename_classifier(arrays: Arrays, table: Sequence[Weight]) -> tuple[Arrays, tuple[str, ...]]:
    """Gives a last layer that was renamed, as for fine-tuning, the name that the table has.

    Args:
      arrays: the file's.
      table: the weights of a network with _UNKNOWN classes.

    Returns:
      The arrays, and what was changed.
    """
    shapes = {
        name: shape
        for weight in table
        for name, shape in zip(weight.names, weight.foreign_shapes, strict=True)
    }
    last = [name for name, shape in shapes.items() if _UNKNOWN in shape]
    left = [name for name in arrays if name not in shapes]
    ours, theirs = _layer(last), _layer(left)
    renamed = {f"{theirs}{name.removeprefix(ours)}": name for name in last}
    if (
        not ours
        or not theirs
        or any(name in arrays for name in last)
        or set(renamed) != set(left)
        or not all(_fits(arrays[name].shape, shapes[renamed[name]]) for name in left)
    ):
        return arrays, ()
    fitted = {renamed.get(name, name): array for name, array in arrays.items()}
    return fitted, (f"its last layer {list_names([theirs])} as {ours}",)


def _layer(names: Sequence[str]) -> str:
    """Returns the layer that all names are of, "conv10" of "conv10[0]"; "" if there is none."""
    separator = "[" if all("[" in name for name in names) else "."
    layers = {name.rpartition(separator)[0] for name in names}
    return layers.pop() if len(layers) == 1 else ""


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Returns whether a shape is one for some number of classes; Caffe's may begin with ones."""
    extra = len(shape) - len(wanted)
    return (
        extra >= 0
        and set(shape[:extra]) <= {1}
        and all(want in (_UNKNOWN, size) for size, want in zip(shape[extra:], wanted, strict=True))
    )


def _describe(model: Model) -> str:
    """Returns a model in words, such as "squeezenet_v1_1 with bypass=simple"."""
    options = [f"{key}={value}" for key, value in model.items() if key != "name"]
    return f"{model['name']} with {', '.join(options)}" if options else model["name"]


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
    preprocessing = imagenet.CAFFE if library == "caffe" else imagenet.TORCH
    if model.get(IN_CHANNELS, DEFAULT_CHANNELS) == 1:
        preprocessing = in_grey(preprocessing)
    return Network(
        model,
        imagenet.class_names() if is_imagenet else numbered_classes(num_classes),
        preprocessing,
        *parameter_names.decode_weights(table, arrays),
        source=f"{path.name}, {kind}",
        has_class_names=is_imagenet,
    )


def read_described(path: Path, text: str, arrays: Arrays, given: Model | None = None) -> Network:
    """Returns the network that a file's own metadata describe.

    Args:
      path: of the file, for messages.
      text: `Network.metadata()` as JSON, or something that claims to be that.
      arrays: float32, by foreign name.
      given: the model that the caller says it is.

    Raises:
      UserError: the metadata describe no network, one whose weights the arrays are not, or another
        model than the given one.
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
    other = {
        key: value
        for key, value in (given or {}).items()
        if value is not None and model.get(key) != (list(value) if type(value) is tuple else value)
    }
    if given and other:
        raise UserError(
            f"{path}: its metadata say that it is {_describe(model)}, not "
            f"{_describe({'name': given['name'], **other})}: leave out --model"
        )
    count, faults = find_faults(arrays, table)
    if count:
        raise UserError(f"{path}: not the network that its metadata describe: {faults}")
    return Network.from_metadata(metadata, *parameter_names.decode_weights(table, arrays))
