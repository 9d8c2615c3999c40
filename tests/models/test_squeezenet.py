"""Tests SqueezeNet against the papers' counts and a forward pass in NumPy, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeeze_jax import models
from squeeze_jax.models.fire import fire_widths
from tests.models.test_ops import convolution, max_pooling


def test_metaparameters_make_table_1():
    squeeze, expand = zip(
        *[
            (w.squeeze, w.expand3x3)
            for w in (fire_widths(i, 128, 128, 2, 0.5, 0.125) for i in range(8))
        ],
        strict=True,
    )
    assert squeeze == (16, 16, 32, 32, 48, 48, 64, 64)
    assert expand == (64, 64, 128, 128, 192, 192, 256, 256)


@pytest.mark.parametrize("pct3x3", [0.0, 0.01, 0.3, 0.99, 1.0])
def test_widths_always_add_up_to_e(pct3x3):
    for base_e in (2, 7, 128):
        widths = fire_widths(3, base_e, 5, 2, pct3x3, 0.01)
        assert widths.expand1x1 + widths.expand3x3 == base_e + 5
        assert widths.squeeze >= 1
        assert (widths.expand3x3 > 0) == (pct3x3 > 0) and (widths.expand1x1 > 0) == (pct3x3 < 1)


def written_out(params, x, net):
    """Computes the forward pass of the papers' figures in float64.

    It is relu(conv1), pools, Fire modules, bypasses, conv10, ReLU and the mean.
    """

    def conv(name, x, stride=1, pad=0):
        layer = params
        for part in name.split("/"):
            layer = layer[part]
        return convolution(
            x, np.asarray(layer["kernel"]), stride, ((pad, pad), (pad, pad)), 1
        ) + np.asarray(layer["bias"])

    def fire(name, x):
        s = np.maximum(conv(f"{name}/squeeze", x), 0)
        return np.maximum(
            np.concatenate([conv(f"{name}/expand1x1", s), conv(f"{name}/expand3x3", s, pad=1)], -1),
            0,
        )

    pools = {"v1_1": ("conv1", "fire3", "fire5")}.get(net, ("conv1", "fire4", "fire8"))
    x = np.maximum(conv("conv1", x, stride=2), 0)
    x = max_pooling(x, 3, 2)
    for i in range(2, 10):
        y = fire(f"fire{i}", x)
        if net in ("simple_bypass", "complex_bypass") and i % 2:
            y = y + x
        elif net == "complex_bypass":
            y = y + conv(f"bypass{i}", x)
        x = max_pooling(y, 3, 2) if f"fire{i}" in pools else y
    return np.maximum(conv("conv10", x, pad=1 if net == "v1_0_released" else 0), 0).mean((1, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "net", ["v1_0", "v1_0_released", "v1_1", "simple_bypass", "complex_bypass"]
)
def test_forward_is_the_papers(net):
    model = models.create(
        f"squeezenet_{net}", rngs=nnx.Rngs(0), num_classes=7, base_e=16, incr_e=16, init="he"
    )
    rng = np.random.default_rng(0)
    graphdef, params = nnx.split(model)
    # Biases start at 0: drawn here, so that a bias in the wrong place shows.
    params = jax.tree.map(
        lambda p: p if p.ndim > 1 else rng.standard_normal(p.shape).astype(np.float32),
        nnx.to_pure_dict(params),
    )
    images = rng.standard_normal((2, 67, 64, 3)).astype(np.float32)
    logits = jax.jit(nnx.merge(graphdef, params))(images)
    expected = written_out(params, images, net)
    assert logits.shape == (2, 7)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_conv10_relu_is_an_option():
    options = dict(rngs=nnx.Rngs(0), num_classes=5, base_e=8, incr_e=8, conv1_kernel=3, init="he")
    images = jnp.asarray(np.random.default_rng(0).standard_normal((4, 33, 33, 3)), jnp.float32)
    with_relu = models.create("squeezenet_v1_0", **options)
    without = models.create("squeezenet_v1_0", conv10_relu=False, **options)
    assert float(jnp.min(jax.jit(with_relu)(images))) >= 0
    assert float(jnp.min(jax.jit(without)(images))) < 0


@pytest.mark.slow
def test_batch_norm_replaces_the_bias_and_normalises():
    model = models.create(
        "squeezenet_v1_1",
        rngs=nnx.Rngs(0),
        num_classes=5,
        base_e=8,
        incr_e=8,
        batch_norm=True,
        dropout=0.0,
    )
    assert not hasattr(model.fire2.squeeze, "bias") and hasattr(model.conv10, "bias")
    x = jnp.asarray(5 + 3 * np.random.default_rng(0).standard_normal((8, 33, 33, 3)), jnp.float32)
    y = model.conv1(x, train=True)
    np.testing.assert_allclose(jnp.mean(y, (0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(jnp.std(y, (0, 1, 2)), 1, atol=1e-3)
    assert float(jnp.max(jnp.abs(model.conv1.bn.mean[...]))) > 0


@pytest.mark.slow
def test_dropout_is_on_in_training_only():
    model = models.create(
        "squeezenet_v1_1", rngs=nnx.Rngs(0), num_classes=5, base_e=8, incr_e=8, init="he"
    )
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 33, 33, 3)), jnp.float32)
    trained = jax.jit(lambda key: model(x, train=True, key=key))
    assert not np.allclose(trained(jax.random.key(0)), trained(jax.random.key(1)))
    tested = jax.jit(lambda key: (model(x), model(x, key=key)))
    np.testing.assert_array_equal(*tested(jax.random.key(0)))
