"""A net out of a file of another world: which net it is, whether all its weights are there, and what its inputs mean."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_jax import models
from squeeze_jax.convert import names
from squeeze_jax.convert.names import shown
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, imagenet, validate_metadata

Arrays = Mapping[str, np.ndarray]  # by foreign name
Model = dict[str, Any]  # name and options, as `net.build_model` takes them

SUFFIXES = {
    ".net": "Deep Compression",
    ".caffemodel": "Caffe",
    ".pth": "PyTorch",
    ".pt": "PyTorch",
    ".safetensors": "safetensors",
}

_UNKNOWN = 1_000_003  # classes of a net before the file has told: a size that no other layer has

# What a file of a world can be if the caller does not say: one line for each set of names and shapes, more than one net on a line
# where these do not tell nets apart. The released Caffe nets are v1.0 with a padded conv10, v1.1, and SqueezeNext's.
_RELEASED: dict[names.World, list[tuple[Model, ...]]] = {
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


def import_network(
    source: Path, model: str | None = None, options: Mapping[str, Any] | None = None
) -> Network:
    """The net in a weight file.

    The format follows from the suffix, the world from the names inside, the number of classes from the classifier's shape. Nets
    from Caffe get Caffe's preprocessing, those from PyTorch torchvision's; 1,000 classes are ImageNet's, others are called by
    their number. Files that `torch.write_safetensors` wrote say all of this themselves.

    Args:
      source: a .caffemodel, .net, .pth, .pt or .safetensors file.
      model: a registered name, where the file does not tell which net it is, or tells too little.
      options: of that model.

    Raises:
      UserError: no such file, model or option; the file is damaged, or is not this model's; or it does not tell and no model is given.
    """
    source, options = Path(source), dict(options or {})
    if source.suffix not in SUFFIXES:
        raise UserError(f"{source}: its suffix is none of {', '.join(SUFFIXES)}")
    if not source.is_file():
        raise UserError(f"{source}: no such file")
    if options and model is None:
        raise UserError("options are those of a model: give --model as well")
    given = None if model is None else {"name": model, **options}
    try:
        return _READERS[source.suffix](source, given)
    except OSError as e:
        raise UserError(f"{source}: {e.strerror or e}") from e


def _from_deep_compression(source: Path, given: Model | None) -> Network:
    from squeeze_jax.convert import deep_compression

    model = given or {"name": "squeezenet_v1_0_released"}
    table = names.weights(model, 1000, "caffe")
    if any(
        weight.path.rpartition("/")[2] != leaf
        for weight, leaf in zip(table, ("kernel", "bias") * len(table))
    ):
        raise UserError(
            f"{source}: such a file holds layers of weights and biases only, which {model['name']} does not consist of"
        )
    shapes = [weight.foreign_shapes[0] for weight in table]
    layers = deep_compression.read(source, list(zip(shapes[::2], shapes[1::2])))
    arrays = dict(
        zip((weight.names[0] for weight in table), (array for layer in layers for array in layer))
    )
    faults, words = _faults(arrays, table)
    if faults:
        raise UserError(f"{source}: {words}")
    return _net(source, model, 1000, "caffe", table, arrays)


def _from_caffe(source: Path, given: Model | None) -> Network:
    from squeeze_jax.convert import caffe

    layers = caffe.read(source)
    arrays = {
        f"{name}[{index}]": blob
        for name, layer in layers.items()
        for index, blob in enumerate(layer.blobs)
    }
    bypass = any(
        layer.type == "Eltwise" for layer in layers.values()
    )  # which SqueezeNext has too, but in one way only
    candidates = [given] if given else [nets[-1 if bypass else 0] for nets in _RELEASED["caffe"]]
    return _best(source, [("caffe", (net,)) for net in candidates], arrays)


def _from_torch(source: Path, given: Model | None) -> Network:
    from squeeze_jax.convert import torch

    if source.suffix != ".safetensors":
        arrays, metadata = torch.read_pth(source), {}
    else:
        arrays, metadata = torch.read_safetensors(source)
    if torch.RECORD in metadata and not given:
        return _recorded(source, metadata[torch.RECORD], arrays)
    if given:
        return _best(
            source,
            [(world, (given,)) for world in ("torchvision", "pytorchcv", "squeeze_jax")],
            arrays,
        )
    return _best(
        source,
        [(world, nets) for world in ("torchvision", "pytorchcv") for nets in _RELEASED[world]],
        arrays,
    )


_READERS = {
    ".net": _from_deep_compression,
    ".caffemodel": _from_caffe,
    **dict.fromkeys((".pth", ".pt", ".safetensors"), _from_torch),
}


def _best(
    source: Path, candidates: Sequence[tuple[names.World, tuple[Model, ...]]], arrays: Arrays
) -> Network:
    """The net of the first candidate that the arrays fit.

    Args:
      source: of the arrays, for messages.
      candidates: (world, nets that its names and shapes do not tell apart).
      arrays: the file's, by foreign name.

    Raises:
      UserError: none fits, and how the nearest does not; or more than one.
    """
    told = all(nets == candidates[0][1] for _, nets in candidates)
    nearest: tuple[int, str] | None = None
    unnamed: UserError | None = None
    for world, nets in candidates:
        try:
            table = names.weights(nets[0], _UNKNOWN, world)
        except UserError as e:  # this world has no such net, but the next may
            unnamed = e
            continue
        wanted = {name for weight in table for name in weight.names}
        if not told and 2 * len(wanted ^ arrays.keys()) >= len(wanted):
            continue  # what shares next to no names with a net is no damaged file of it
        fitted = _without_leading_ones(arrays, table) if world == "caffe" else arrays
        num_classes = _classes(table, fitted)
        table = names.weights(nets[0], num_classes, world)
        faults, words = _faults(fitted, table)
        if not faults:
            if len(nets) > 1:
                raise UserError(
                    f"{source}: {' and '.join(map(_words, nets))} have the same weights, and the file does not say: give --model"
                )
            return _net(source, nets[0], num_classes, world, table, fitted)
        if nearest is None or faults < nearest[0]:
            nearest = faults, f"{source}: not {_words(nets[0])} in {world}'s names: {words}"
    if nearest:
        raise UserError(nearest[1])
    if told and unnamed:
        raise unnamed
    raise UserError(
        f"{source}: its {len(arrays)} arrays are not those of a released net: give --model"
    )


def _words(net: Model) -> str:
    """squeezenet_v1_1 with bypass=simple"""
    return " with ".join(
        [net["name"], *(f"{key}={value}" for key, value in net.items() if key != "name")]
    )


def _without_leading_ones(arrays: Arrays, table: Sequence[names.Weight]) -> Arrays:
    """Blobs of the old format, which have four dimensions whatever they hold, with those that they need."""
    dimensions = {
        name: len(shape)
        for weight in table
        for name, shape in zip(weight.names, weight.foreign_shapes)
    }
    fitted = {}
    for name, array in arrays.items():
        while array.ndim > dimensions.get(name, array.ndim) and array.shape[0] == 1:
            array = array[0]
        fitted[name] = array
    return fitted


def _classes(table: Sequence[names.Weight], arrays: Arrays) -> int:
    """How many classes the file's last layer has, from the table for _UNKNOWN of them; 1000 where it has no such layer."""
    for weight in table:
        for name, shape in zip(weight.names, weight.foreign_shapes):
            array = arrays.get(name)
            if _UNKNOWN in shape and array is not None and array.ndim == len(shape) and array.size:
                return array.shape[shape.index(_UNKNOWN)]
    return 1000


