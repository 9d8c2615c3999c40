"""Tests the accelerator model against layers worked out by hand, and its invariants."""

import math
from dataclasses import replace

import pytest

from squeeze_jax.cost.accelerator import PAPER_8X8, PAPER_16X16, Accelerator, estimate
from squeeze_jax.cost.trace import Layer
from squeeze_jax.errors import UserError


def conv(channels, filters, size, kernel=1, stride=1, pad=0, groups=1, width=None):
    """A square convolution on a size x size (or size x width) map."""
    width = width or size
    out = [(length + 2 * pad - kernel) // stride + 1 for length in (size, width)]
    macs = out[0] * out[1] * filters * channels // groups * kernel * kernel
    return Layer(
        "conv",
        "conv",
        (1, size, width, channels),
        (1, *out, filters),
        (kernel, kernel),
        (stride, stride),
        ((pad, pad),) * 2,
        groups,
        filters * channels // groups * kernel * kernel,
        macs,
    )


def dense(inputs, outputs):
    return Layer(
        "fc",
        "dense",
        (1, inputs),
        (1, outputs),
        (1, 1),
        (1, 1),
        (),
        1,
        inputs * outputs,
        inputs * outputs,
    )


LAYERS = {
    "pointwise": conv(64, 32, 28),
    "strided": conv(32, 64, 55, stride=2),
    "3x3": conv(48, 192, 27, 3, pad=1),
    "first": conv(3, 64, 227, 7, 2),
    "first of AlexNet": conv(3, 96, 227, 11, 4),
    "grouped": conv(96, 256, 27, 5, pad=2, groups=2),
    "depth-wise": conv(128, 128, 56, 3, pad=1, groups=128),
    "dense": dense(4096, 1000),
    "one pixel": conv(7, 5, 1),
    "wide": conv(256, 16, 16, 3, pad=1, width=2000),
}
MACHINES = [PAPER_8X8, PAPER_16X16, Accelerator(4, 32, 48 * 1024), Accelerator(1, 1, 16 * 1024)]
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
every_machine = pytest.mark.parametrize("machine", MACHINES, ids=lambda a: f"{a.rows}x{a.columns}")


def one(layer, machine, dataflow="best"):
    return estimate([layer], machine, dataflow).layers[0]


def once(layer):
    """Bytes of the input, the kernel and the output."""
    kernel = (
        math.prod(layer.kernel_size)
        * layer.input_shape[-1]
        // layer.groups
        * layer.output_shape[-1]
    )
    return 2 * (math.prod(layer.input_shape) + kernel + math.prod(layer.output_shape))


def test_weight_stationary_by_hand():
    """64 -> 32 channels, 28 x 28: 4 x 2 blocks of 16 x 16 weights, 784 pixels each.

    The words are 50,176 inputs, 2,048 weights and 25,088 outputs, so 154,624 bytes. Half of 128 KB
    is 65,536 bytes, so there are three tiles.
    """
    found = one(LAYERS["pointwise"], PAPER_16X16, "ws")
    assert found.dram_bytes == 154_624 and found.dram_cycles == 9_664 and found.tiles == 3
    # Each of three spatial tiles loads the weights anew, through a port of 16 + 2 x 16 words a
    # cycle.
    assert found.compute_cycles == pytest.approx(8 * 784 + 3 * 2_048 / 48)
    assert found.cycles == pytest.approx(9_664 + found.compute_cycles / 3 + 100)
    # The port moves each pixel of each channel for 2 column blocks, partial sums out for 4 row
    # blocks and in for 3, and the weights three times.
    port = 2 * 50_176 + 4 * 25_088 + 3 * 25_088 + 3 * 2_048
    assert found.buffer_accesses == port + 77_312
    energy = found.energy
    assert (energy.mac, energy.register_file) == (1_605_632, 1_605_632)
    assert (energy.inter_pe, energy.global_buffer, energy.dram) == (
        2 * port,
        6 * (port + 77_312),
        200 * 77_312,
    )
    assert found.utilisation == pytest.approx(1_605_632 / (256 * found.cycles))
    assert found.arithmetic_intensity == pytest.approx(1_605_632 / 154_624)
    assert found.macs_per_cycle == pytest.approx(256 * found.utilisation)


def test_output_stationary_by_hand():
    """A 3x3 kernel, 4 -> 2 channels, makes 16 x 16 outputs of an 18 x 18 map.

    That is one block, and its 18 x 18 patch is slower than its weights.
    """
    found = one(conv(4, 2, 18, 3), PAPER_16X16, "os")
    assert 324 / 48 > 9 / 1.4  # patch through the port; 9 weights at 1.4 a cycle
    assert found.compute_cycles == pytest.approx(2 * 4 * 324 / 48)
    # Without weights to skip it is the weights that are slower.
    dense_weights = replace(PAPER_16X16, os_weight_density=1.0)
    assert one(conv(4, 2, 18, 3), dense_weights, "os").compute_cycles == 2 * 4 * 9
    # 60 % of the MACs are done, and 8 of 9 operands come from a neighbour. The port moves patches,
    # outputs and the weights that are not zero.
    macs, port = 0.6 * 256 * 2 * 4 * 9, 2 * 4 * 324 + 2 * 256 + 0.6 * 72
    assert found.energy.mac == pytest.approx(macs) and found.energy.register_file == 0
    assert found.energy.inter_pe == pytest.approx(2 * (macs * 8 / 9 + port))


def test_small_register_files_load_and_compute_in_turn():
    """Two patches of 324 words over 256 PEs and a sum of two words need 6 words a PE."""
    layer = conv(4, 2, 18, 3)
    assert one(layer, replace(PAPER_16X16, register_file_words=6), "os") == one(
        layer, PAPER_16X16, "os"
    )
    small = one(layer, replace(PAPER_16X16, register_file_words=5), "os")
    assert small.compute_cycles == pytest.approx(2 * 4 * (324 / 48 + 9 / 1.4))


def test_edges_of_the_array_are_idle():
    """17 channels take as many passes as 32, which only have more weights to load.

    17 rows of pixels take as many blocks as 32.
    """
    few, many = (one(conv(channels, 16, 8), PAPER_16X16, "ws") for channels in (17, 32))
    assert (few.tiles, many.tiles) == (3, 3)
    assert many.compute_cycles - few.compute_cycles == pytest.approx(15 * 16 / 48, abs=1e-9)
    dense_weights = replace(PAPER_16X16, os_weight_density=1.0)
    cycles = [
        one(conv(8, 8, size, 3, pad=1), dense_weights, "os").compute_cycles for size in (16, 17, 32)
    ]
    assert cycles == [8 * 8 * 9, 4 * 8 * 8 * 9, 4 * 8 * 8 * 9]


def test_fully_connected_layers_wait_for_dram():
    found = one(dense(4096, 4096), PAPER_16X16)
    assert found.dataflow == "ws" and found.dram_bytes == 2 * (4096 * 4096 + 2 * 4096)
    assert found.cycles == pytest.approx(found.dram_cycles, rel=0.01)


def test_depthwise_layers_suit_output_stationary():
    """WS keeps one PE of the array busy, OS all of them."""
    layer = LAYERS["depth-wise"]
    assert (
        one(layer, PAPER_16X16, "ws").compute_cycles
        > 100 * one(layer, PAPER_16X16, "os").compute_cycles
    )


def test_groups_are_separate_convolutions():
    half, both = conv(48, 128, 27, 5, pad=2), conv(96, 256, 27, 5, pad=2, groups=2)
    for dataflow in ("ws", "os"):
        a, b = (
            (e.compute_cycles, e.dram_bytes, e.energy.total)
            for e in (one(layer, PAPER_8X8, dataflow) for layer in (half, both))
        )
        assert b == pytest.approx([2 * value for value in a])


def test_row_tiles_read_their_halo_again():
    """A 3x3 kernel runs over 16 channels in a buffer that holds only some rows of inputs."""
    layer = conv(16, 1, 64, 3, pad=1)
    found = one(layer, Accelerator(8, 8, 48 * 1024))
    extra = (found.dram_bytes - once(layer)) / 2
    assert (
        extra > 0 and extra % (2 * 64 * 16 + 9 * 16) == 0
    )  # at each cut two rows of 64 pixels and 16 channels, and the weights


def test_strides_read_the_rows_they_pass_over():
    assert one(LAYERS["strided"], PAPER_16X16).dram_bytes == once(LAYERS["strided"])


@every_layer
@every_machine
def test_bounds(layer, machine):
    for dataflow in ("ws", "os"):
        found = one(layer, machine, dataflow)
        density = 1 if dataflow == "ws" else machine.os_weight_density
        assert found.compute_cycles >= layer.macs * density / machine.pes
        assert found.cycles > max(found.compute_cycles, found.dram_cycles)
        assert found.dram_bytes >= once(layer)
        assert (
            found.energy.dram == 100 * found.dram_bytes
            and found.energy.total > 200 * once(layer) / 2
        )
        assert 0 < found.utilisation <= 1 / density


@every_layer
@every_machine
def test_best_is_the_faster(layer, machine):
    ws, os, best = (one(layer, machine, dataflow) for dataflow in ("ws", "os", "best"))
    assert best.cycles == min(ws.cycles, os.cycles)
    assert best in (ws, os)


@every_layer
def test_a_larger_buffer_never_moves_more(layer):
    traffic = [
        one(layer, replace(PAPER_8X8, buffer_bytes=kb * 1024)).dram_bytes
        for kb in (24, 32, 48, 64, 100, 128, 512, 4096, 2**17)
    ]
    assert traffic == sorted(traffic, reverse=True)
    assert traffic[-1] == once(layer)


@every_layer
@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_more_pes_are_never_slower(layer, dataflow):
    cycles = [
        one(layer, Accelerator(n, n, 128 * 1024), dataflow).compute_cycles
        for n in (1, 2, 4, 8, 16, 32, 64)
    ]
    assert cycles == sorted(cycles, reverse=True)


def test_a_network_is_the_sum_of_its_layers():
    pool = Layer(
        "max_pool1", "max_pool", (1, 28, 28, 64), (1, 14, 14, 64), (2, 2), (2, 2), (), 1, 0, 0
    )
    network = [LAYERS["pointwise"], pool, LAYERS["3x3"], LAYERS["dense"]]
    found = estimate(network, PAPER_16X16)
    assert [layer.name for layer in found.layers] == ["conv", "conv", "fc"]  # pools cost nothing
    alone = [one(layer, PAPER_16X16) for layer in network if layer is not pool]
    assert found.cycles == sum(layer.cycles for layer in alone)
    assert found.dram_bytes == sum(layer.dram_bytes for layer in alone)
    assert found.energy == pytest.approx(sum(layer.energy.total for layer in alone))
    assert found.energy == pytest.approx(found.energy_by_level.total)
    assert found.utilisation == pytest.approx(found.macs / (256 * found.cycles))
    assert estimate([], PAPER_16X16).cycles == 0 and estimate([pool], PAPER_16X16).utilisation == 0


@pytest.mark.parametrize(
    ("density", "window", "cycles"),
    [(0.6, 1, 1), (0.6, 2, 1 / 1.4), (0.6, 10**3, 0.6), (1.0, 2, 1)],
)
def test_zero_skipping(density, window, cycles):
    assert replace(
        PAPER_8X8, os_weight_density=density, zero_skip_window=window
    ).os_cycles_per_weight == pytest.approx(cycles)


def test_parse():
    assert Accelerator.parse("16x16", 128) == PAPER_16X16
    assert Accelerator.parse("8X8", 32) == PAPER_8X8
    assert Accelerator.parse("4x32", 0.5, dram_latency=0) == Accelerator(4, 32, 512, dram_latency=0)


@pytest.mark.parametrize(
    "array", ["0x8", "8x0", "8", "8x", "axb", "-8x8", "8x8x8", "", "8.5x8", "9999999x1"]
)
def test_unbuildable_arrays(array):
    with pytest.raises(UserError):
        Accelerator.parse(array, 32)


@pytest.mark.parametrize("kb", [0, -1, 1e-6, math.nan, math.inf, 1e306])
def test_unbuildable_buffers(kb):
    with pytest.raises(UserError):
        Accelerator.parse("8x8", kb)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("os_weight_density", 1.5),
        ("os_weight_density", 0),
        ("dram_latency", -1),
        ("dram_bytes_per_cycle", 0),
    ],
)
def test_impossible_options(option, value):
    with pytest.raises(UserError, match=option):
        replace(PAPER_8X8, **{option: value})


def test_impossible_requests():
    with pytest.raises(UserError, match="dataflow 'rs'"):
        estimate([LAYERS["3x3"]], PAPER_8X8, "rs")
    with pytest.raises(UserError, match="too small"):
        estimate([LAYERS["first"]], replace(PAPER_8X8, buffer_bytes=64))


@pytest.mark.parametrize("name", LAYERS)
def test_a_small_buffer_is_told_the_size_that_suffices(name):
    with pytest.raises(UserError, match="which needs") as refusal:
        estimate([LAYERS[name]], replace(PAPER_8X8, buffer_bytes=8))
    needed = int(str(refusal.value).rpartition(" ")[2].replace(",", ""))
    estimate([LAYERS[name]], replace(PAPER_8X8, buffer_bytes=needed))
    with pytest.raises(UserError, match="too small"):
        estimate([LAYERS[name]], replace(PAPER_8X8, buffer_bytes=needed - 1))
