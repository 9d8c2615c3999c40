"""Pruning against the paper's counts, and the mask that a pruned net carries through training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.deep_compression import TABLE_1
from squeeze_jax.compress import prune
from squeeze_jax.errors import UserError
from squeeze_jax.network import leaves_by_path, weight_shapes
from squeeze_jax.train import TrainConfig, optimizers

# SqueezeNet paper, Table 1: parameters after pruning, biases included.
PARAMETERS_LEFT = {
    "conv1": 14_208, "fire2": 5_746, "fire3": 6_258, "fire4": 20_646, "fire5": 24_742,
    "fire6": 44_700, "fire7": 46_236, "fire8": 77_581, "fire9": 77_581, "conv10": 103_400,
}  # fmt: skip


def random_params(name="squeezenet_v1_0", num_classes=1000, **options):
    """Weights none of which is zero, BatchNorm's and biases included."""
    shapes, _ = weight_shapes({"model": {"name": name, **options}, "num_classes": num_classes})
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.standard_normal(x.shape, np.float32) + np.float32(1e-6), shapes
    )


def small_params():
    return random_params(
        "squeezenet_v1_1", 4, base_e=8, incr_e=8, conv1_filters=8, num_fire=2, pool_after=("conv1",)
    )


def test_table_1s_fractions_leave_its_counts():
    left = {}
    for path, leaf in leaves_by_path(prune.prune(random_params(), TABLE_1)).items():
        layer = path.partition("/")[0]
        left[layer] = left.get(layer, 0) + np.count_nonzero(leaf)
    assert left == PARAMETERS_LEFT and sum(left.values()) == 421_098


def test_the_largest_stay_and_nothing_else_changes():
    params = random_params("squeezenext_23", 10)
    result = leaves_by_path(prune.prune(params, [("stage1*", 0.4), ("*", 0.7)]))
    for path, before in leaves_by_path(params).items():
        after = result[path]
        if not path.endswith("kernel"):
            np.testing.assert_array_equal(after, before)
            continue
        kept = after != 0
        np.testing.assert_array_equal(after[kept], before[kept])
        assert not after.view(np.uint32)[~kept].any()  # +0.0
        assert np.abs(before[kept]).min() >= np.abs(before[~kept]).max()


@pytest.mark.parametrize(
    ("fraction", "size", "left"),
    [(0.07, 100, 7), (0.2, 512_000, 102_400), (0.331, 1000, 331), (0.001, 10, 1), (1.0, 9, 9)],
)
def test_counts_are_rounded_up_and_no_further(fraction, size, left):
    """In binary 0.07 * 100 is a little above 7."""
    assert (
        np.count_nonzero(prune.prune_array(np.linspace(1, 2, size, dtype=np.float32), fraction))
        == left
    )


def test_equal_weights_are_still_counted():
    assert np.count_nonzero(prune.prune_array(np.full((10, 10), -3, np.float32), 0.25)) == 25


def test_the_first_match_counts():
    fractions = prune.kept_fractions(
        small_params(), [("fire2/expand3x3", 0.1), ("fire2", 0.2), ("fire*/squeeze", 0.3)]
    )
    assert fractions == {
        "fire2/expand1x1/kernel": 0.2,
        "fire2/expand3x3/kernel": 0.1,
        "fire2/squeeze/kernel": 0.2,
        "fire3/squeeze/kernel": 0.3,
    }


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (
            [("fire9", 0.5)],
            "train.prune_density: no layer is called 'fire9'; "
            "there are conv1, conv10, fire2, fire3",
        ),
        ([("*", 0.0)], r"must be in \(0, 1\], not 0.0 for '\*'"),
        ([("*", 1.5)], r"not 1.5 for '\*'"),
        ([("*", 0.5), ("conv1", 0.9)], "earlier patterns match all layers of 'conv1'"),
        ([("conv1", 0.5), ("conv1", 0.9)], "earlier patterns match all layers of 'conv1'"),
        (("conv1", 0.5), "pairs such as .* not 'conv1'"),
    ],
)
def test_what_can_not_be_meant_is_one_line(keep, words):
    with pytest.raises(UserError, match=words):
        prune.prune(small_params(), keep)


def sgd(**settings):
    config = TrainConfig(
        **dict(clip_norm=0.0, warmup=0.0, schedule="constant", prune_density=(("*", 0.5),))
        | settings
    )
    return optimizers.constrained_optimizer(config, optimizers.schedule(config, 10), {})


def trained(optimizer, params, steps=5):
    """The weights after steps under random gradients, and the gradients."""
    rng, state, gradients = np.random.default_rng(1), optimizer.init(params), []
    for _ in range(steps):
        gradients.append(
            jax.tree.map(lambda w: jnp.asarray(rng.standard_normal(w.shape), jnp.float32), params)
        )
        updates, state = optimizer.update(gradients[-1], state, params)
        params = optax.apply_updates(params, updates)
    return params, gradients


def test_zeros_stay_zero_and_the_others_train_as_if_alone():
    """Compares with Caffe's rule in NumPy, with momentum and weight decay; a zero bias trains."""
    rng = np.random.default_rng(2)
    kernel = rng.standard_normal((3, 4)).astype(np.float32) * (rng.random((3, 4)) < 0.5)
    params = {"conv1": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(4)}}
    result, gradients = trained(sgd(learning_rate=0.1, momentum=0.9, weight_decay=0.01), params)
    for name, start in (("kernel", kernel), ("bias", np.zeros(4))):
        w, v = start.astype(np.float64), 0.0
        for gradient in gradients:
            v = 0.9 * v - 0.1 * (np.asarray(gradient["conv1"][name]) + 0.01 * w)
            w = w + v
        expected = np.where(kernel != 0, w, 0) if name == "kernel" else w
        np.testing.assert_allclose(result["conv1"][name], expected, rtol=1e-5, atol=1e-7)
    assert not np.asarray(result["conv1"]["kernel"])[kernel == 0].view(np.uint32).any()


def test_clipping_does_not_see_what_is_pruned():
    """A huge gradient of a pruned weight leaves_by_path the others' steps as they are."""
    params = {"conv1": {"kernel": jnp.asarray([[0.0, 1.0]])}}
    optimizer = sgd(clip_norm=1.0, learning_rate=1.0, weight_decay=0.0)
    updates, _ = optimizer.update(
        {"conv1": {"kernel": jnp.asarray([[1e6, 0.5]])}}, optimizer.init(params), params
    )
    np.testing.assert_allclose(updates["conv1"]["kernel"], [[0.0, -0.5]])


def test_a_kernel_that_starts_at_zero_is_trained():
    params = {
        "conv1": {"kernel": jnp.zeros((2, 3))},
        "conv10": {"kernel": jnp.asarray([[0.0, 1.0]])},
    }
    result, _ = trained(sgd(), params)
    assert (
        np.asarray(result["conv1"]["kernel"]).all()
        and np.asarray(result["conv10"]["kernel"])[0, 0] == 0
    )