def _faults(arrays: Arrays, table: Sequence[names.Weight]) -> tuple[int, str]:
    """How many arrays are missing, left over, of the wrong shape or not finite, and which, in words."""
    wanted = {
        name: shape for weight in table for name, shape in zip(weight.names, weight.foreign_shapes)
    }
    missing = [name for name in wanted if name not in arrays]
    left_over = [name for name in arrays if name not in wanted]
    present = [name for name in wanted if name in arrays]
    misshapen = [
        f"{name} is {list(arrays[name].shape)[:8]}, not {list(wanted[name])}"
        for name in present
        if arrays[name].shape != wanted[name]
    ]
    infinite = [name for name in present if not np.isfinite(arrays[name]).all()]
    kinds = {"lacks ": missing, "has also ": left_over, "": misshapen, "not finite is ": infinite}
    return sum(map(len, kinds.values())), "; ".join(
        f"{words}{shown(found)}" for words, found in kinds.items() if found
    )


def _net(
    source: Path,
    model: Model,
    num_classes: int,
    world: names.World,
    table: Sequence[names.Weight],
    arrays: Arrays,
) -> Network:
    """The net of arrays that fit the table."""
    class_names = (
        imagenet.class_names() if num_classes == 1000 else tuple(map(str, range(num_classes)))
    )
    preprocessing = imagenet.CAFFE if world == "caffe" else imagenet.TORCH
    return Network(
        model,
        class_names,
        preprocessing,
        *names.trees(table, arrays),
        source=f"{source.name}, {SUFFIXES[source.suffix]}",
    )


def _recorded(source: Path, text: str, arrays: Arrays) -> Network:
    """The net of a file that `torch.write_safetensors` wrote, or that claims to be one.

    Raises:
      UserError: the record describes no net, or one that the arrays are not of.
    """
    try:
        record = json.loads(text)
        validate_metadata(record, [array.shape for array in arrays.values()])
        world = names.world_of(record["model"], record["num_classes"])
        table = names.weights(record["model"], record["num_classes"], world)
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
        raise UserError(f"{source}: its record describes no net: {shown([str(e)])}") from e
    faults, words = _faults(arrays, table)
    if faults:
        raise UserError(f"{source}: not the net of its record: {words}")
    return Network.from_metadata(record, *names.trees(table, arrays))
