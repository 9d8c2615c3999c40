"""MobileNet-v1 (arXiv 1704.04861, Table 1): depth-wise separable convolutions, for cost tables."""

import functools

import jax
from flax import nnx

from squeeze_jax.models import functional, initializers, layers
from squeeze_jax.models.family import Family, PositiveFloat, PositiveInt, Variant

# (output channels, stride) of each depth-wise separable block
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    *[(512, 1)] * 5, (1024, 2), (1024, 1),
)  # fmt: skip


class MobileNet(nnx.Module):
    """Classifies by conv1, 13 depth-wise separable blocks, a mean and a dense classifier.

    A block is a depth-wise 3x3 and a 1x1 convolution: depthwise1, pointwise1, depthwise2, ...
    """

    def __init__(
        self,
        *,
        num_classes: PositiveInt = 1000,
        in_channels: PositiveInt = 3,
        width: PositiveFloat = 1.0,
        rngs: nnx.Rngs,
    ):
        """Builds the net.

        Args:
          num_classes: outputs of the classifier.
          in_channels: channels of the images.
          width: scales the channels of every layer (the paper's alpha).
          rngs: source of the `params` keys.
        """
        init = initializers.fan_in(2.0, "gaussian")
        conv = functools.partial(layers.Conv, batch_norm=True, kernel_init=init, rngs=rngs)
        if (channels := round(32 * width)) < 1:
            raise ValueError(f"width {width:g} leaves no channel")
        self.conv1 = conv(in_channels, channels, 3, stride=2, padding=1)
        for index, (outputs, stride) in enumerate(BLOCKS, start=1):
            depthwise = conv(channels, channels, 3, stride=stride, padding=1, groups=channels)
            setattr(self, f"depthwise{index}", depthwise)
            setattr(self, f"pointwise{index}", conv(channels, round(outputs * width), 1))
            channels = round(outputs * width)
        self.classifier = layers.Dense(
            channels, num_classes, bias=True, kernel_init=init, rngs=rngs
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits [N, num_classes] in float32.

        Args:
          x: normalised images [N, H, W, 3].
          train: whether BatchNorm uses and updates batch statistics.
          key: unused, as there is no dropout.
        """
        x = jax.nn.relu(self.conv1(x, train=train))
        for index in range(1, len(BLOCKS) + 1):
            x = jax.nn.relu(getattr(self, f"depthwise{index}")(x, train=train))
            x = jax.nn.relu(getattr(self, f"pointwise{index}")(x, train=train))
        return self.classifier(functional.global_average_pool(x))


FAMILY = Family(MobileNet, {"mobilenet_v1": Variant(input_size=224)})
