"""The two dataflows: cycles in the array and words that cross the port between buffer and array.

Weight stationary (WS): the array holds the weights of one filter tap, input channels down the rows and output channels
across the columns. All pixels stream through, partial sums of an output pixel return once for each tap and block of rows.

Output stationary (OS): the array holds rows x columns output pixels of one output channel. For each input channel the
patch of inputs under those pixels comes in; the taps' weights are broadcast one by one, while the inputs shift from
neighbour to neighbour. Zero weights are passed over.

Blocks of pixels are cut from the whole output map: that a spatial tile's edge may cut a block in two is not charged.
"""

from dataclasses import dataclass

from squeeze_jax.cost.accelerator.architecture import Accelerator
from squeeze_jax.cost.accelerator.tiling import Convolution

DATAFLOWS = ("ws", "os")


@dataclass(frozen=True)
class Compute:
    """What a layer does inside the array, DRAM aside. Words are 16 bits."""

    cycles: float
    macs: float  # executed: OS leaves out those with a zero weight
    register_accesses: float
    neighbour_transfers: float  # PE to PE
    port_words: float  # between buffer and array, both directions


def weight_stationary(conv: Convolution, spatial_tiles: int, accelerator: Accelerator) -> Compute:
    """A pass holds one block of one tap's weights and streams pixels, one a cycle; its weights come through the same port before.

    A partial sum crosses the port as one word, however wide it is kept in the buffer.
    """
    row_blocks, column_blocks = (
        _ceil(conv.channels, accelerator.rows),
        _ceil(conv.filters, accelerator.columns),
    )
    streamed = conv.groups * conv.taps * conv.pixels  # by one block of the weights
    # Every spatial tile has the weights loaded anew, and streaming stops meanwhile.
    weights = conv.groups * conv.channels * conv.filters * conv.taps * spatial_tiles
    cycles = row_blocks * column_blocks * streamed + weights / accelerator.port_words

    macs = conv.channels * conv.filters * streamed
    inputs = conv.channels * column_blocks * streamed
    sums_out = conv.filters * row_blocks * streamed
    sums_in = (
        sums_out - conv.groups * conv.filters * conv.pixels
    )  # the first pass starts from nothing
    # The pixel that a row's bus brings is latched in each PE: one register access a MAC.
    return Compute(cycles, macs, macs, 0, inputs + sums_out + sums_in + weights)


def output_stationary(conv: Convolution, accelerator: Accelerator) -> Compute:
    """A pass computes a block of pixels of one output channel, one input channel after another.

    The inputs under the block (its patch: halo and strided-over inputs included) come in while the weights of the channel
    before are at work, so a channel takes as long as the slower of the two; or as long as both together, if the register
    files cannot hold two patches beside the sum.
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
    # An input comes through the port for the first tap and from a neighbour for the others.
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
    """(length, how many) of the blocks that cover size."""
    return [
        (length, count)
        for length, count in ((block, size // block), (size % block, 1))
        if length and count
    ]
