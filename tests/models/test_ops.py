"""Each conv backend against the definition written in NumPy, and against the other one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeeze_jax.models import conv_backend, cpu_lowering, functional

BACKENDS = ("native", "matmul")


def convolution(x, kernel, stride, padding, groups):
    """Cross-correlation by its definition, one output position at a time, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)))
    kh, kw, cin, cout = kernel.shape
    out = np.zeros(
        (x.shape[0], (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1, cout)
    )
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            patch = x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
            for g in range(groups):
                outputs = slice(g * cout // groups, (g + 1) * cout // groups)
                out[:, i, j, outputs] = np.tensordot(
                    patch[..., g * cin : (g + 1) * cin], kernel[..., outputs].astype(np.float64), 3
                )
    return out


def max_pooling(x, window, stride):
    """Caffe's rule: the output size rounds up, and a window is cut off at the edge."""
    rows, columns = (-(-(size - window) // stride) + 1 for size in x.shape[1:3])
    return np.stack(
        [
            np.stack(
                [
                    x[:, i * stride : i * stride + window, j * stride : j * stride + window].max(
                        (1, 2)
                    )
                    for j in range(columns)
                ],
                1,
            )
            for i in range(rows)
        ],
        1,
    )


GEOMETRIES = pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "groups"),
    [
        ((9, 9), (1, 1), 1, ((0, 0), (0, 0)), 1),
        ((9, 8), (1, 1), 2, ((0, 0), (0, 0)), 1),
        ((9, 7), (3, 3), 1, ((1, 1), (1, 1)), 1),
        ((15, 14), (7, 7), 2, ((0, 0), (0, 0)), 1),
        ((8, 8), (3, 1), 1, ((1, 1), (0, 0)), 1),
        ((8, 8), (3, 3), 2, ((0, 1), (1, 0)), 2),
        ((5, 5), (1, 1), 1, ((1, 1), (1, 1)), 1),
        ((8, 7), (5, 3), 1, ((2, 1), (0, 1)), 1),
    ],
)


@pytest.mark.parametrize("backend", BACKENDS)
@GEOMETRIES
def test_conv2d_is_the_definition(backend, size, kernel, stride, padding, groups):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 4), np.float32)
    weights = rng.standard_normal((*kernel, 4 // groups, 10), np.float32)
    with conv_backend.conv_backend(backend):
        y = jax.jit(lambda x, w: functional.conv2d(x, w, stride, padding, groups))(x, weights)
    np.testing.assert_allclose(
        y, convolution(x, weights, stride, padding, groups), rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 0), (0, 0)), ((2, 0), (1, 3))])
