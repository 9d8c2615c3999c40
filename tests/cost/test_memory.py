"""RAM and flash of the int8 file, beside tflite-micro's own report and plans made by hand."""

import numpy as np
import pytest
from flax import nnx

from experiments.ram import __main__ as ram
from squeeze_jax.cost import design_costs, memory, trace
from squeeze_jax.cost.arena import Buffer
from squeeze_jax.cost.memory import plan_bytes
from squeeze_jax.models import layers


def operators(build, shape=(16, 16, 3)):
    return [op.name for op in trace.trace_module(build, shape).operators.operators]


@pytest.mark.parametrize(
    ("buffers", "total"),
    [
        ([], 0),
        ([Buffer(16, 0, 1), Buffer(32, 1, 2), Buffer(16, 2, 3)], 48),  # the ends share a place
        ([Buffer(16, 0, 3), Buffer(32, 0, 1), Buffer(32, 2, 3)], 48),
        # A gap between two that live longer is filled only by what fits.
        ([Buffer(64, 0, 1), Buffer(48, 1, 3), Buffer(32, 0, 3), Buffer(64, 3, 3)], 144),
    ],
)
def test_buffers_share_by_lifetime(buffers, total):
    assert plan_bytes(buffers) == total


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_is_no_smaller_than_what_is_alive_at_once(seed):
    random = np.random.default_rng(seed)
    buffers = [
        Buffer(16 * int(random.integers(1, 50)), first, first + int(random.integers(0, 5)))
        for first in range(30)
    ]
    alive = [sum(b.size for b in buffers if b.first <= t <= b.last) for t in range(35)]
    assert max(alive) <= plan_bytes(buffers) <= sum(buffer.size for buffer in buffers)


class Residual(nnx.Module):
    """BatchNorm, an addition, a ReLU whose input is used twice, padding that is not SAME."""

    def __init__(self):
        options = dict(kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
        self.first = layers.Conv(3, 8, 3, padding=1, batch_norm=True, **options)
        self.second = layers.Conv(8, 8, 3, padding=1, stride=2, **options)
        self.third = layers.Conv(8, 8, 1, stride=2, **options)

    def __call__(self, x):
        x = nnx.relu(self.first(x))
        y = self.second(x)
        z = nnx.relu(y)
        return (z + y + self.third(x)).mean((1, 2))


def test_operators_are_those_of_the_file():
    """A stride of 2 pads in the middle, unlike TensorFlow, and takes an operator."""
    assert operators(Residual) == [
        "CONV_2D", "PAD", "CONV_2D", "RELU", "ADD", "CONV_2D", "ADD", "MEAN"
    ]  # fmt: skip


def test_what_has_no_int8_form_runs_in_float():
    costs = [
        design_costs({"name": name}, 10, (64, 64, 3)) for name in ("tiny_darknet", "mobilenet_v1")
    ]
    assert all(cost["ram_bytes"] > 0 and cost["flash_bytes"] > cost["params"] for cost in costs)
    flow = trace.trace_module(lambda: ram.build_model({"name": "tiny_darknet"}, 10), (64, 64, 3))
    names = [op.name for op, _ in memory.with_float_operators(flow.operators, ("CONV_2D",))]
    at = names.index("LEAKY_RELU")
    assert names[at - 1 : at + 2] == ["DEQUANTIZE", "LEAKY_RELU", "QUANTIZE"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options", "size"),
    [
        ("squeezenet_v1_1", {"num_fire": 4, "base_e": 16, "incr_e": 16, "conv1_filters": 16}, 32),
        ("squeezenet_v1_0", {"base_e": 16, "incr_e": 8, "bypass": "complex"}, 64),
        ("squeezenet_v1_0_released", {"base_e": 16, "incr_e": 8, "batch_norm": True}, 64),
        ram.NETS["v1.0, 3 Fire modules, 24x40 pixels"],
        ("squeezenext_23", {"blocks": (1, 1, 1, 1)}, 64),
        ("squeezenet_v1_1", {"base_e": 16, "incr_e": 8, "in_channels": 1}, (46, 33)),
    ],
)
def test_tflite_micro_reports_the_same(model, options, size):
    pytest.importorskip("tflite_micro")
    pytest.importorskip("ai_edge_quantizer")
    row = ram.compare(model, options, size, 10)
    assert abs(row["ram_error_percent"]) < 1 and abs(row["flash_error_percent"]) < 1
