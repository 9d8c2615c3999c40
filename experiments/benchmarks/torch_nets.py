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
# A small one with BatchNorm: 114,730 parameters, 13.6 M MACs.
CIFAR_BN = dict(
    filters=32,
    kernel=3,
    stride=1,
    pad=1,
    pooled=(2, 4),
    conv10_relu=False,
    classes=10,
    base_e=32,
    incr_e=32,
    squeeze_ratio=0.25,
    dropout=0.0,
    batch_norm=True,
    complex_bypass=True,
)


def conv(
    channels: int, filters: int, kernel: int | tuple[int, int], *, batch_norm: bool, **options: Any
) -> nn.Module:
    """Returns a convolution with a bias, or with BatchNorm in its place."""
    layer = nn.Conv2d(channels, filters, kernel, bias=not batch_norm, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(filters)) if batch_norm else layer


class Fire(nn.Module):
    """Computes a Fire module: squeeze and expand, each followed by a ReLU."""

    def __init__(
        self,
        channels: int,
        squeeze: int,
        expand1x1: int,
        expand3x3: int,
        batch_norm: bool = False,
    ):
        super().__init__()
        self.squeeze = conv(channels, squeeze, 1, batch_norm=batch_norm)
        self.expand1x1 = conv(squeeze, expand1x1, 1, batch_norm=batch_norm)
        self.expand3x3 = conv(squeeze, expand3x3, 3, padding=1, batch_norm=batch_norm)

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
        base_e: int = 128,
        incr_e: int = 128,
        squeeze_ratio: float = 0.125,
        dropout: float = 0.5,
        batch_norm: bool = False,
        complex_bypass: bool = False,
    ):
        super().__init__()
        self.conv1, self.pooled, self.conv10_relu = (
            conv(3, filters, kernel, stride=stride, padding=pad, batch_norm=batch_norm),
            pooled,
            conv10_relu,
        )
        self.pool, self.dropout = nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(dropout)
        self.complex_bypass = complex_bypass
        for index in range(8):
            widths = fire_widths(index, base_e, incr_e, 2, 0.5, squeeze_ratio)
            setattr(self, f"fire{index + 2}", Fire(filters, *widths, batch_norm=batch_norm))
            expand = widths.expand1x1 + widths.expand3x3
            if complex_bypass and expand != filters:
                setattr(self, f"bypass{index + 2}", conv(filters, expand, 1, batch_norm=batch_norm))
            filters = expand
        self.conv10 = nn.Conv2d(filters, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images [N, 3, H, W] to logits [N, classes]."""
        x = torch.relu(self.conv1(x))
        for index in range(8):
            x = self.pool(x) if index in self.pooled else x
            y = getattr(self, f"fire{index + 2}")(x)
            if self.complex_bypass:
                bypass = getattr(self, f"bypass{index + 2}", None)
                y = y + (bypass(x) if bypass else x)
            x = y
        x = self.conv10(self.dropout(x))
        x = torch.relu(x) if self.conv10_relu else x
        return torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)


class SqueezeNextBlock(nn.Module):
    """Computes a block of SqueezeNext: ReLU of the shortcut plus five convolutions."""

    def __init__(self, channels: int, filters: int, *, start: bool, stride: int, tall_first: bool):
        super().__init__()
        half, quarter = filters // 2, filters // 4
        kernels = [((3, 1), (1, 0)), ((1, 3), (0, 1))]
        first, second = kernels if tall_first else kernels[::-1]

        def unit(*sizes: Any, **options: Any) -> nn.Module:
            return nn.Sequential(conv(*sizes, batch_norm=True, **options), nn.ReLU(inplace=True))

        self.shortcut = unit(channels, filters, 1, stride=stride) if start else nn.Identity()
        self.branch = nn.Sequential(
            unit(channels, half, 1, stride=stride),
            unit(half, quarter, 1),
            unit(quarter, half, first[0], padding=first[1]),
            unit(half, half, second[0], padding=second[1]),
            unit(half, filters, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, channels, H, W] to [N, filters, H / stride, W / stride]."""
        return torch.relu(self.shortcut(x) + self.branch(x))


class SqueezeNext(nn.Module):
    """Computes 1.0-SqNxt-23, with a 3x3/1 stem and no pool where images are `small`."""

    def __init__(self, *, small: bool, classes: int):
        super().__init__()
        self.stem = nn.Sequential(
            conv(3, 64, 3, padding=1, batch_norm=True)
            if small
            else conv(3, 64, 7, stride=2, batch_norm=True),
            nn.ReLU(inplace=True),
            nn.Identity() if small else nn.MaxPool2d(3, 2, ceil_mode=True),
        )
        blocks, channels = [], 64
        for stage, count in enumerate((6, 6, 8, 1)):
            for index in range(count):
                filters, start = 32 * 2**stage, index == 0
                blocks.append(
                    SqueezeNextBlock(
                        channels,
                        filters,
                        start=start,
                        stride=2 if start and stage else 1,
                        tall_first=len(blocks) % 2 == 0,
                    )
                )
                channels = filters
        self.blocks = nn.Sequential(*blocks)
        self.bottleneck = conv(channels, 128, 1, batch_norm=True)
        self.classifier = nn.Linear(128, classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images [N, 3, H, W] to logits [N, classes]."""
        x = torch.relu(self.bottleneck(self.blocks(self.stem(x))))
        return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


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
