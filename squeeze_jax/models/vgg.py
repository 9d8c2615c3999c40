"""VGG-16 and VGG-19 (arXiv 1409.1556, configurations D and E), without BatchNorm."""

from typing import Literal

import jax
from flax import nnx

from squeeze_jax.models import functional, initializers, layers
from squeeze_jax.models.family import Family, Variant

# depth -> 3x3 convolutions in each of the five stages
STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(nnx.Module):
    """Stages of 3x3 convolutions with 2x2 max pools behind them, then three fully connected layers.

    Attributes are named as in the paper's Caffe files: conv1_1, conv1_2, conv2_1, ..., fc6, fc7, fc8.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        depth: Literal[16, 19] = 16,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        if depth not in STAGES:
            raise ValueError(f"depth is one of {', '.join(map(str, STAGES))}; got {depth}")
        self.stages, self.dropout = STAGES[depth], dropout
        init = dict(kernel_init=initializers.fan_in(2.0, "gaussian"), rngs=rngs)
        channels = 3
        for stage, (count, width) in enumerate(zip(self.stages, WIDTHS, strict=True), start=1):
            for index in range(1, count + 1):
                setattr(
                    self, f"conv{stage}_{index}", layers.Conv(channels, width, 3, padding=1, **init)
                )
                channels = width
        self.fc6 = layers.Dense(7 * 7 * channels, 4096, bias=True, **init)
        self.fc7 = layers.Dense(4096, 4096, bias=True, **init)
        self.fc8 = layers.Dense(4096, num_classes, bias=True, **init)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [N, num_classes] of normalised images [N, 224, 224, 3].

        Args:
          key: needed in training where dropout > 0: one PRNG key, or one an example [N].

        Raises:
          ValueError: images of another size than leaves 7x7 positions for fc6.
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
