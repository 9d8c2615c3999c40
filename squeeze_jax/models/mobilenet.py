"""MobileNet-v1 (arXiv 1704.04861, Table 1): depth-wise separable convolutions; a row of the cost tables."""

import jax
from flax import nnx

from squeeze_jax.models import functional, initializers, layers
from squeeze_jax.models.family import Family, Variant

# (output channels, stride) of each depth-wise separable block
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)


class MobileNet(nnx.Module):
    """conv1, 13 pairs of a depth-wise 3x3 and a 1x1 convolution (depthwise1, pointwise1, ...), mean, classifier."""

    def __init__(self, *, num_classes: int = 1000, width: float = 1.0, rngs: nnx.Rngs):
        options = dict(batch_norm=True, kernel_init=initializers.fan_in(2.0, "gaussian"), rngs=rngs)
        channels = round(32 * width)
        self.conv1 = layers.Conv(3, channels, 3, stride=2, padding=1, **options)
        for index, (outputs, stride) in enumerate(BLOCKS, start=1):
            setattr(
                self,
                f"depthwise{index}",
                layers.Conv(
                    channels, channels, 3, stride=stride, padding=1, groups=channels, **options
                ),
            )
            setattr(
                self,
                f"pointwise{index}",
                layers.Conv(channels, round(outputs * width), 1, **options),
            )
            channels = round(outputs * width)
        self.classifier = layers.Dense(
            channels, num_classes, bias=True, kernel_init=options["kernel_init"], rngs=rngs
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [N, num_classes] of normalised images [N, H, W, 3]; `key` is not needed, there is no dropout."""
        x = jax.nn.relu(self.conv1(x, train=train))
        for index in range(1, len(BLOCKS) + 1):
            x = jax.nn.relu(getattr(self, f"depthwise{index}")(x, train=train))
            x = jax.nn.relu(getattr(self, f"pointwise{index}")(x, train=train))
        return self.classifier(functional.global_average_pool(x))


FAMILY = Family(MobileNet, {"mobilenet_v1": Variant(input_size=224)})
