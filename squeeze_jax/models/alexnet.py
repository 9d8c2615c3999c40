"""AlexNet, the baseline of both papers: Caffe's grouped net and torchvision's ungrouped one."""

import functools
from typing import Literal

import jax
from flax import nnx

from squeeze_jax.models import functional, initializers, layers
from squeeze_jax.models.family import DropoutRate, Family, PositiveInt, Variant


class AlexNet(nnx.Module):
    """Classifies by five convolutions and three fully connected layers.

    The variant "caffe" is the net of Krizhevsky et al. 2012 as Caffe's bvlc_alexnet has it: two
    groups in conv2, conv4 and conv5, local response normalisation, 60,965,224 parameters at 227.
    The variant "torchvision" is the one-tower net of Krizhevsky 2014 (arXiv 1404.5997): no groups,
    no normalisation, 61,100,840 parameters at 224.
    """

    def __init__(
        self,
        *,
        num_classes: PositiveInt = 1000,
        in_channels: PositiveInt = 3,
        variant: Literal["caffe", "torchvision"] = "caffe",
        dropout: DropoutRate = 0.5,
        rngs: nnx.Rngs,
    ):
        """Builds the net.

        Args:
          num_classes: outputs of fc8.
          in_channels: channels of the images.
          variant: "caffe" or "torchvision".
          dropout: rate behind fc6 and fc7 in training.
          rngs: source of the `params` keys.

        Raises:
          ValueError: there is no such variant.
        """
        if variant not in ("caffe", "torchvision"):
            raise ValueError(f"variant is caffe or torchvision; got {variant!r}")
        self.caffe, self.dropout = variant == "caffe", dropout
        kernel_init = initializers.fan_in(2.0, "gaussian")
        conv = functools.partial(layers.Conv, kernel_init=kernel_init, rngs=rngs)
        dense = functools.partial(layers.Dense, bias=True, kernel_init=kernel_init, rngs=rngs)
        groups = 2 if self.caffe else 1
        w = (96, 256, 384, 384, 256) if self.caffe else (64, 192, 384, 256, 256)
        self.conv1 = conv(in_channels, w[0], 11, stride=4, padding=0 if self.caffe else 2)
        self.conv2 = conv(w[0], w[1], 5, padding=2, groups=groups)
        self.conv3 = conv(w[1], w[2], 3, padding=1)
        self.conv4 = conv(w[2], w[3], 3, padding=1, groups=groups)
        self.conv5 = conv(w[3], w[4], 3, padding=1, groups=groups)
        self.fc6 = dense(6 * 6 * w[4], 4096)
        self.fc7 = dense(4096, 4096)
        self.fc8 = dense(4096, num_classes)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits [N, num_classes] in float32.

        Args:
          x: normalised images [N, 227, 227, 3] (caffe) or [N, 224, 224, 3] (torchvision).
          train: whether dropout is on.
          key: one PRNG key, or one an example [N]; dropout in training needs it.

        Raises:
          ValueError: the image size does not leave 6x6 positions for fc6.
        """
        x = self._normalise_and_pool(jax.nn.relu(self.conv1(x, train=train)))
        x = self._normalise_and_pool(jax.nn.relu(self.conv2(x, train=train)))
        for name in ("conv3", "conv4", "conv5"):
            x = jax.nn.relu(getattr(self, name)(x, train=train))
        x = functional.flatten(functional.max_pool(x), (6, 6))
        return layers.classify(x, (self.fc6, self.fc7, self.fc8), self.dropout, train, key)

    def _normalise_and_pool(self, x: jax.Array) -> jax.Array:
        return functional.max_pool(functional.local_response_norm(x) if self.caffe else x)


FAMILY = Family(
    AlexNet,
    {
        "alexnet": Variant(),
        "alexnet_torchvision": Variant(dict(variant="torchvision"), input_size=224),
    },
)
