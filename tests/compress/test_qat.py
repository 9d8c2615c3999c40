"""Tests that quantized weights stay quantized in training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from squeeze_jax.compress.qat import LIMIT, check_quantized, keep_quantized
from squeeze_jax.compress.sqz.quantized_tensor import find_codebook, find_step, find_uniform_scale
from squeeze_jax.errors import UserError
from squeeze_jax.train import TrainConfig, optimizers


def sparse_levels(shape, most, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(-most, most + 1, shape) * (random.random(shape) < 0.4)


def products(levels, step):
    return levels.astype(np.float32) * np.float32(step)


def steps(count, seed=0):
    """Steps of all 24 bits over some orders of magnitude."""
    return np.exp(np.random.default_rng(seed).uniform(-12, 3, count)).astype(np.float32)


def bits(array):
    return np.asarray(array, np.float32).view(np.uint32)


def compiled(optimizer):
    """One compiled update, in which a product and a sum that follow one another may be fused."""

    @jax.jit
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return step


@pytest.mark.parametrize("smallest", range(1, 9))
def test_steps_are_found_among_their_products(smallest):
    for step in steps(50, smallest):
        levels = (
            sparse_levels((40, 30), 20, smallest) * 8
            + np.sign(sparse_levels((40, 30), 20, smallest)) * smallest
        )
        levels[0, :3] = smallest, smallest + 1, 0  # nothing but the step divides both
        weights = products(levels, step)
        found = find_uniform_scale(weights)
        np.testing.assert_array_equal(found.levels, levels)
        np.testing.assert_array_equal(bits(found.values()), bits(weights))


def test_the_largest_step_is_found():
    assert find_step(products(np.array([-6, 0, 4, 2]), 0.3)) == products(np.array(2), 0.3)


def test_traced_weights_have_the_same_step():
    traced = jax.jit(lambda weights: find_step(weights, jnp))
    for step in steps(20):
        weights = products(sparse_levels((40, 30), 9), step)
        assert bits(traced(weights)) == bits(find_step(weights)) == bits(step)
    noise = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    assert traced(noise) == find_step(noise) == 0


@pytest.mark.parametrize(
    "weights",
    [
        [0.0, 0.0],
        [-0.0, 1.0],
        [np.inf, 1.0],
        [np.nan, 1.0],
        [1.0, 2**15],
        [1.0, 1.1],
        [1e-45, 1.0],
        [3.4e38, 1.0],
        [0.1, 0.2, 0.3 + 1e-7],
        [],
    ],
)
def test_no_step_is_invented(weights):
    assert find_uniform_scale(np.array(weights, np.float32)) is None


def test_a_step_costs_less_than_a_codebook_where_there_is_one():
    weights = products(sparse_levels((40, 300), 50), 0.01)
    shared, uniform = find_codebook(weights), find_uniform_scale(weights)
    np.testing.assert_array_equal(np.unique(shared.levels).size, np.unique(uniform.levels).size)
    np.testing.assert_array_equal(shared.values(), uniform.values())


def test_weights_follow_latent_ones_from_step_to_step():
    """Levels move one at a time towards the latent weight, biases to the nearest float16.

    Free weights train as without quantization.
    """
    step, random = np.float32(0.0123456), np.random.default_rng(0)
    levels = sparse_levels((67, 101), 5)
    half = np.concatenate([random.normal(0, 0.1, 50), random.normal(0, 1e-5, 50)]).astype(
        np.float16
    )
    free = random.standard_normal((30, 7)).astype(np.float32)
    params = {
        "conv1": {"kernel": products(levels, step), "bias": half.astype(np.float32)},
        "fc": {"kernel": free, "bias": free[0]},
    }
    latent = jax.tree.map(np.copy, params)
    update, params = compiled(keep_quantized()), jax.tree.map(jnp.asarray, params)
    state = jax.jit(keep_quantized().init)(params)
    for i in range(20):
        change = jax.tree.map(
            lambda w: random.normal(0, 0.02 if i < 6 else 0, w.shape).astype(np.float32), latent
        )
        params, state = update(params, state, change)
        latent = jax.tree.map(np.add, latent, change)
        levels = levels + np.clip(np.round(latent["conv1"]["kernel"] / step) - levels, -1, 1)
        np.testing.assert_array_equal(bits(params["conv1"]["kernel"]), bits(products(levels, step)))
        nearest = latent["conv1"]["bias"].astype(np.float16)
        np.testing.assert_array_equal(
            np.asarray(params["conv1"]["bias"]), nearest.astype(np.float32)
        )
        np.testing.assert_array_equal(params["fc"]["kernel"], latent["fc"]["kernel"])
        np.testing.assert_array_equal(params["fc"]["bias"], latent["fc"]["bias"])
    np.testing.assert_array_equal(
        levels, np.round(latent["conv1"]["kernel"] / step)
    )  # all have arrived


def test_every_move_between_neighbours_is_exact():
    levels = np.arange(LIMIT + 1).reshape(64, 64) * np.where(np.arange(64) % 2, -1, 1)
    update, init = compiled(keep_quantized()), jax.jit(keep_quantized().init)
    for step in steps(25):
        start = {"fc": {"kernel": jnp.asarray(products(levels, step))}}
        for direction in (-1, 1):
            change = {"fc": {"kernel": jnp.full((64, 64), 1.2 * direction * step)}}
            params, _ = update(start, init(start), change)
            expected = products(np.clip(levels + direction, -LIMIT, LIMIT), step)
            np.testing.assert_array_equal(bits(params["fc"]["kernel"]), bits(expected))


def test_zeros_stay_zero_and_others_may_become_zero_and_come_back():
    config = TrainConfig(
        qat=True,
        schedule="constant",
        warmup=0.0,
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=1.0,
    )
    optimizer = optimizers.constrained_optimizer(config, optimizers.schedule(config, 10), {})
    update, params = compiled(optimizer), {"fc": {"kernel": jnp.asarray([[0.0, 1.0, -2.0]])}}
    state, seen = jax.jit(optimizer.init)(params), []
    for gradient in ([1e6, 0.6, 0.0], [0.0, 0.0, -0.4], [0.0, -0.3, -0.4]):
        params, state = update(params, state, {"fc": {"kernel": jnp.asarray([gradient])}})
        seen.append(params["fc"]["kernel"][0].tolist())
    # The first gradient's huge part is of a zero: clipping doesn't see it.
    assert seen == [[0, 0, -2], [0, 0, -2], [0, 1, -1]]


def test_a_net_without_quantized_kernels_is_refused():
    random = np.random.default_rng(0)
    noise, coarse = (
        random.standard_normal((5, 6)).astype(np.float32),
        products(sparse_levels((5, 6), 3), 0.1),
    )
    check_quantized(
        {"conv1": {"kernel": noise, "bias": np.zeros(6, np.float32)}, "fc": {"kernel": coarse}}
    )
    for kernel in (noise, np.zeros((5, 6), np.float32), products(np.arange(1, LIMIT + 2), 0.1)):
        with pytest.raises(UserError, match="train.qat: no kernel is a multiple of one step"):
            check_quantized({"conv1": {"kernel": kernel, "bias": coarse[0]}})
