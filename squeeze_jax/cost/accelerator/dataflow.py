"""Computes a layer's cycles and data movement in the array under either dataflow.

Weight stationary (WS): the array holds the weights of one filter tap, input channels down the rows
and output channels across the columns. All pixels stream through. The partial sums of an output
pixel return once for each tap and each block of rows.

Output stationary (OS): the array holds rows x columns output pixels of one output channel. For each
input channel the array loads the patch of inputs under those pixels. The taps' weights are
broadcast one by one while the inputs shift between neighbouring PEs. Zero weights are skipped.

Blocks of pixels are cut from the whole output map. The model does not charge for blocks that the
edge of a spatial tile cuts in two.
"""

from dataclasses import dataclass

from squeeze_jax.cost.accelerator.architecture import Accelerator
from squeeze_jax.cost.accelerator.tiling import Convolution

DATAFLOWS = ("ws", "os")


@dataclass(frozen=True)
class Compute:
    """Holds a layer's cycles and accesses in the array, without DRAM. Words have 16 bits."""

    cycles: float
    macs: float  # executed; OS skips those with a zero weight
    register_accesses: float
    neighbour_transfers: float  # words from PE to PE
    port_words: float  # words between buffer and array, in both directions


def weight_stationary(conv: Convolution, spatial_tiles: int, accelerator: Accelerator) -> Compute:
    """Returns the cost of a layer under the weight-stationary dataflow.

    A pass loads one block of one tap's weights through the port and then streams one pixel a cycle.
    A partial sum crosses the port as one word, whatever its width in the buffer.

    Args:
      conv: the layer.
      spatial_tiles: tiles of the output map; each loads all weights.
      accelerator: the machine.
    """
    row_blocks = _ceil(conv.channels, accelerator.rows)
    column_blocks = _ceil(conv.filters, accelerator.columns)
    streamed = conv.groups * conv.taps * conv.pixels  # pixels that one block of weights sees
    # Each spatial tile loads the weights again; no pixels stream meanwhile.
    weights = conv.groups * conv.channels * conv.filters * conv.taps * spatial_tiles
    cycles = row_blocks * column_blocks * streamed + weights / accelerator.port_words

    macs = conv.channels * conv.filters * streamed
    inputs = conv.channels * column_blocks * streamed
    sums_out = conv.filters * row_blocks * streamed
    # The first pass has no sums to read.
    sums_in = sums_out - conv.groups * conv.filters * conv.pixels
    # Each PE latches the pixel on its row's bus: one register access a MAC.
    return Compute(cycles, macs, macs, 0, inputs + sums_out + sums_in + weights)


def output_stationary(conv: Convolution, accelerator: Accelerator) -> Compute:
    """Returns the cost of a layer under the output-stationary dataflow.

    A pass computes a block of pixels of one output channel, one input channel after another. The
    inputs under the block, its patch, include the halo and the inputs that a stride skips. A patch
    loads while the previous channel computes, so that a channel takes the longer of the two times.
    It takes their sum if the register files cannot hold two patches and the partial sum.
    """
    mac_cycles = conv.taps * accelerator.os_cycles_per_weight
    sum_words = -(-accelerator.partial_sum_bytes // accelerator.bytes_per_element)
    cycles = inputs = blocks = 0.0
    for rows, n_rows in _blocks(conv.out_height, accelerator.rows):
        for cols, n_cols in _blocks(conv.out_width, accelerator.columns):
            patch_height = min((rows - 1) * conv.stride[0] + conv.kernel[0], conv.height)
            patch_width = min((cols - 1) * conv.stride[1] + conv.kernel[1], conv.width)
            patch = patch_height * patch_width
            load_cycles = patch / accelerator.port_words
            overlap = (
                2 * _ceil(patch, accelerator.pes) + sum_words <= accelerator.register_file_words
            )
            channel_cycles = max(mac_cycles, load_cycles) if overlap else mac_cycles + load_cycles
            cycles += n_rows * n_cols * conv.channels * channel_cycles
            inputs += n_rows * n_cols * conv.channels * patch
            blocks += n_rows * n_cols
    filters = conv.groups * conv.filters
    weights = filters * blocks * conv.channels * conv.taps * accelerator.os_weight_density
    macs = filters * conv.channels * conv.taps * conv.pixels * accelerator.os_weight_density
    # An input crosses the port for the first tap and comes from a neighbour for the others.
    return Compute(
        filters * cycles,
        macs,
        0,
        macs * (conv.taps - 1) / conv.taps,
        filters * (inputs + conv.pixels) + weights,
    )


def _ceil(size: int, block: int) -> int:
    return -(-size // block)


def _blocks(size: int, block: int) -> list[tuple[int, int]]:
    """Returns (length, count) of the blocks that cover `size`: the whole ones and the rest."""
    return [
        (length, count)
        for length, count in ((block, size // block), (size % block, 1))
        if length and count
    ]
