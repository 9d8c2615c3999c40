"""Tests clustering and tied gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from squeeze_jax.compress.cluster import cluster, cluster_weights, tie_gradients
from squeeze_jax.compress.sqz.quantized_tensor import find_codebook


def sparse(shape, seed=0, density=0.4):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 0.05 * (rng.random(shape) < density)).astype(np.float32)


def k_means(weights, values):
    """Lloyd's algorithm over all distances, from evenly spread centroids; empty clusters stay."""
    points = weights[weights != 0].astype(np.float64)
    centroids, labels = np.linspace(points.min(), points.max(), values), None
    while True:
        new = np.abs(points[:, None] - centroids).argmin(1)
        if labels is not None and (new == labels).all():
            return centroids[labels]
        labels = new
        for i in np.unique(labels):
            centroids[i] = points[labels == i].mean()


@pytest.mark.parametrize(("seed", "values"), [(0, 1), (1, 3), (2, 31), (3, 63)])
def test_cluster_is_k_means(seed, values):
    weights = sparse((3, 3, 20, 16), seed)
    found = cluster(weights, values)
    assert found.dtype == np.float32 and found.shape == weights.shape
    np.testing.assert_allclose(found[weights != 0], k_means(weights, values), rtol=1e-6)
    assert not found[weights == 0].view(np.uint32).any()


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_shared_weights_are_found_again_by_the_coder(bits):
    """Each kernel gets 2^bits values, zero among them; biases stay."""
    params = {
        "conv1": {"kernel": sparse((64, 96)), "bias": np.linspace(-1, 1, 96, dtype=np.float32)},
        "fc": {"kernel": sparse((50, 90), 1)},
    }
    result = cluster_weights(params, bits)
    np.testing.assert_array_equal(result["conv1"]["bias"], params["conv1"]["bias"])
    for layer in ("conv1", "fc"):
        levels = find_codebook(result[layer]["kernel"])
        assert 1 < len(levels.dequantiser.codebook) <= 2**bits
        np.testing.assert_array_equal(levels.values(), result[layer]["kernel"])
    np.testing.assert_array_equal(
        cluster_weights(result, bits)["fc"]["kernel"], result["fc"]["kernel"]
    )


def test_few_values_are_left_as_they_are():
    for weights in (np.zeros((3, 4), np.float32), np.asarray([0, 1, 2, 3, 3, 2, -7], np.float32)):
        np.testing.assert_array_equal(cluster(weights, 4), weights)


def test_a_mean_of_zero_is_no_negative_zero():
    """No codebook of a file holds -0.0."""
    assert (
        find_codebook(np.tile(cluster(np.asarray([-3, -1e-30, 1e-30, 3], np.float32), 3), 8))
        is not None
    )


@jax.jit
def tied(gradients, params):
    return tie_gradients().update(gradients, tie_gradients().init(params))[0]


@pytest.mark.slow
def test_tied_gradients_are_those_of_the_shared_values():
    """Compares with automatic differentiation through the codebook.

    Zeros have no gradient, and a bias keeps its own.
    """
    codebook, rng = jnp.asarray([-0.5, 0.0, 0.25, 2.0]), np.random.default_rng(0)
    codes, inputs = (
        jnp.asarray(rng.integers(0, 4, (6, 5))),
        jnp.asarray(rng.standard_normal((8, 6)), jnp.float32),
    )
    params = {"fc": {"kernel": codebook[codes], "bias": jnp.zeros(5)}}

    def loss(params):
        return jnp.sum(jnp.tanh(inputs @ params["fc"]["kernel"] + params["fc"]["bias"][None]) ** 2)

    by_value = jax.grad(
        lambda book: loss({"fc": {"kernel": book[codes], "bias": params["fc"]["bias"]}})
    )(codebook)
    gradients = jax.grad(loss)(params)
    updates = tied(gradients, params)
    np.testing.assert_allclose(
        updates["fc"]["kernel"], by_value.at[1].set(0)[codes], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(updates["fc"]["bias"], gradients["fc"]["bias"])


def test_a_kernel_that_starts_at_zero_is_trained_weight_by_weight():
    params = {"fc": {"kernel": jnp.zeros((2, 3))}}
    gradients = {"fc": {"kernel": jnp.arange(1.0, 7).reshape(2, 3)}}
    np.testing.assert_array_equal(
        tied(gradients, params)["fc"]["kernel"], gradients["fc"]["kernel"]
    )


@pytest.mark.slow
def test_groups_stay_bit_equal_under_clipping_momentum_and_decay():
    """Compiled, over sizes that leave remainders in vector loops."""
    params = {
        "fc": {
            "kernel": jnp.asarray(
                cluster_weights({"fc": {"kernel": sparse((67, 101))}}, 5)["fc"]["kernel"]
            )
        }
    }
    optimizer = optax.chain(
        tie_gradients(),
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(0.01),
        optax.scale_by_learning_rate(0.1),
        optax.trace(0.9),
    )

    @jax.jit
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    groups, state = (
        np.unique(params["fc"]["kernel"], return_inverse=True)[1],
        optimizer.init(params),
    )
    before = np.asarray(params["fc"]["kernel"])
    for i in range(10):
        gradients = {"fc": {"kernel": jax.random.normal(jax.random.key(i), (67, 101))}}
        params, state = step(params, state, gradients)
    after = np.asarray(params["fc"]["kernel"])
    assert not after[before == 0].view(np.uint32).any() and (after != before)[before != 0].all()
    for group in range(groups.max() + 1):
        assert len(np.unique(after[groups == group].view(np.uint32))) == 1
