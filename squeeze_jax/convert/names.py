"""What the weights of a net are called elsewhere, and how their arrays are laid out there.

Worlds:

* ``torchvision``: SqueezeNet's, AlexNet's and VGG's state dicts (github pytorch/vision, torchvision/models).
* ``pytorchcv``: SqueezeNet's, with or without simple bypass, and SqueezeNext's (github osmr/pytorchcv). Its convolutions have a
  bias before BatchNorm, which is exactly a smaller running mean.
* ``caffe``: the released nets (github forresti/SqueezeNet, songhan/SqueezeNet-Residual, amirgholami/SqueezeNext, BVLC/caffe);
  ``conv1[0]`` is the first blob of layer conv1.
* ``squeeze_jax``: our own paths, as ``fire2/squeeze/kernel``, and layouts.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from flax import nnx

from squeeze_jax.errors import UserError
from squeeze_jax.models.alexnet import AlexNet
from squeeze_jax.models.squeezenet import SqueezeNet
from squeeze_jax.models.squeezenext import SqueezeNext
from squeeze_jax.models.vgg import VGG
from squeeze_jax.network import Tree, build_model, leaves_by_path, split_model

World = Literal["torchvision", "pytorchcv", "caffe", "squeeze_jax"]


class Conversion(NamedTuple):
    """Between the foreign arrays of one of our weights and ours; exact inverses of each other."""

    decode: Callable[..., np.ndarray]  # foreign arrays -> ours
    encode: Callable[[np.ndarray], tuple[np.ndarray, ...]]  # ours -> foreign arrays


def _divided(total: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Caffe's running sums over the weight they have gathered; 0 before the first batch, as Caffe has it."""
    return total / factor if factor.item() else np.zeros_like(total)


SAME = Conversion(lambda x: x, lambda x: (x,))
CONVOLUTION = Conversion(
    lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),)
)  # [O, I, H, W] <-> [H, W, I, O]
DENSE = Conversion(lambda x: x.T, lambda x: (x.T,))  # [out, in] <-> [in, out]
MEAN_AND_BIAS = Conversion(lambda mean, bias: mean - bias, lambda x: (x, np.zeros_like(x)))
SUM_AND_FACTOR = Conversion(_divided, lambda x: (x, np.ones(1, np.float32)))


def _flattened(size: int) -> Conversion:
    """[out, C * size * size] <-> [size * size * C, out]: a dense layer behind size x size positions, flattened from NCHW there."""
    return Conversion(
        lambda x: x.reshape(len(x), -1, size, size).transpose(2, 3, 1, 0).reshape(-1, len(x)),
        lambda x: (
            x.reshape(size, size, -1, x.shape[1]).transpose(3, 2, 0, 1).reshape(x.shape[1], -1),
        ),
    )


