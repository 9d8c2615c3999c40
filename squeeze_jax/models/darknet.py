"""Tiny Darknet (J. Redmon, pjreddie.com/darknet/tiny-darknet): 1.0 M parameters; a row of the cost tables."""

import jax
from flax import nnx

from squeeze_jax.models import functional, initializers, layers
from squeeze_jax.models.family import Family, Variant

# (filters, kernel) of each convolution; "pool" is a 2x2/2 max pool.
LAYERS = (
    (16, 3), "pool", (32, 3), "pool",
    (16, 1), (128, 3), (16, 1), (128, 3), "pool",
    (32, 1), (256, 3), (32, 1), (256, 3), "pool",
    (64, 1), (512, 3), (64, 1), (512, 3), (128, 1),
)  # fmt: skip


class TinyDarknet(nnx.Module):
    """Bottlenecks of 1x1 and 3x3 convolutions with BatchNorm and leaky ReLU (0.1), a 1x1 classifier, mean; conv1, conv2, ..."""

    def __init__(self, *, num_classes: int = 1000, rngs: nnx.Rngs):
        init = initializers.fan_in(2.0, "gaussian")
        channels, number = 3, 0
        for layer in LAYERS:
            if layer != "pool":
                number += 1
                filters, kernel = layer
                conv = layers.Conv(
                    channels,
                    filters,
                    kernel,
                    padding=kernel // 2,
                    batch_norm=True,
                    kernel_init=init,
                    rngs=rngs,
                )
                setattr(self, f"conv{number}", conv)
                channels = filters
        self.classifier = layers.Conv(channels, num_classes, 1, kernel_init=init, rngs=rngs)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [N, num_classes] of normalised images [N, H, W, 3]; `key` is not needed, there is no dropout."""
        number = 0
        for layer in LAYERS:
            if layer == "pool":
                x = functional.max_pool(x, 2, 2)
            else:
                number += 1
                x = jax.nn.leaky_relu(getattr(self, f"conv{number}")(x, train=train), 0.1)
        return functional.global_average_pool(self.classifier(x))


FAMILY = Family(TinyDarknet, {"tiny_darknet": Variant(input_size=224)})
