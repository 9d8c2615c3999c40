"""VGG-16 and VGG-19 (arXiv 1409.1556, configurations D and E), without BatchNorm."""

import functools
from typing import Literal

import jax
from flax import nnx

from squeeze_jax.models import functional, initializers, layers
from squeeze_jax.models.family import DropoutRate, Family, PositiveInt, Variant

# depth -> 3x3 convolutions in each of the five stages
STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(nnx.Module):
    """Classifies by stages of 3x3 convolutions and a 2x2 max pool, and three dense layers.

    Attributes are named as in the authors' Caffe files: conv1_1, conv1_2, conv2_1, ..., fc6, fc7,
    fc8.
    """

    def __init__(
        self,
        *,
        num_classes: PositiveInt = 1000,
        in_channels: PositiveInt = 3,
        depth: Literal[16, 19] = 16,
        dropout: DropoutRate = 0.5,
        rngs: nnx.Rngs,
    ):
        """Builds the net.

        Args:
          num_classes: outputs of fc8.
          in_channels: channels of the images.
          depth: layers with weights, 16 or 19.
          dropout: rate behind fc6 and fc7 in training.
          rngs: source of the `params` keys.

        Raises:
          ValueError: there is no such depth.
        """
        if depth not in STAGES:
            raise ValueError(f"depth is one of {', '.join(map(str, STAGES))}; got {depth}")
        self.stages, self.dropout = STAGES[depth], dropout
        kernel_init = initializers.fan_in(2.0, "gaussian")
        conv = functools.partial(layers.Conv, kernel_init=kernel_init, rngs=rngs)
        dense = functools.partial(layers.Dense, bias=True, kernel_init=kernel_init, rngs=rngs)
        channels = in_channels
        for stage, (count, width) in enumerate(zip(self.stages, WIDTHS, strict=True), start=1):
            for index in range(1, count + 1):
                setattr(self, f"conv{stage}_{index}", conv(channels, width, 3, padding=1))
                channels = width
        self.fc6 = dense(7 * 7 * channels, 4096)
        self.fc7 = dense(4096, 4096)
        self.fc8 = dense(4096, num_classes)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits [N, num_classes] in float32.

        Args:
          x: normalised images [N, 224, 224, 3].
          train: whether dropout is on.
          key: one PRNG key, or one an example [N]; dropout in training needs it.

        Raises:
          ValueError: the image size does not leave 7x7 positions for fc6.
        """
        for stage, count in enumerate(self.stages, start=1):
            for index in range(1, count):
                x = jax.nn.relu(getattr(self, f"conv{stage}_{index}")(x, train=train))
            x = functional.relu_max_pool(
                getattr(self, f"conv{stage}_{count}")(x, train=train), 2, 2, train=train
            )
        x = functional.flatten(x, (7, 7))
        return layers.classify(x, (self.fc6, self.fc7, self.fc8), self.dropout, train, key)


FAMILY = Family(
    VGG,
    {
        "vgg16": Variant(dict(depth=16), input_size=224),
        "vgg19": Variant(dict(depth=19), input_size=224),
    },
)
