"""The registry: a name and keyword options make a Flax NNX module.

Every module maps normalised NHWC images to float32 logits: `model(x, train=False, key=None)`.
"""

import inspect
from typing import Any, NamedTuple

from flax import nnx

from squeeze_jax.errors import UserError
from squeeze_jax.models.alexnet import AlexNet
from squeeze_jax.models.darknet import TinyDarknet
from squeeze_jax.models.mobilenet import MobileNet
from squeeze_jax.models.squeezenet import SqueezeNet
from squeeze_jax.models.squeezenext import SqueezeNext
from squeeze_jax.models.vgg import VGG

# The nets of the SqueezeNext paper's tables: depth, then version, width, groups, aggregation.
_SQUEEZENEXT: dict[str, dict[str, Any]] = {
    **{f"{depth}": dict(depth=depth) for depth in (23, 34, 44)},
    **{f"{depth}_ida": dict(depth=depth, aggregation=True) for depth in (23, 34, 44)},
    **{
        f"{depth}_w{name}": dict(depth=depth, width=width)
        for depth in (23, 34, 44)
        for name, width in (("1_5", 1.5), ("2", 2.0))
    },
    **{f"23_v{version}": dict(version=version) for version in (2, 3, 4, 5)},
    **{f"23_v{version}_w2": dict(version=version, width=2.0) for version in (4, 5)},
    "23_g": dict(groups=2),
}
# pytorchcv's nets of that name (github osmr/pytorchcv): a padded 7x7 stem in v5 too, no rewired stage starts, the 1x3 always first,
# a bias in the classifier, and a width that scales the stem and the bottleneck as well.
_PYTORCHCV: dict[str, dict[str, Any]] = {
    f"{depth}{suffix}_pytorchcv": dict(
        blocks=blocks, width=width, conv1_filters=int(64 * width), bottleneck=int(128 * width),
        conv1_pad=1, separable="wide_first", classifier_bias=True,
    )
    for depth, blocks in (("23", (6, 6, 8, 1)), ("23_v5", (2, 4, 14, 1)))
    for suffix, width in (("", 1.0), ("_w1_5", 1.5), ("_w2", 2.0))
}  # fmt: skip


class Entry(NamedTuple):
    """A registered model: its module, what differs from the module's defaults, and the height and width its papers give it."""

    module: type[nnx.Module]
    options: dict[str, Any]
    input_size: int = 227


REGISTRY: dict[str, Entry] = {
    "squeezenet_v1_0": Entry(SqueezeNet, {}),
    "squeezenet_v1_0_released": Entry(SqueezeNet, dict(conv10_pad=1)),
    "squeezenet_v1_1": Entry(
        SqueezeNet, dict(conv1_filters=64, conv1_kernel=3, pool_after=("conv1", "fire3", "fire5"))
    ),
    "squeezenet_simple_bypass": Entry(SqueezeNet, dict(bypass="simple")),
    "squeezenet_complex_bypass": Entry(SqueezeNet, dict(bypass="complex")),
    **{
        f"squeezenext_{name}": Entry(SqueezeNext, options) for name, options in _SQUEEZENEXT.items()
    },
    **{
        f"squeezenext_{name}": Entry(SqueezeNext, options, 224)
        for name, options in _PYTORCHCV.items()
    },
    "alexnet": Entry(AlexNet, {}),
    "alexnet_torchvision": Entry(AlexNet, dict(variant="torchvision"), 224),
    "vgg16": Entry(VGG, dict(depth=16), 224),
    "vgg19": Entry(VGG, dict(depth=19), 224),
    "mobilenet_v1": Entry(MobileNet, {}, 224),
    "tiny_darknet": Entry(TinyDarknet, {}, 224),
}


def create(name: str, *, rngs: nnx.Rngs, **options) -> nnx.Module:
    """The model `name` with `options` in place of its defaults; an option that is None keeps its default.

    Raises:
      UserError: no such model or option, or an option's value out of range.
    """
    if name not in REGISTRY:
        raise UserError(f"no model {name!r}; there are {', '.join(REGISTRY)}")
    module, preset, _ = REGISTRY[name]
    known = [
        key for key in inspect.signature(module.__init__).parameters if key not in ("self", "rngs")
    ]
    if unknown := sorted(options.keys() - set(known)):
        raise UserError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return module(
            rngs=rngs,
            **preset | {key: value for key, value in options.items() if value is not None},
        )
    except ValueError as e:
        raise UserError(f"{name}: {e}") from e
