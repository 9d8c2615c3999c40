"""What the weights of a network are called in other libraries, and their layouts there.

Libraries:

* ``torchvision``: the state dicts of SqueezeNet, AlexNet and VGG (github pytorch/vision,
  torchvision/models).
* ``pytorchcv``: those of SqueezeNet, with or without simple bypass, and of SqueezeNext (github
  osmr/pytorchcv). Its convolutions have a bias before BatchNorm, which is exactly a smaller
  running mean.
* ``caffe``: the released networks (github forresti/SqueezeNet, songhan/SqueezeNet-Residual,
  amirgholami/SqueezeNext, BVLC/caffe). ``conv1[0]`` is the first blob of layer conv1.
* ``squeeze_jax``: our own paths, such as ``fire2/squeeze/kernel``, and layouts.
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
from squeeze_jax.network import Tree, abstract_model, leaves_by_path, split_model

Library = Literal["torchvision", "pytorchcv", "caffe", "squeeze_jax"]


class Conversion(NamedTuple):
    """Converts between the foreign arrays of one weight and ours; exact inverses of each other."""

    decode: Callable[..., np.ndarray]  # foreign arrays -> ours
    encode: Callable[[np.ndarray], tuple[np.ndarray, ...]]  # ours -> foreign arrays


def _divide_by_factor(total: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Divides Caffe's running sum by its weight; returns zeros for weight 0, as Caffe does."""
    return total / factor if factor.item() else np.zeros_like(total)


IDENTITY = Conversion(lambda x: x, lambda x: (x,))
# [out, in, height, width] <-> [height, width, in, out]
CONVOLUTION = Conversion(lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),))
# [out, in] <-> [in, out]
DENSE = Conversion(lambda x: x.T, lambda x: (x.T,))
MEAN_AND_BIAS = Conversion(lambda mean, bias: mean - bias, lambda x: (x, np.zeros_like(x)))
SUM_AND_FACTOR = Conversion(_divide_by_factor, lambda x: (x, np.ones(1, np.float32)))


def _dense_after_flatten(size: int) -> Conversion:
    """Returns the conversion of a dense layer that follows a flattened map of size x size.

    The map is flattened from NCHW there and from NHWC here: [out, C * size * size] <->
    [size * size * C, out].
    """
    return Conversion(
        lambda x: x.reshape(len(x), -1, size, size).transpose(2, 3, 1, 0).reshape(-1, len(x)),
        lambda x: (
            x.reshape(size, size, -1, x.shape[1]).transpose(3, 2, 0, 1).reshape(x.shape[1], -1),
        ),
    )