@pytest.mark.parametrize("size", [(3, 3), (8, 8), (9, 6), (6, 13)])
def test_conv2d_without_a_gradient_is_the_definition(size, padding, dtype):
    """32 channels are enough for Winograd's transforms, which would lose digits in bfloat16."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *size, 32)), dtype)
    weights = jnp.asarray(rng.standard_normal((3, 3, 32, 10)) / np.sqrt(9 * 32), dtype)
    with conv_backend.conv_backend("matmul"):
        y = jax.jit(lambda x, w: functional.conv2d(x, w, padding=padding, train=False))(x, weights)
    expected = convolution(
        np.asarray(x, np.float32), np.asarray(weights, np.float32), 1, padding, 1
    )
    assert y.dtype == dtype and y.shape == expected.shape
    error = np.abs(np.asarray(y, np.float64) - expected) / np.abs(expected).max()
    assert error.max() < {"float32": 1e-6, "bfloat16": 2**-7}[dtype]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "size", "padding", "products"),
    [
        (1, (51, 61), ((0, 0), (0, 0)), 1),  # 0.4 MB of patches
        (1, (102, 97), ((1, 0), (3, 3)), 2),
        (2, (102, 98), ((0, 0), (1, 0)), 3),
        (3, (131, 97), ((2, 2), (0, 0)), 4),
        (300, (9, 67), ((0, 0), (0, 0)), 2),  # no more than there are rows
    ],
)
def test_large_patches_are_multiplied_in_groups_of_rows(images, size, padding, products):
    """Where there is no gradient; each product sees its own rows, and together they see all."""
    rng = np.random.default_rng(0)
    x, weights = (
        rng.standard_normal((images, *size, 3), np.float32),
        rng.standard_normal((7, 7, 3, 5), np.float32),
    )

    def conv(x, train):
        with conv_backend.conv_backend("matmul"):
            return functional.conv2d(x, jnp.asarray(weights), 2, padding, train=train)

    np.testing.assert_allclose(
        jax.jit(conv, static_argnums=1)(x, False),
        convolution(x, weights, 2, padding, 1),
        rtol=1e-5,
        atol=1e-4,
    )
    assert [
        str(jax.make_jaxpr(lambda x: conv(x, train))(x)).count("dot_general[")
        for train in (False, True)
    ] == [products, 1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(55, 27), (54, 28), (2, 3), (9, 9)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_max_pool_rounds_up(backend, size, dtype):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, *size, 3)), dtype)
    with conv_backend.conv_backend(backend):
        y = jax.jit(lambda x: functional.max_pool(x))(x)  # traced anew: backends are no argument
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(
        np.asarray(y, np.float32), max_pooling(np.asarray(x, np.float32), 3, 2)
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@GEOMETRIES
def test_gradients_agree_between_backends(dtype, size, kernel, stride, padding, groups):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((2, *size, 4)), dtype)
    weights = jnp.asarray(rng.standard_normal((*kernel, 4 // groups, 10)), dtype)

    def gradients(backend):
        def loss(x, weights):
            with conv_backend.conv_backend(backend):
                return jnp.sum(
                    functional.max_pool(
                        functional.conv2d(x, weights, stride, padding, groups)
                    ).astype(jnp.float32)
                    ** 2
                )

        return jax.jit(jax.grad(loss, (0, 1)))(x, weights)

    tolerance = 1e-4 if dtype == "float32" else 0.1
    for native, matmul in zip(*map(gradients, BACKENDS), strict=True):
        assert matmul.dtype == dtype
        scale = float(jnp.max(jnp.abs(native)))
        np.testing.assert_allclose(
            np.asarray(native, np.float32),
            np.asarray(matmul, np.float32),
            rtol=tolerance,
            atol=tolerance * scale,
        )


@pytest.mark.parametrize(
    ("images", "seen", "params", "parts"),
    [
        (32, 7_243_776, 4_993_984, 32),  # SqueezeNet at 227: an image at a time
        (256, 294_912, 2_900_000, 32),  # small images: eight at a time fill the caches
        (7, 2**21, 0, 7),  # two at a time would not divide the batch
        (64, 27_648, 200_000, 1),
        (
            32,
            4_392_300,
            244_000_000,
            1,
        ),  # AlexNet: its dense layers' weights are more than all patches
    ],
)
def test_parts_are_small_enough_for_caches_and_large_enough_for_the_weights(
    images, seen, params, parts
):
    with conv_backend.conv_backend("matmul"):
        assert conv_backend.num_microbatches(images, seen, params, train=True) == parts
        assert conv_backend.num_microbatches(images, seen, params, train=False) <= parts
    with conv_backend.conv_backend("native"):
        assert conv_backend.num_microbatches(images, seen, params, train=True) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_relu_and_pool_commute_with_their_gradients(backend):
    rng = np.random.default_rng(0)
    x, weights = (
        jnp.asarray(rng.standard_normal(shape, np.float32))
        for shape in ((2, 9, 9, 8), (2, 4, 4, 8))
    )
    x = x.at[0, :5].set(-1.0)  # windows without anything positive

    def loss(x, train):
        with conv_backend.conv_backend(backend):
            return jnp.sum(weights * functional.relu_max_pool(x, train=train))

    both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    for found, expected in zip(both(x, True), both(x, False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("train", [False, True])
def test_parts_joined_before_or_after_their_activation(backend, train):
    rng = np.random.default_rng(0)
    parts = [
        jnp.asarray(rng.standard_normal((2, 6, 5, channels), np.float32)) for channels in (3, 1, 4)
    ]
    with conv_backend.conv_backend(backend):
        y = jax.jit(
            lambda parts: functional.concat_channels(
                parts, lambda x: functional.relu_max_pool(x, train=train)
            )
        )(parts)
    whole = np.concatenate(parts, axis=-1)
    np.testing.assert_array_equal(y, max_pooling(np.maximum(whole, 0), 3, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_too_small_an_input_is_named(backend):
    with conv_backend.conv_backend(backend):
        with pytest.raises(ValueError, match="3x3 convolution.*2x2"):
            functional.conv2d(jnp.zeros((1, 2, 2, 1)), jnp.zeros((3, 3, 1, 1)))
        with pytest.raises(ValueError, match="max pooling got 1x1"):
            functional.max_pool(jnp.zeros((1, 1, 1, 1)))


@pytest.mark.slow
def test_dropout_depends_on_the_examples_key_alone():
    x = jnp.ones((6, 5, 5, 8))
    keys = jax.random.split(jax.random.key(0), 6)
    whole = functional.dropout(x, 0.5, keys)
    halves = jnp.concatenate(
        [functional.dropout(x[:3], 0.5, keys[:3]), functional.dropout(x[3:], 0.5, keys[3:])]
    )
    np.testing.assert_array_equal(whole, halves)
    assert set(np.unique(whole)) == {0.0, 2.0}
    assert 0.4 < float(jnp.mean(whole == 0)) < 0.6
    assert functional.dropout(x, 0.0, keys) is x


def test_few_images_are_not_worth_the_longer_compilation():
    assert (
        conv_backend.default_conv_backend("cpu")
        == conv_backend.default_conv_backend("cpu", 50_000 * 224**2)
        == "matmul"
    )
    assert (
        conv_backend.default_conv_backend("cpu", 360 * 32**2)
        == conv_backend.default_conv_backend("tpu")
        == conv_backend.default_conv_backend("gpu")
        == "native"
    )


def test_what_is_materialized_is_computed_once():
    """FLOPs grow with the number of blocks, not with its square, and nothing else changes."""

    def compiled(blocks, keep):
        def loss(x, w):
            for _ in range(blocks):
                x = keep(jax.nn.relu(x + jnp.square(x @ w)))
            return x.sum()

        x = jax.random.normal(jax.random.key(0), (64, 8)) / 9
        gradients = jax.jit(jax.grad(loss, (0, 1)))
        return gradients(x, x[:8]), gradients.lower(x, x[:8]).compile().cost_analysis()["flops"]

    (found, six), (_, eight), (_, ten) = (
        compiled(blocks, cpu_lowering.materialize) for blocks in (6, 8, 10)
    )
    assert eight - six == ten - eight
    for dx, expected in zip(found, compiled(6, lambda x: x)[0], strict=True):
        np.testing.assert_allclose(dx, expected, rtol=1e-5)
