"""The traced layer table against the released definitions, and on modules that are not ours."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from squeeze_jax import models
from squeeze_jax.cost import trace

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [row for row in json.loads((GOLDEN / "counts.json").read_text()) if row["macs"]],
    ids=lambda row: row["model"],
)
def test_macs_are_the_papers(row):
    layers = trace.trace_layers(
        lambda: models.create(row["model"], rngs=nnx.Rngs(0), **row["options"]),
        (row["input_size"],) * 2 + (3,),
    )
    assert sum(layer.macs for layer in layers) == row["macs"]


@pytest.mark.parametrize(
    ("model", "golden"), [("squeezenet_v1_0_released", "v1_0"), ("squeezenet_v1_1", "v1_1")]
)
def test_layer_for_layer(model, golden):
    expected = json.loads((GOLDEN / f"squeezenet_{golden}_layers.json").read_text())["layers"]
    layers = [
        layer
        for layer in trace.trace_layers(
            lambda: models.create(model, rngs=nnx.Rngs(0)), (227, 227, 3)
        )
        if layer.kind == "conv"
    ]
    found = [
        [
            layer.name,
            layer.input_shape[3],
            layer.output_shape[3],
            list(layer.kernel_size),
            layer.stride[0],
            [layer.padding[0][0], layer.padding[1][0]],
            list(layer.input_shape[1:3]),
            list(layer.output_shape[1:3]),
            layer.parameters,
            layer.macs,
        ]
        for layer in layers
    ]
    assert found == expected


class Users(nnx.Module):
    """A module of someone else: flax's own layers, a nested jit, a cast kernel."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x), use_running_average=True))
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        return jax.jit(self.head)(jnp.mean(x, (1, 2)))


def test_a_users_own_module():
    layers = {
        layer.name: layer for layer in trace.trace_layers(lambda: Users(nnx.Rngs(0)), (16, 16, 3))
    }
    assert list(layers) == ["stem", "max_pool1", "mean_pool", "head"]
    assert layers["stem"].macs == 8 * 8 * 8 * 27 and layers["stem"].parameters == 27 * 8 + 8
    assert layers["head"].macs == 40 and layers["head"].parameters == 45
    assert layers["max_pool1"].output_shape == (1, 4, 4, 8)


def test_batch_norm_counts_with_its_convolution():
    layers = trace.trace_layers(
        lambda: models.create("squeezenet_v1_1", rngs=nnx.Rngs(0), batch_norm=True), (64, 64, 3)
    )
    assert layers[0].parameters == 27 * 64 + 2 * 64


def test_too_small_an_image():
    with pytest.raises(ValueError, match="use larger images"):
        trace.trace_layers(lambda: models.create("squeezenet_v1_0", rngs=nnx.Rngs(0)), (16, 16, 3))