class Weight(NamedTuple):
    """One of our weights and what it is made of in another library."""

    path: str  # "fire2/squeeze/kernel"
    shape: tuple[int, ...]
    is_statistic: bool  # of a BatchNorm, not a parameter
    names: tuple[str, ...]  # foreign
    conversion: Conversion

    @property
    def foreign_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each foreign array."""
        # A broadcast scalar has the shape and takes no memory.
        ours = np.broadcast_to(np.float32(0), self.shape)
        return tuple(array.shape for array in self.conversion.encode(ours))


# (library, whether BatchNorm follows the layer) -> leaf -> foreign names. {} is the layer's name,
# from the functions below.
_PLAIN_TORCH = {"kernel": ("{}.weight",), "bias": ("{}.bias",)}
_LEAVES: dict[tuple[Library, bool], dict[str, tuple[str, ...]]] = {
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
# Of the weights that are made of several foreign arrays.
_SEVERAL: dict[Library, Conversion] = {"pytorchcv": MEAN_AND_BIAS, "caffe": SUM_AND_FACTOR}

# Library -> names of conv1, of a Fire module's layer and of conv10, and of the three layers.
_SQUEEZENET: dict[Library, tuple[str, str, str, tuple[str, str, str]]] = {
    "torchvision": (
        "features.0",
        "features.{index}.{part}",
        "classifier.1",
        ("squeeze", "expand1x1", "expand3x3"),
    ),
    "pytorchcv": (
        "features.init_block.conv",
        "features.stage{stage}.unit{unit}.{part}.conv",
        "output.final_conv",
        ("squeeze", "expand1x1", "expand3x3"),
    ),
    "caffe": ("conv1", "{fire}/{part}", "conv10", ("squeeze1x1", "expand1x1", "expand3x3")),
}


def _squeezenet_layers(network: SqueezeNet, library: Library) -> dict[str, str]:
    """Returns the foreign name of each layer, {} if the library has no such network."""
    has_norm = hasattr(network.conv1, "bn")
    if library == "pytorchcv" and (has_norm or "conv1" not in network.pool_after):
        return {}  # its stages have no BatchNorm, and each begins with a pool
    conv1, fire_layer, conv10, parts = _SQUEEZENET[library]
    layers = {"conv1": conv1}
    # The index is the place in torchvision's Sequential, which holds conv1, its ReLU, the pools
    # and the Fire modules.
    index, stage, unit, previous = 2, 0, 0, "conv1"
    for fire in network.fire_names:
        if previous in network.pool_after:
            index, stage, unit = index + 1, stage + 1, 0
        unit += 1
        for ours, part in zip(("squeeze", "expand1x1", "expand3x3"), parts, strict=True):
            layers[f"{fire}/{ours}"] = fire_layer.format(
                index=index, stage=stage, unit=unit, fire=fire, part=part
            )
        index, previous = index + 1, fire
    return layers | {"conv10": conv10}


# Our layers of a SqueezeNext block, in order of execution, and pytorchcv's.
_BLOCK = {
    "shortcut": "identity_conv",
    "reduce1": "conv1",
    "reduce2": "conv2",
    "separable1": "conv3",
    "separable2": "conv4",
    "expand": "conv5",
}


def _squeezenext_layers(network: SqueezeNext, library: Library) -> dict[str, str]:
    """Returns the foreign name of each layer."""
    layers = {"conv1": "features.init_block.conv"}
    for stage, count in enumerate(network.blocks, start=1):
        for unit in range(1, count + 1):
            for ours, theirs in _BLOCK.items():
                if unit == 1 or ours != "shortcut":
                    foreign = f"features.stage{stage}.unit{unit}.{theirs}"
                    layers[f"stage{stage}_block{unit}/{ours}"] = foreign
    layers["bottleneck"] = "features.final_block"
    if library == "caffe":  # numbered in order of execution
        layers = {ours: str(number) for number, ours in enumerate(layers, start=1)}
    return layers | {"classifier": "fc1000" if library == "caffe" else "output"}


def _alexnet_layers(network: AlexNet, library: Library) -> dict[str, str]:
    """Returns the foreign name of each layer, {} if the library has the other AlexNet."""
    if network.caffe != (library == "caffe"):
        return {}
    slots = {"conv1": 3, "conv2": 3, "conv3": 2, "conv4": 2, "conv5": 3}
    return _sequential_layers(slots, (1, 4, 6), library)


def _vgg_layers(network: VGG, library: Library) -> dict[str, str]:
    """Returns the foreign name of each layer."""
    slots = {
        f"conv{stage}_{i}": 3 if i == count else 2
        for stage, count in enumerate(network.stages, 1)
        for i in range(1, count + 1)
    }
    return _sequential_layers(slots, (0, 3, 6), library)


def _sequential_layers(
    slots: Mapping[str, int], classifier: tuple[int, int, int], library: Library
) -> dict[str, str]:
    """Returns the foreign name of each convolution and dense layer; Caffe's are our own.

    Args:
      slots: how many places of torchvision's Sequential `features` each convolution takes, with
        the ReLU and the pool behind it.
      classifier: the places of fc6, fc7 and fc8 in the Sequential `classifier`.
      library: whose names.
    """
    layers, index = {}, 0
    for name, taken in slots.items():
        layers[name] = f"features.{index}"
        index += taken
    for name, place in zip(("fc6", "fc7", "fc8"), classifier, strict=True):
        layers[name] = f"classifier.{place}"
    return {name: name for name in layers} if library == "caffe" else layers


# Module -> the libraries that define it, and the function that names its layers, in order of
# execution.
_FAMILIES: dict[type[nnx.Module], tuple[set[Library], Callable[[Any, Library], dict[str, str]]]] = {
    SqueezeNet: ({"torchvision", "pytorchcv", "caffe"}, _squeezenet_layers),
    SqueezeNext: ({"pytorchcv", "caffe"}, _squeezenext_layers),
    AlexNet: ({"torchvision", "caffe"}, _alexnet_layers),
    VGG: ({"torchvision", "caffe"}, _vgg_layers),
}
_MAP_SIZES: dict[type[nnx.Module], int] = {AlexNet: 6, VGG: 7}  # rows and columns before fc6


def weights(model: Mapping[str, Any], num_classes: int, library: Library) -> list[Weight]:
    """Returns every weight of a network, in order of execution; allocates none.

    Args:
      model: name and options, as `network.build_model` takes them.
      num_classes: outputs.
      library: whose names.

    Raises:
      UserError: no such model or option, or the library has no network with these layers.
    """
    try:
        text = json.dumps(dict(model))
    except TypeError:
        abstract_model(model, num_classes)  # says what is wrong
        raise
    return list(_weights(text, num_classes, library))


# Building a SqueezeNext takes half a second, and an import asks for its weights more than once.
@functools.lru_cache(maxsize=64)
def _weights(model: str, num_classes: int, library: Library) -> tuple[Weight, ...]:
    name_and_options = json.loads(model)
    network = abstract_model(name_and_options, num_classes)
    _, params, stats = split_model(network)
    statistics = leaves_by_path(stats)
    leaves = leaves_by_path(params) | statistics
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    if library == "squeeze_jax":
        return tuple(
            Weight(path, shape, path in statistics, (path,), IDENTITY)
            for path, shape in shapes.items()
        )
    table = []
    for layer, name in _layer_names(network, library).items():
        has_batch_norm = f"{layer}/bn/scale" in shapes
        for leaf, foreign in _LEAVES.get((library, has_batch_norm), {}).items():
            path = f"{layer}/{leaf}"
            if path in shapes:
                names = tuple(template.format(name) for template in foreign)
                if len(names) > 1:
                    conversion = _SEVERAL[library]
                elif path == "fc6/kernel":
                    conversion = _dense_after_flatten(_MAP_SIZES[type(network)])
                else:
                    conversion = {1: IDENTITY, 2: DENSE, 4: CONVOLUTION}[len(shapes[path])]
                table.append(Weight(path, shapes[path], path in statistics, names, conversion))
    if unnamed := shapes.keys() - {weight.path for weight in table}:
        raise UserError(
            f"{library} has no net with the layers of {name_and_options['name']} with these "
            f"options: no name for {min(unnamed)}"
        )
    return tuple(table)


def _layer_names(network: nnx.Module, library: Library) -> dict[str, str]:
    """Returns the foreign name of each layer, {} if the library does not define the module."""
    libraries, layers = _FAMILIES.get(type(network), (set(), None))
    return layers(network, library) if layers and library in libraries else {}


def matching_library(model: Mapping[str, Any], num_classes: int) -> Library:
    """Returns the library whose definition computes what this network computes, given its weights.

    That is torchvision or pytorchcv, and ours where neither has the network. Weights do not show
    strides, padding, the last ReLU and the pool at the end, so these are compared here.
    """
    network = abstract_model(model, num_classes)
    library: Library
    match network:
        case SqueezeNet():
            library = "pytorchcv" if network.identities else "torchvision"
            is_same = (
                network.conv1.stride == 2
                and _max_padding(network.conv1) == 0
                and _max_padding(network.conv10) == 0
                and network.conv10_relu
                and ("conv1", *network.fire_names)[-1] not in network.pool_after
            )
        case SqueezeNext():
            library, first = "pytorchcv", vars(network)["stage1_block1"]
            is_same = (
                network.conv1.stride == 2
                and _max_padding(network.conv1) == 1
                and network.pool1
                and not first.rewired
                and first.separable1.kernel.shape[:2] == (1, 3)
                and first.reduce1.groups == 1
                and hasattr(network.classifier, "bias")
            )
        case _:
            library, is_same = "torchvision", True
    try:
        weights(model, num_classes, library)
    except UserError:
        is_same = False
    return library if is_same else "squeeze_jax"


def _max_padding(conv: Any) -> int:
    return max(map(max, conv.padding))


def decode_weights(table: Sequence[Weight], arrays: Mapping[str, np.ndarray]) -> tuple[Tree, Tree]:
    """Returns parameters and BatchNorm statistics as nested dicts of float32 arrays.

    Args:
      table: of the network's weights.
      arrays: by foreign name, all of them there and of the table's shapes.

    Raises:
      UserError: a weight is not finite, or a variance below zero.
    """
    params: Tree = {}
    stats: Tree = {}
    for weight in table:
        node = stats if weight.is_statistic else params
        *parents, leaf = weight.path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        foreign = (arrays[name] for name in weight.names)
        value = np.ascontiguousarray(weight.conversion.decode(*foreign), np.float32)
        if not np.isfinite(value).all() or (leaf == "var" and (value < 0).any()):
            raise UserError(f"{weight.names[0]} is not finite, or a variance below zero")
        node[leaf] = value
    return params, stats
