"""Defines SqueezeNet in PyTorch as its users write it, and copies weights into it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from squeeze_jax.models.fire import fire_widths
from squeeze_jax.network import Tree

IMAGENET = {
    "squeezenet_v1_0": dict(filters=96, kernel=7, pooled=(0, 3, 7)),
    "squeezenet_v1_1": dict(filters=64, kernel=3, pooled=(0, 2, 4)),
}
# The model of the preset cifar10.
CIFAR = dict(filters=96, kernel=3, stride=1, pad=1, pooled=(0, 3, 7), conv10_relu=False, classes=10)


class Fire(nn.Module):
    """Computes a Fire module: squeeze and expand, each followed by a ReLU."""

    def __init__(self, channels: int, squeeze: int, expand1x1: int, expand3x3: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand1x1, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand3x3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, channels, H, W] to [N, expand1x1 + expand3x3, H, W]."""
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """Computes SqueezeNet v1.0, v1.1 or the variant for small images.

    `pooled` lists the Fire modules that follow a pool.
    """

    def __init__(
        self,
        *,
        filters: int,
        kernel: int,
        pooled: tuple[int, ...],
        stride: int = 2,
        pad: int = 0,
        conv10_relu: bool = True,
        classes: int = 1000,
    ):
        super().__init__()
        self.conv1, self.pooled, self.conv10_relu = (
            nn.Conv2d(3, filters, kernel, stride, pad),
            pooled,
            conv10_relu,
        )
        self.pool, self.dropout = nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(0.5)
        for index in range(8):
            widths = fire_widths(index, 128, 128, 2, 0.5, 0.125)
            setattr(self, f"fire{index + 2}", Fire(filters, *widths))
            filters = widths.expand1x1 + widths.expand3x3
        self.conv10 = nn.Conv2d(filters, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images [N, 3, H, W] to logits [N, classes]."""
        x = torch.relu(self.conv1(x))
        for index in range(8):
            x = getattr(self, f"fire{index + 2}")(self.pool(x) if index in self.pooled else x)
        x = self.conv10(self.dropout(x))
        x = torch.relu(x) if self.conv10_relu else x
        return torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)


def with_weights(params: Tree, settings: Mapping[str, Any]) -> nn.Module:
    """Returns the PyTorch module with the weights of a squeeze_jax model."""
    module = SqueezeNet(**settings)
    for name, parameter in module.named_parameters():
        *path, kind = name.split(".")
        node = params
        for part in path:
            node = node[part]
        array = (
            np.asarray(node["kernel"]).transpose(3, 2, 0, 1)
            if kind == "weight"
            else np.asarray(node["bias"])
        )
        parameter.data = torch.from_numpy(np.ascontiguousarray(array))
    return module