class Weight(NamedTuple):
    """One of our weights and what it is made of elsewhere."""

    path: str  # "fire2/squeeze/kernel"
    shape: tuple[int, ...]
    statistic: bool  # of a BatchNorm, not a parameter
    names: tuple[str, ...]  # foreign
    conversion: Conversion

    @property
    def foreign_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each foreign array."""
        # An array without memory: one element that is read everywhere.
        return tuple(
            array.shape
            for array in self.conversion.encode(np.broadcast_to(np.float32(0), self.shape))
        )


# (world, whether BatchNorm follows the layer) -> leaf -> foreign names; {} is the layer's name from the functions below.
_PLAIN_TORCH = {"kernel": ("{}.weight",), "bias": ("{}.bias",)}
_LEAVES: dict[tuple[World, bool], dict[str, tuple[str, ...]]] = {
    ("torchvision", False): _PLAIN_TORCH,
    ("pytorchcv", False): _PLAIN_TORCH,
    ("pytorchcv", True): {
        "kernel": ("{}.conv.weight",),
        "bn/scale": ("{}.bn.weight",),
        "bn/bias": ("{}.bn.bias",),
        "bn/mean": ("{}.bn.running_mean", "{}.conv.bias"),
        "bn/var": ("{}.bn.running_var",),
    },
    ("caffe", False): {"kernel": ("{}[0]",), "bias": ("{}[1]",)},
    ("caffe", True): {
        "kernel": ("Convolution{}[0]",),
        "bn/scale": ("Scale{}[0]",),
        "bn/bias": ("Scale{}[1]",),
        "bn/mean": ("BatchNorm{}[0]", "BatchNorm{}[2]"),
        "bn/var": ("BatchNorm{}[1]", "BatchNorm{}[2]"),
    },
}
_OF_SEVERAL: dict[World, Conversion] = {"pytorchcv": MEAN_AND_BIAS, "caffe": SUM_AND_FACTOR}

# world -> names of conv1, of a Fire module's layer and of conv10, and of the three layers.
_SQUEEZENET: dict[World, tuple[str, str, str, tuple[str, str, str]]] = {
    "torchvision": ("features.0", "features.{index}.{part}", "classifier.1", ("squeeze", "expand1x1", "expand3x3")),
    "pytorchcv": (
        "features.init_block.conv", "features.stage{stage}.unit{unit}.{part}.conv", "output.final_conv",
        ("squeeze", "expand1x1", "expand3x3"),
    ),
    "caffe": ("conv1", "{fire}/{part}", "conv10", ("squeeze1x1", "expand1x1", "expand3x3")),
}  # fmt: skip


def _squeezenet(net: SqueezeNet, world: World) -> dict[str, str]:
    if world == "pytorchcv" and "conv1" not in net.pool_after:
        return {}  # every stage of pytorchcv's begins with a pool
    conv1, of_fire, conv10, parts = _SQUEEZENET[world]
    layers = {"conv1": conv1}
    # index: the place in torchvision's Sequential, which holds conv1, its ReLU, the pools and the Fire modules.
    index, stage, unit, previous = 2, 0, 0, "conv1"
    for fire in net.fire_names:
        if previous in net.pool_after:
            index, stage, unit = index + 1, stage + 1, 0
        unit += 1
        for ours, part in zip(("squeeze", "expand1x1", "expand3x3"), parts, strict=True):
            layers[f"{fire}/{ours}"] = of_fire.format(
                index=index, stage=stage, unit=unit, fire=fire, part=part
            )
        index, previous = index + 1, fire
    return layers | {"conv10": conv10}


# Our layers of a block, in order of execution, and pytorchcv's.
_BLOCK = {
    "shortcut": "identity_conv",
    "reduce1": "conv1",
    "reduce2": "conv2",
    "separable1": "conv3",
    "separable2": "conv4",
    "expand": "conv5",
}


def _squeezenext(net: SqueezeNext, world: World) -> dict[str, str]:
    layers = {"conv1": "features.init_block.conv"}
    for stage, count in enumerate(net.blocks, start=1):
        for unit in range(1, count + 1):
            parts = {
                ours: theirs for ours, theirs in _BLOCK.items() if unit == 1 or ours != "shortcut"
            }
            layers |= {
                f"stage{stage}_block{unit}/{ours}": f"features.stage{stage}.unit{unit}.{theirs}"
                for ours, theirs in parts.items()
            }
    layers["bottleneck"] = "features.final_block"
    if world == "caffe":  # numbered in order of execution
        layers = {ours: str(number) for number, ours in enumerate(layers, start=1)}
    return layers | {"classifier": "fc1000" if world == "caffe" else "output"}


def _alexnet(net: AlexNet, world: World) -> dict[str, str]:
    if net.caffe != (world == "caffe"):
        return {}
    return _with_dense_layers(
        {"conv1": 3, "conv2": 3, "conv3": 2, "conv4": 2, "conv5": 3}, (1, 4, 6), world
    )


def _vgg(net: VGG, world: World) -> dict[str, str]:
    slots = {
        f"conv{stage}_{i}": 3 if i == count else 2
        for stage, count in enumerate(net.stages, 1)
        for i in range(1, count + 1)
    }
    return _with_dense_layers(slots, (0, 3, 6), world)


def _with_dense_layers(
    slots: Mapping[str, int], classifier: Sequence[int], world: World
) -> dict[str, str]:
    """slots: how many places of torchvision's Sequential each convolution takes with the ReLU and the pool behind it."""
    layers, index = {}, 0
    for name, taken in slots.items():
        layers[name] = name if world == "caffe" else f"features.{index}"
        index += taken
    return layers | {
        name: name if world == "caffe" else f"classifier.{i}"
        for name, i in zip(("fc6", "fc7", "fc8"), classifier)
    }


# module -> the worlds that define it, and the foreign name of every layer, in order of execution.
_FAMILIES: dict[type[nnx.Module], tuple[set[World], Callable[[Any, World], dict[str, str]]]] = {
    SqueezeNet: ({"torchvision", "pytorchcv", "caffe"}, _squeezenet),
    SqueezeNext: ({"pytorchcv", "caffe"}, _squeezenext),
    AlexNet: ({"torchvision", "caffe"}, _alexnet),
    VGG: ({"torchvision", "caffe"}, _vgg),
}
_POSITIONS = {AlexNet: 6, VGG: 7}  # rows and columns that fc6 sees


