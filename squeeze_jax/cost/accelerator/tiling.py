"""Cuts a layer that exceeds the global buffer into tiles, and counts the words that DRAM moves.

The buffer is double: one half holds the tile that is computed, the other receives the next tile and
returns the previous one. The loops over output rows and columns (y, x), input channels (c) and
output channels (k) are tiled. The outputs of a tile stay in the buffer until all input channels are
added, so that partial sums never move to DRAM.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from squeeze_jax.cost.accelerator.architecture import Accelerator
from squeeze_jax.cost.trace import Layer
from squeeze_jax.errors import UserError

# Load, compute and store work on three tiles at once; with fewer, one of them is idle. Assumed.
PIPELINE_TILES = 3


@dataclass(frozen=True)
class Convolution:
    """Holds the loop bounds of one group of a convolution.

    A dense layer is a 1x1 convolution of one pixel.
    """

    groups: int
    channels: int  # input channels a group
    filters: int  # output channels a group
    height: int
    width: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]

    @classmethod
    def of(cls, layer: Layer) -> "Convolution":
        """Returns the loop bounds of a convolution or dense layer."""
        if layer.kind == "dense":
            pixels = math.prod(layer.input_shape[:-1])
            inputs, outputs = layer.input_shape[-1], layer.output_shape[-1]
            return cls(1, inputs, outputs, 1, pixels, 1, pixels, (1, 1), (1, 1))
        _, height, width, channels = layer.input_shape
        _, out_height, out_width, filters = layer.output_shape
        groups = layer.groups
        return cls(
            groups,
            channels // groups,
            filters // groups,
            height,
            width,
            out_height,
            out_width,
            (layer.kernel_size[0], layer.kernel_size[1]),
            (layer.stride[0], layer.stride[1]),
        )

    @property
    def taps(self) -> int:
        """Returns the number of taps of a filter."""
        return self.kernel[0] * self.kernel[1]

    @property
    def pixels(self) -> int:
        """Returns the number of output pixels of a channel."""
        return self.out_height * self.out_width


@dataclass(frozen=True)
class Tiling:
    """Holds the number of tiles of a layer, and its DRAM traffic."""

    tiles: int  # over all groups
    spatial_tiles: int  # of the output map of one group
    dram_words: int  # inputs with halos, weights, both as often as they are read; outputs once


@lru_cache(maxsize=4096)
def tile(conv: Convolution, accelerator: Accelerator) -> Tiling:
    """Returns the tiling that moves the fewest words; of equal ones, that with the fewest tiles.

    Fewer tiles need fewer DMA requests.

    Raises:
      UserError: half the buffer does not hold one output pixel of one channel.
    """
    (kernel_h, kernel_w), (stride_h, stride_w) = conv.kernel, conv.stride
    # A tile has whole rows, or a part of one row.
    spatial = [(n, 1) for n in _counts(conv.out_height)] + [
        (conv.out_height, n) for n in _counts(conv.out_width) if n > 1
    ]
    ny, nx = (np.array(column)[:, None, None] for column in zip(*spatial, strict=True))
    nc = np.array(_counts(conv.channels))[None, :, None]
    nk = np.array(_counts(conv.filters))[None, None, :]
    rows, cols, channels, filters = (
        -(-conv.out_height // ny),
        -(-conv.out_width // nx),
        -(-conv.channels // nc),
        -(-conv.filters // nk),
    )

    # A strided 1x1 kernel also reads the rows that it skips: DRAM bursts have no gaps.
    in_rows = np.minimum((rows - 1) * stride_h + max(kernel_h, stride_h), conv.height)
    in_cols = np.where(
        nx == 1, conv.width, np.minimum((cols - 1) * stride_w + max(kernel_w, stride_w), conv.width)
    )
    out_bytes = np.where(
        nc > 1,
        max(accelerator.partial_sum_bytes, accelerator.bytes_per_element),
        accelerator.bytes_per_element,
    )
    tile_bytes = (
        accelerator.bytes_per_element * channels * (in_rows * in_cols + filters * conv.taps)
        + out_bytes * rows * cols * filters
    )
    half_buffer = accelerator.buffer_bytes // 2

    # Neighbouring tiles both read the rows and columns that they share, the halo.
    inputs = (
        conv.channels
        * (conv.height + (ny - 1) * max(kernel_h - stride_h, 0))
        * (conv.width + (nx - 1) * max(kernel_w - stride_w, 0))
    )
    weights = conv.channels * conv.filters * conv.taps
    n_spatial = ny * nx
    # Outputs stay in the buffer, and so does what the innermost loop does not change.
    # Filters inside: for y, x: for k: for c.
    filters_inside = inputs * np.where(nc == 1, 1, nk) + weights * np.where(
        nk * nc == 1, 1, n_spatial
    )
    # Space inside: for k: for y, x: for c.
    space_inside = inputs * np.where(n_spatial * nc == 1, 1, nk) + weights * np.where(
        nc == 1, 1, n_spatial
    )
    words = np.minimum(filters_inside, space_inside) + conv.filters * conv.pixels

    count = n_spatial * nc * nk
    wanted = min(-(-PIPELINE_TILES // conv.groups), int(count.max()))
    feasible = (tile_bytes <= half_buffer) & (count >= wanted)
    if not feasible.any():
        raise UserError(
            f"accelerator: a buffer of {accelerator.buffer_bytes:,} bytes is too small for a tile "
            f"of a {kernel_h}x{kernel_w} convolution, which needs {2 * int(tile_bytes.min()):,}"
        )
    words, count, tile_bytes = (
        np.broadcast_to(a, feasible.shape) for a in (words, count, tile_bytes)
    )
    fewest = feasible & (words == words[feasible].min())
    best = np.unravel_index(np.argmin(np.where(fewest, count, np.iinfo(np.int64).max)), count.shape)
    tiles = int(count[best])
    if tiles == 1:  # one tile holds several groups
        groups_per_tile = max(half_buffer // int(tile_bytes[best]), 1)
        tiles_in_all = max(-(-conv.groups // groups_per_tile), min(PIPELINE_TILES, conv.groups))
    else:
        tiles_in_all = tiles * conv.groups
    return Tiling(tiles_in_all, int(n_spatial[best[0], 0, 0]), int(words[best]) * conv.groups)


def _counts(size: int) -> list[int]:
    """Returns the distinct numbers of tiles of an axis, over all sizes of a tile."""
    return sorted({-(-size // part) for part in range(1, size + 1)})
