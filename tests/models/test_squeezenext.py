"""Tests SqueezeNext against the released definitions and a forward pass in NumPy."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from squeeze_jax import models
from squeeze_jax.cost import trace
from squeeze_jax.errors import UserError
from tests.models.test_ops import convolution, max_pooling

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/squeezenext_layers.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("squeezenext")])
def test_layer_for_layer(name):
    layers = trace.trace_layers(lambda: models.create(name, rngs=nnx.Rngs(0)), (227, 227, 3))
    found = [
        [
            layer.input_shape[3],
            layer.output_shape[3],
            list(layer.kernel_size),
            layer.stride[0],
            [layer.padding[0][0], layer.padding[1][0]],
            layer.groups,
            list(layer.input_shape[1:3]),
            list(layer.output_shape[1:3]),
            layer.parameters,
            layer.macs,
        ]
        for layer in layers
        if layer.kind == "conv"
    ]
    *convolutions, classifier = GOLDEN[name]
    assert found == convolutions
    (dense,) = [layer for layer in layers if layer.kind == "dense"]
    assert [dense.input_shape[1], dense.output_shape[1], dense.parameters, dense.macs] == [
        *classifier[:2],
        *classifier[-2:],
    ]


def written_out(params, stats, x, blocks, rewired):
    """Computes the released definitions in float64, with running statistics in BatchNorm."""

    def conv(name, x, stride=1, groups=1, pad=(0, 0)):
        layer, stat = params, stats
        for part in name.split("/"):
            layer, stat = layer[part], stat[part]
        y = convolution(
            x, np.asarray(layer["kernel"]), stride, ((pad[0],) * 2, (pad[1],) * 2), groups
        )
        y = (y - stat["bn"]["mean"]) / np.sqrt(stat["bn"]["var"] + 1e-5) * layer["bn"][
            "scale"
        ] + layer["bn"]["bias"]
        return np.maximum(y, 0)

    x = max_pooling(conv("conv1", x, 2), 3, 2)
    number = 0
    for stage, count in enumerate(blocks, start=1):
        for index in range(1, count + 1):
            number += 1
            name, stride = f"stage{stage}_block{index}", 2 if stage > 1 and index == 1 else 1
            shortcut = conv(f"{name}/shortcut", x, stride) if index == 1 else x
            y, first = (shortcut, 1) if rewired else (x, stride)
            y = conv(f"{name}/reduce2", conv(f"{name}/reduce1", y, first))
            pads = ((1, 0), (0, 1)) if number % 2 else ((0, 1), (1, 0))
            y = conv(f"{name}/separable2", conv(f"{name}/separable1", y, pad=pads[0]), pad=pads[1])
            x = np.maximum(shortcut + conv(f"{name}/expand", y), 0)
    return conv("bottleneck", x).mean((1, 2)) @ np.asarray(
        params["classifier"]["kernel"], np.float64
    )


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 5])
def test_forward_is_the_papers(version):
    blocks = (2, 1, 2, 1)
    model = models.create(
        "squeezenext_23",
        rngs=nnx.Rngs(0),
        version=version,
        blocks=blocks,
        width=0.25,
        num_classes=7,
        conv1_filters=8,
        bottleneck=16,
    )
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    rng = np.random.default_rng(0)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    # Scales, shifts and statistics start at 0 or 1. They are drawn here, so that one in the wrong
    # place shows.
    params = jax.tree.map(
        lambda p: p if p.ndim > 1 else rng.uniform(0.5, 1.5, p.shape).astype(np.float32), params
    )
    stats = jax.tree.map(lambda p: rng.uniform(0.5, 1.5, p.shape).astype(np.float32), stats)
    images = rng.standard_normal((2, 67, 64, 3)).astype(np.float32)
    expected = written_out(params, stats, images, blocks, version > 1)
    np.testing.assert_allclose(
        jax.jit(nnx.merge(graphdef, params, stats))(images),
        expected,
        rtol=1e-3,
        atol=1e-4 * np.abs(expected).max(),
    )


def test_aggregation_adds_one_node_a_stage():
    """The nodes have 96 * 64 + 192 * 128 + 384 * 256 weights and their BatchNorms.

    Table 2 of arXiv 1803.10615 prints 0.9 M.
    """
    plain, ida = (
        trace.parameter_count(nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0))))
        for name in ("squeezenext_23", "squeezenext_23_ida")
    )
    assert ida - plain == 96 * 64 + 192 * 128 + 384 * 256 + 2 * (64 + 128 + 256)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": 6}, "version is one of 1, 2, 3, 4, 5"),
        ({"depth": 50}, "depth is one of 23, 34, 44"),
        ({"depth": [23]}, r"model.depth is an int; got \[23\]"),
        ({"version": True}, "model.version is an int; got True"),
        ({"separable": ["alternate"]}, "model.separable is a str"),
        ({"version": 5, "depth": 44}, "give blocks"),
        ({"blocks": (1, 2, 3)}, "four counts"),
        ({"width": 0.1}, "must divide by 4"),
    ],
)
def test_a_bad_option_is_one_clear_line(options, words):
    with pytest.raises(UserError, match=words):
        models.create("squeezenext_23", rngs=nnx.Rngs(0), **options)
