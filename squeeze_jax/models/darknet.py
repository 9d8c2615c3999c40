"""Tiny Darknet (J. Redmon, pjreddie.com/darknet/tiny-darknet), 1.0 M parameters."""

import functools

import jax
from flax import nnx

from squeeze_jax.models import functional, initializers, layers
from squeeze_jax.models.family import Family, PositiveInt, Variant

# (filters, kernel) of each convolution; None is a 2x2/2 max pool.
LAYERS: tuple[tuple[int, int] | None, ...] = (
    (16, 3), None, (32, 3), None,
    (16, 1), (128, 3), (16, 1), (128, 3), None,
    (32, 1), (256, 3), (32, 1), (256, 3), None,
    (64, 1), (512, 3), (64, 1), (512, 3), (128, 1),
)  # fmt: skip


class TinyDarknet(nnx.Module):
    """Classifies by bottlenecks of 1x1 and 3x3 convolutions, a 1x1 classifier and a mean.

    BatchNorm and leaky ReLU (0.1) follow each of the convolutions conv1, conv2, ...
    """

    def __init__(
        self, *, num_classes: PositiveInt = 1000, in_channels: PositiveInt = 3, rngs: nnx.Rngs
    ):
        """Builds the net.

        Args:
          num_classes: filters of the classifier.
          in_channels: channels of the images.
          rngs: source of the `params` keys.
        """
        conv = functools.partial(
            layers.Conv, kernel_init=initializers.fan_in(2.0, "gaussian"), rngs=rngs
        )
        channels, number = in_channels, 0
        for layer in LAYERS:
            if layer is not None:
                number += 1
                filters, kernel = layer
                padding = kernel // 2
                convolution = conv(channels, filters, kernel, padding=padding, batch_norm=True)
                setattr(self, f"conv{number}", convolution)
                channels = filters
        self.classifier = conv(channels, num_classes, 1)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits [N, num_classes] in float32.

        Args:
          x: normalised images [N, H, W, 3].
          train: whether BatchNorm uses and updates batch statistics.
          key: unused, as there is no dropout.
        """
        number = 0
        for layer in LAYERS:
            if layer is None:
                x = functional.max_pool(x, 2, 2)
            else:
                number += 1
                x = jax.nn.leaky_relu(getattr(self, f"conv{number}")(x, train=train), 0.1)
        return functional.global_average_pool(self.classifier(x))


FAMILY = Family(TinyDarknet, {"tiny_darknet": Variant(input_size=224)})
