"""BatchNorm over groups of images: values, gradients and statistics, against other definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeeze_jax.models import functional, initializers, layers
from squeeze_jax.models.batch_norm import BatchNorm, normalize, set_groups
from squeeze_jax.models.conv_backend import conv_backend

EPSILON = 1e-5


def reference(x, scale, bias, groups):
    """The definition, for JAX to differentiate; x [N, H, W, C]."""
    parts = x.reshape(groups, -1, x.shape[-1])
    mean, var = parts.mean(1, keepdims=True), parts.var(1, keepdims=True)
    y = (parts - mean) / jnp.sqrt(var + EPSILON) * scale[None, None] + bias[None, None]
    return y.reshape(x.shape), mean, var


@pytest.fixture
def arrays():
    """x and dy [12, 5, 4, 6], scale and bias [6]."""
    draw = np.random.default_rng(0).standard_normal
    x, dy = (jnp.asarray(3 + 2 * draw((12, 5, 4, 6)), jnp.float32) for _ in range(2))
    scale, bias = (jnp.asarray(draw(6), jnp.float32) for _ in range(2))
    return x, dy, scale, bias


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("as_images", [False, True])
def test_values_and_gradients_are_those_of_the_definition(arrays, groups, as_images):
    x, dy, scale, bias = arrays

    def ours(x, scale, bias):
        if as_images:
            return normalize(x, scale, bias, EPSILON, "", 1, groups)[0]
        shape = (-1, 6) if groups == 1 else (groups, -1, 6)
        return normalize(x.reshape(shape), scale, bias, EPSILON, "", 1)[0].reshape(x.shape)

    y, backward = jax.vjp(ours, x, scale, bias)
    expected, expected_backward = jax.vjp(
        lambda x, scale, bias: reference(x, scale, bias, groups)[0], x, scale, bias
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(backward(dy), expected_backward(dy), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_group_is_a_batch_of_pytorchs(arrays):
    torch = pytest.importorskip("torch")
    x, _, scale, bias = arrays
    layer = layer_of(scale, bias, group_images=4)
    y = np.asarray(layer(x, train=True))
    images = torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)
    for start in range(0, 12, 4):
        expected = torch.nn.functional.batch_norm(
            images[start : start + 4],
            None,
            None,
            torch.from_numpy(np.array(scale)),
            torch.from_numpy(np.array(bias)),
            training=True,
            eps=EPSILON,
        )
        np.testing.assert_allclose(
            y[start : start + 4], expected.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("backend", ["matmul", "native"])
def test_running_statistics_are_the_groups_mean(arrays, backend):
    x, _, scale, bias = arrays
    layer = layer_of(scale, bias, group_images=4)
    with conv_backend(backend):
        layer(x, train=True)
    _, mean, var = reference(x, scale, bias, 3)
    np.testing.assert_allclose(layer.mean[...], 0.1 * mean.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(layer.var[...], 0.9 + 0.1 * var.mean((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("backend", ["matmul", "native"])
def test_statistics_hold_far_from_zero(backend):
    """In float32, the mean of the squares minus the square of the mean would leave no digit."""
    x = 5000 + np.random.default_rng(0).standard_normal((8, 16, 16, 2))
    with conv_backend(backend):
        y = layer_of(jnp.ones(2), jnp.zeros(2))(jnp.asarray(x, jnp.float32), train=True)
    x = x.astype(np.float32).astype(np.float64)
    expected = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))
    np.testing.assert_allclose(y, expected, atol=2e-3)


@pytest.mark.parametrize("groups", [0, 1])
def test_gradients_hold_far_from_zero(groups):
    """Nor would the mean of dy times x minus the product of their means."""
    draw = np.random.default_rng(0).standard_normal
    x, dy = (np.float32(mean + draw((8, 256, 2))) for mean in (5000, 3))
    x, dy = (array.reshape(2048, 2) if not groups else array for array in (x, dy))
    _, backward = jax.vjp(
        lambda x: normalize(x, jnp.ones(2), jnp.zeros(2), EPSILON, "", 1, groups)[0], x
    )
    (dx,) = backward(jnp.asarray(dy))
    x, dy = (np.float64(array).reshape(2048, 2) for array in (x, dy))
    normal = (x - x.mean(0)) / x.std(0)
    expected = (dy - dy.mean(0) - normal * (dy * normal).mean(0)) / x.std(0)
    np.testing.assert_allclose(np.reshape(dx, (2048, 2)), expected, atol=1e-2)


def test_bfloat16_has_float32_statistics(arrays):
    x, _, scale, bias = arrays
    exact, rough = (layer_of(scale, bias) for _ in range(2))
    y = exact(x, train=True)
    z = rough(x.astype(jnp.bfloat16), train=True)
    assert z.dtype == jnp.bfloat16 and rough.mean[...].dtype == jnp.float32
    np.testing.assert_allclose(rough.mean[...], exact.mean[...], rtol=1e-2)
    np.testing.assert_allclose(z.astype(jnp.float32), y, atol=0.1)


def test_one_pass_in_bfloat16_keeps_what_bfloat16_has():
    """A mean of 30 deviations, of which bfloat16 keeps three bits, costs no more in one pass."""
    x = jnp.asarray(30 + np.random.default_rng(0).standard_normal((8, 16, 16, 2)), jnp.bfloat16)
    y, mean, var = normalize(x, jnp.ones(2), jnp.zeros(2), EPSILON, "", 1, 1)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean[0], exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var[0], exact.var((0, 1, 2)), rtol=1e-3)
    assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize("as_images", [False, True])
def test_a_group_on_two_devices_is_the_group_on_one(arrays, as_images):
    x, dy, scale, bias = arrays

    @functools.partial(jax.pmap, axis_name="batch", in_axes=(0, None, None, 0))
    def spread(x, scale, bias, dy):
        def ours(x, scale, bias):
            if as_images:
                return normalize(x, scale, bias, EPSILON, "batch", 2, 1)
            return normalize(x.reshape(-1, 6), scale, bias, EPSILON, "batch", 2)

        y, backward, (mean, var) = jax.vjp(
            lambda *args: (ours(*args)[0], ours(*args)[1:]), x, scale, bias, has_aux=True
        )
        dx, dscale, dbias = backward(dy.reshape(y.shape))
        sums = jax.lax.psum((dscale, dbias), "batch")
        return y, dx, *sums, mean, var

    halves = (array.reshape(2, 6, *array.shape[1:]) for array in (x, dy))
    y, dx, dscale, dbias, mean, var = spread(next(halves), scale, bias, next(halves))
    expected, backward = jax.vjp(
        lambda x, scale, bias: reference(x, scale, bias, 1)[0], x, scale, bias
    )
    np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=1e-5, atol=1e-5)
    wanted = (*backward(dy), *(array.reshape(1, 6) for array in reference(x, scale, bias, 1)[1:]))
    for found, want in zip(
        (dx.reshape(x.shape), dscale[0], dbias[0], mean[1], var[1]), wanted, strict=True
    ):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def layer_of(scale, bias, group_images=0) -> BatchNorm:
    """A layer with these parameters."""
    layer = BatchNorm(len(scale))
    layer.scale[...], layer.bias[...] = scale, bias
    holder = nnx.Dict(layer=layer)
    set_groups(holder, group_images)
    return layer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pool_before_the_norm_is_the_pool_after_it(dtype):
    """With scales of either sign: values, gradients and running statistics of a convolution."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((4, 9, 9, 3)), dtype)
    dy = jnp.asarray(random.standard_normal((4, 3, 3, 6)), dtype)
    conv = layers.Conv(
        3, 6, 3, batch_norm=True, kernel_init=initializers.fan_in(2.0, "gaussian"), rngs=nnx.Rngs(0)
    )
    conv.bn.scale[...] = jnp.asarray([1.0, -1.0, 0.5, -2.0, -0.1, 3.0])
    conv.bn.bias[...] = jnp.asarray(random.standard_normal(6), jnp.float32)
    set_groups(conv, 2)
    graphdef, *arrays = nnx.split(conv, nnx.Param, nnx.BatchStat)
    params, stats = jax.tree.map(jnp.asarray, arrays)
    params = jax.tree.map(lambda x: x.astype(dtype), params)  # as the training step does

    def run(params, x, early):
        own = nnx.merge(graphdef, params, stats, copy=True)
        assert own.pools_first(train=True)
        y = own(x, train=True, pool=early)
        return (y if early else functional.max_pool(y)), nnx.state(own, nnx.BatchStat)

    with conv_backend("native"):
        results = []
        for early in (True, False):
            y, backward, moved = jax.vjp(
                functools.partial(run, x=x, early=early), params, has_aux=True
            )
            results.append(jax.tree.leaves((y, moved, backward(dy))))
    tolerance = 1e-4 if dtype == "float32" else 5e-2
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(
            found.astype(jnp.float32),
            expected.astype(jnp.float32),
            rtol=tolerance,
            atol=tolerance * float(jnp.abs(expected).max()),
        )