def weights(model: Mapping[str, Any], num_classes: int, world: World) -> list[Weight]:
    """Every weight of a net, in order of execution; nothing is allocated.

    Args:
      model: name and options, as `net.build_model` takes them.
      num_classes: outputs.
      world: whose names.

    Raises:
      UserError: no such model or option, or `world` has no net with these layers.
    """
    return list(_weights(json.dumps(dict(model)), num_classes, world))


@functools.lru_cache(
    maxsize=64
)  # building a SqueezeNext takes half a second, and an import asks more than once
def _weights(model: str, num_classes: int, world: World) -> tuple[Weight, ...]:
    record = json.loads(model)
    net = nnx.eval_shape(lambda: build_model(record, num_classes))
    _, params, stats = split_model(net)
    statistics = leaves_by_path(stats)
    shapes = {
        path: tuple(leaf.shape) for path, leaf in (leaves_by_path(params) | statistics).items()
    }
    if world == "squeeze_jax":
        return tuple(
            Weight(path, shape, path in statistics, (path,), SAME) for path, shape in shapes.items()
        )
    defined, layers_of = _FAMILIES.get(type(net), (set(), None))
    layers = layers_of(net, world) if world in defined else {}
    table = []
    for layer, name in layers.items():
        for leaf, foreign in _LEAVES.get((world, f"{layer}/bn/scale" in shapes), {}).items():
            path = f"{layer}/{leaf}"
            if path in shapes:
                names = tuple(template.format(name) for template in foreign)
                conversion = (
                    _OF_SEVERAL[world]
                    if len(names) > 1
                    else _conversion(path, shapes[path], _POSITIONS.get(type(net)))
                )
                table.append(Weight(path, shapes[path], path in statistics, names, conversion))
    if unnamed := shapes.keys() - {weight.path for weight in table}:
        raise UserError(
            f"{world} has no net with the layers of {record['name']} with these options: no name for {min(unnamed)}"
        )
    return tuple(table)


def _conversion(path: str, shape: tuple[int, ...], positions: int | None) -> Conversion:
    if path == "fc6/kernel":
        return _flattened(positions)
    return {1: SAME, 2: DENSE, 4: CONVOLUTION}[len(shape)]


def world_of(model: Mapping[str, Any], num_classes: int) -> World:
    """The library whose definition, given these weights, computes what this net computes: torchvision, else pytorchcv, else we.

    Weights do not show everything, so what they hide is compared here: strides and padding, the last ReLU, a pool at the end.
    """
    net = nnx.eval_shape(lambda: build_model(model, num_classes))
    match net:
        case SqueezeNet():
            plain_ends = (
                net.conv1.stride == 2
                and _padding(net.conv1) == 0
                and _padding(net.conv10) == 0
                and net.conv10_relu
            )
            exact = plain_ends and ("conv1", *net.fire_names)[-1] not in net.pool_after
            world = "pytorchcv" if net.identities else "torchvision"
        case SqueezeNext():
            exact = (
                net.conv1.stride == 2
                and _padding(net.conv1) == 1
                and net.pool1
                and not net.stage1_block1.rewired
            )
            exact = (
                exact
                and net.stage1_block1.separable1.kernel.shape[:2] == (1, 3)
                and net.stage1_block1.reduce1.groups == 1
            )
            exact, world = exact and hasattr(net.classifier, "bias"), "pytorchcv"
        case _:
            exact, world = True, "torchvision"
    try:
        weights(model, num_classes, world)
    except UserError:
        exact = False
    return world if exact else "squeeze_jax"


def _padding(conv: Any) -> int:
    return max(map(max, conv.padding))


def trees(table: Sequence[Weight], arrays: Mapping[str, np.ndarray]) -> tuple[Tree, Tree]:
    """(params, stats) as nested dicts of float32 arrays, from the foreign arrays by name, all of them there and of their shapes."""
    found: tuple[Tree, Tree] = ({}, {})
    for weight in table:
        node = found[weight.statistic]
        *parents, leaf = weight.path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = np.ascontiguousarray(
            weight.conversion.decode(*(arrays[name] for name in weight.names)), np.float32
        )
    return found


def shown(found: Sequence[str], most: int = 3) -> str:
    """The first names of a list and how many more there are; names come from files and may be anything."""
    first = ["".join(c if c.isprintable() else "?" for c in name[:100]) for name in found[:most]]
    return ", ".join(first) + (f" and {len(found) - most} more" if len(found) > most else "")
