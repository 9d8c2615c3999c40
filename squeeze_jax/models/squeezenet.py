"""SqueezeNet as a design space (arXiv 1602.07360).

v1.0, v1.1 and every point of the paper's sweeps are settings of one module.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Literal

import jax
from flax import nnx

from squeeze_jax.config_parsing import Range
from squeeze_jax.models import functional, initializers, layers
from squeeze_jax.models.family import (
    LARGEST,
    DropoutRate,
    Family,
    Padding,
    PositiveFloat,
    PositiveInt,
    Stride,
    Variant,
)
from squeeze_jax.models.fire import Fire, fire_widths

# name -> (kernels of all layers, kernel of conv10). Biases start at 0.
#   xavier:      uniform within sqrt(3 / fan_in), conv10 Gaussian 0.01 (Caffe's; the released
#                training definitions)
#   torchvision: uniform within sqrt(6 / fan_in), conv10 Gaussian 0.01
#                (torchvision/models/squeezenet.py)
#   he:          Gaussian of variance 2 / fan_in everywhere; trains from scratch at CIFAR scale
INITIALIZERS = {
    "xavier": (initializers.fan_in(1.0, "uniform"), initializers.gaussian(0.01)),
    "torchvision": (initializers.fan_in(2.0, "uniform"), initializers.gaussian(0.01)),
    "he": (initializers.fan_in(2.0, "gaussian"), initializers.fan_in(2.0, "gaussian")),
}

Bypass = Literal["none", "simple", "complex"]


class SqueezeNet(nnx.Module):
    """Classifies by conv1, Fire modules, conv10 and a mean (paper, Fig. 2 and Table 1).

    The defaults are v1.0, for images of any size; 227 is the paper's. Attributes are named as in
    the paper: conv1, fire2 ... fire9, conv10, and bypass2, bypass4, ... for complex bypass.
    """

    def __init__(
        self,
        *,
        num_classes: PositiveInt = 1000,
        in_channels: PositiveInt = 3,
        base_e: Annotated[int, Range(at_least=2, at_most=LARGEST)] = 128,
        incr_e: Annotated[int, Range(at_least=0, at_most=LARGEST)] = 128,
        freq: Annotated[int, Range(at_least=1, at_most=1000)] = 2,
        pct3x3: Annotated[float, Range(at_least=0, at_most=1)] = 0.5,
        squeeze_ratio: PositiveFloat = 0.125,
        bypass: Bypass = "none",
        num_fire: Annotated[int, Range(at_least=0, at_most=1000)] = 8,
        conv1_filters: PositiveInt = 96,
        conv1_kernel: PositiveInt = 7,
        conv1_stride: Stride = 2,
        conv1_pad: Padding = 0,
        pool_after: Sequence[str] = ("conv1", "fire4", "fire8"),
        conv10_pad: Padding = 0,
        conv10_relu: bool = True,
        dropout: DropoutRate = 0.5,
        batch_norm: bool = False,
        init: Literal["xavier", "torchvision", "he"] = "xavier",
        rngs: nnx.Rngs,
    ):
        """Builds the net; see `fire_widths` for the metaparameters.

        Args:
          num_classes: filters of conv10.
          in_channels: channels of the images.
          base_e: expand filters of the first Fire modules (paper, section 5.1).
          incr_e: expand filters added every `freq` Fire modules.
          freq: Fire modules with the same number of expand filters.
          pct3x3: fraction of the expand filters that are 3x3.
          squeeze_ratio: squeeze filters for each expand filter.
          bypass: "simple" adds the identity around every Fire module that keeps its channels;
            "complex" also adds a 1x1 convolution around those that change them (paper, section 6).
            The sum is taken after the ReLU, without another one, as in the released residual net.
            The 1x1 bypass has no ReLU, as the paper mentions none.
          num_fire: number of Fire modules; 8 in the paper.
          conv1_filters: filters of conv1.
          conv1_kernel: height and width of conv1's filters.
          conv1_stride: stride of conv1.
          conv1_pad: padding of conv1.
          pool_after: the layers that a 3x3/2 max pool follows.
          conv10_pad: padding of conv10; 1 in the released v1.0, 0 elsewhere.
          conv10_relu: a ReLU between conv10 and the mean, as in the papers. It hinders training
            from scratch at small scale.
          dropout: rate before conv10 in training.
          batch_norm: BatchNorm after every convolution but conv10, in place of the bias. Not in the
            paper.
          init: which of INITIALIZERS.
          rngs: source of the `params` keys.

        Raises:
          ValueError: an option is out of range, or `pool_after` names a layer that is not there.
        """
        if bypass not in ("none", "simple", "complex"):
            raise ValueError(f"bypass is none, simple or complex; got {bypass!r}")
        if init not in INITIALIZERS:
            raise ValueError(f"init is one of {', '.join(INITIALIZERS)}; got {init!r}")
        self.fire_names = tuple(f"fire{i + 2}" for i in range(num_fire))
        if unknown := set(pool_after) - {"conv1", *self.fire_names}:
            raise ValueError(
                f"pool_after names {', '.join(sorted(unknown))}; "
                f"the layers are conv1, {', '.join(self.fire_names)}"
            )
        self.pool_after, self.dropout, self.conv10_relu = tuple(pool_after), dropout, conv10_relu
        kernel_init, final_init = INITIALIZERS[init]
        conv = functools.partial(
            layers.Conv, batch_norm=batch_norm, kernel_init=kernel_init, rngs=rngs
        )
        fire = functools.partial(Fire, batch_norm=batch_norm, kernel_init=kernel_init, rngs=rngs)

        self.conv1 = conv(
            in_channels, conv1_filters, conv1_kernel, stride=conv1_stride, padding=conv1_pad
        )
        channels, identities = conv1_filters, []
        for index, name in enumerate(self.fire_names):
            widths = fire_widths(index, base_e, incr_e, freq, pct3x3, squeeze_ratio)
            setattr(self, name, fire(channels, widths))
            expand = widths.expand1x1 + widths.expand3x3
            if bypass != "none" and expand == channels:
                identities.append(name)
            elif bypass == "complex":
                setattr(self, name.replace("fire", "bypass"), conv(channels, expand, 1))
            channels = expand
        self.identities = tuple(identities)
        self.conv10 = layers.Conv(
            channels, num_classes, 1, padding=conv10_pad, kernel_init=final_init, rngs=rngs
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits [N, num_classes] in float32.

        Args:
          x: normalised images [N, H, W, 3], float32 or bfloat16 (the type of the computation).
          train: whether dropout is on, and BatchNorm uses and updates batch statistics.
          key: one PRNG key, or one an example [N]; dropout in training needs it.

        Raises:
          ValueError: the images are too small for the pools.
        """
        if "conv1" in self.pool_after:
            x = layers.conv_relu_max_pool(self.conv1, x, train=train)
        else:
            x = jax.nn.relu(self.conv1(x, train=train))
        for name in self.fire_names:
            fire, pool, beside = getattr(self, name), name in self.pool_after, None
            if name in self.identities:
                beside = x
            elif (bypass := getattr(self, name.replace("fire", "bypass"), None)) is not None:
                beside = bypass(x, train=train)
            if beside is None:
                x = fire(x, pool=pool, train=train)
            else:
                x = functional.materialize(fire(x, train=train) + beside)
                x = functional.max_pool(x) if pool else x
        if train and self.dropout:
            x = functional.dropout(x, self.dropout, key)
        x = self.conv10(x, train=train)
        return functional.global_average_pool(jax.nn.relu(x) if self.conv10_relu else x)


FAMILY = Family(
    SqueezeNet,
    {
        "squeezenet_v1_0": Variant(),
        "squeezenet_v1_0_released": Variant(dict(conv10_pad=1)),
        "squeezenet_v1_1": Variant(
            dict(conv1_filters=64, conv1_kernel=3, pool_after=("conv1", "fire3", "fire5"))
        ),
        "squeezenet_simple_bypass": Variant(dict(bypass="simple")),
        "squeezenet_complex_bypass": Variant(dict(bypass="complex")),
    },
)
