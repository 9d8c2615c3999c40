"""Optimizers against PyTorch's and the papers' rules in NumPy, schedules against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from squeeze_jax.compress import cluster, prune
from squeeze_jax.configs import base
from squeeze_jax.errors import UserError
from squeeze_jax.network import leaves_by_path, replace_leaves
from squeeze_jax.train import OPTIMIZERS, TrainConfig, TrialConfig, optimizers


def settings(**changes):
    return TrainConfig(**changes)


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_sgd_is_caffes(clip_norm):
    config = settings(
        momentum=0.9,
        weight_decay=2e-4,
        clip_norm=clip_norm,
        schedule="linear",
        warmup=0.0,
        learning_rate=0.04,
    )
    rng = np.random.default_rng(0)
    w = rng.standard_normal(5)
    v, params = np.zeros(5), jnp.asarray(w, jnp.float32)
    optimizer = optax.chain(*optimizers.sgd(config, optimizers.schedule(config, 10)))
    state = optimizer.init(params)
    for step in range(10):
        gradient = rng.standard_normal(5)
        updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        if clip_norm:
            gradient *= min(1, clip_norm / np.linalg.norm(gradient))
        v = 0.9 * v + 0.04 * (1 - step / 10) * (gradient + 2e-4 * w)
        w = w - v
    np.testing.assert_allclose(params, w, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("constant", lambda t: 1.0),
        ("linear", lambda t: 1 - t),
        ("poly", lambda t: (1 - t) ** 2),
        ("cosine", lambda t: (1 + np.cos(np.pi * t)) / 2),
    ],
)
def test_schedules(name, formula):
    rate = optimizers.schedule(
        settings(schedule=name, power=2.0, warmup=0.2, warmup_from=0.1, learning_rate=0.5), 100
    )
    for step in range(20):
        assert rate(step) == pytest.approx(0.1 + 0.4 * step / 20, rel=1e-5)
    for step in range(20, 100, 7):
        assert rate(step) == pytest.approx(0.5 * formula((step - 20) / 80), rel=1e-5)


def test_the_papers_schedule_has_no_warmup():
    rate = optimizers.schedule(TrialConfig.parse(base.get_config("imagenet", "x")).train, 170_000)
    assert rate(0) == pytest.approx(0.04)
    assert rate(85_000) == pytest.approx(0.02, rel=1e-4)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="constant, linear, poly, cosine.*'step'"):
        optimizers.schedule(settings(schedule="step"), 10)
    with pytest.raises(UserError, match="sgd, nesterov, adamw, lamb, lion, muon; got 'adam'"):
        optimizers.check_optimizer(settings(optimizer="adam"))
    with pytest.raises(UserError, match="train.beta2 is for adamw.*nesterov has none"):
        optimizers.check_optimizer(settings(optimizer="nesterov", beta2=0.9))


# A network's weights: convolutions of odd sizes, so that vector loops leave remainders, a layer
# with BatchNorm, and one that is frozen in some tests.
SHAPES = {
    "conv1/kernel": (3, 3, 3, 7),
    "conv1/bn/scale": (7,),
    "conv1/bn/bias": (7,),
    "fire2/squeeze/kernel": (3, 5, 7, 19),
    "fire2/squeeze/bias": (19,),
    "frozen/kernel": (1, 1, 19, 5),
    "frozen/bias": (5,),
    "fc/kernel": (19, 11),
    "fc/bias": (11,),
}


def random_tree(seed):
    """Weights or gradients, float32 from a normal distribution."""
    rng, tree = np.random.default_rng(seed), {}
    for path, shape in SHAPES.items():
        *layers, name = path.split("/")
        node = tree
        for layer in layers:
            node = node.setdefault(layer, {})
        node[name] = rng.standard_normal(shape).astype(np.float32)
    return tree


def trajectory(config, params, rates=(0.01,) * 8):
    """Returns the weights after steps with random gradients, as one compiled step makes them."""
    optimizer = optimizers.make_optimizer(config, params)

    @jax.jit
    def step(params, state, gradients, rate):
        state = optimizers.with_learning_rate(state, rate)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.device_put(params)
    state, weights = jax.jit(optimizer.init)(params), []
    for i, rate in enumerate(rates):
        params, state = step(params, state, random_tree(100 + i), np.float32(rate))
        weights.append(leaves_by_path(jax.device_get(params)))
    assert step._cache_size() == 1  # for all rates
    return weights


RATES = (0.01, 0.03, 0.02, 0.005, 0.001)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        (
            "nesterov",
            lambda optim, weights: optim.SGD(weights, 1.0, 0.8, nesterov=True, weight_decay=0.05),
        ),
        (
            "adamw",
            lambda optim, weights: optim.AdamW(weights, 1.0, (0.8, 0.95), weight_decay=0.05),
        ),
    ],
)
def test_optimizers_are_pytorchs(name, reference):
    torch = pytest.importorskip("torch")
    beta2 = 0.95 if name == "adamw" else 0.0
    config = settings(optimizer=name, momentum=0.8, beta2=beta2, weight_decay=0.05, clip_norm=0.0)
    found = trajectory(config, random_tree(0), RATES)
    theirs = [torch.tensor(leaf) for leaf in leaves_by_path(random_tree(0)).values()]
    optimizer = reference(torch.optim, theirs)
    for i, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        for weight, gradient in zip(
            theirs, leaves_by_path(random_tree(100 + i)).values(), strict=True
        ):
            weight.grad = torch.tensor(gradient)
        optimizer.step()
        for ours, weight in zip(found[i].values(), theirs, strict=True):
            np.testing.assert_allclose(ours, weight, rtol=1e-5, atol=1e-6)


def lamb_step(w, g, m, v, t, rate):
    """Algorithm 2 of arXiv 1904.00962 with phi(x) = x, and eps of its authors' code."""
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + 0.05 * w
    return w - rate * np.linalg.norm(w) / np.linalg.norm(u) * u, m, v


def lion_step(w, g, m, v, t, rate):
    """Algorithm 2 of arXiv 2302.06675."""
    u = np.sign(0.9 * m + 0.1 * g) + 0.05 * w
    return w - rate * u, 0.99 * m + 0.01 * g, v


@pytest.mark.parametrize(("name", "rule"), [("lamb", lamb_step), ("lion", lion_step)])
def test_optimizers_are_their_papers(name, rule):
    """With the usual beta2 of each."""
    config = settings(optimizer=name, weight_decay=0.05, clip_norm=0.0)
    found = trajectory(config, random_tree(0), RATES)
    for path, weight in leaves_by_path(random_tree(0)).items():
        w, m, v = weight.astype(np.float64), 0.0, 0.0
        for i, rate in enumerate(RATES):
            g = leaves_by_path(random_tree(100 + i))[path].astype(np.float64)
            w, m, v = rule(w, g, m, v, i + 1, rate)
            np.testing.assert_allclose(found[i][path], w, rtol=1e-4, atol=1e-5)


def test_muon_orthogonalizes_kernels_and_hands_the_rest_to_nadamw():
    """U V^T of the first gradient, whose singular values Newton-Schulz brings near 1 only."""
    config = settings(optimizer="muon", momentum=0.95, weight_decay=0.05, clip_norm=0.0)
    params, gradients = leaves_by_path(random_tree(0)), leaves_by_path(random_tree(100))
    found = trajectory(config, random_tree(0), (0.01,))[0]
    others = optax.nadamw(0.01, weight_decay=0.05)
    for path, weight in params.items():
        if path.endswith("kernel"):
            matrix = gradients[path].reshape(-1, weight.shape[-1])
            u, _, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
            update = (weight - found[path]) / 0.01 - 0.05 * weight
            update = update.reshape(matrix.shape) / (0.2 * np.sqrt(max(matrix.shape)))
            inner = u.T @ update @ v.T
            assert np.diag(inner).min() > 0.6 and np.diag(inner).max() < 1.3
            np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=2e-3)
        else:
            update, _ = others.update(gradients[path], others.init(weight), weight)
            np.testing.assert_allclose(found[path], weight + update, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_mask_keeps_decay_from_all_but_kernels(name):
    def last(**changes):
        return trajectory(settings(optimizer=name, **changes), random_tree(0))[-1]

    everywhere, nowhere = last(weight_decay=0.5), last(weight_decay=0.0)
    masked = last(weight_decay=0.5, decay_norm_and_bias=False)
    for path, weight in masked.items():
        equal = everywhere if path.endswith("kernel") else nowhere
        np.testing.assert_allclose(weight, equal[path], rtol=1e-5, atol=1e-7)
        assert not np.allclose(everywhere[path], nowhere[path], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_constraints_hold_under_each_optimizer(name):
    """Pruned, pruned and shared, and on a grid; each with a frozen layer."""
    options = dict(optimizer=name, freeze=("frozen",), weight_decay=0.05, clip_norm=0.0)
    start = prune.prune(random_tree(0), (("*", 0.5),))
    shared = cluster.cluster_weights(start, 3)
    grid = replace_leaves(
        start, {k: np.round(w * 4) / np.float32(4) for k, w in leaves_by_path(start).items()}
    )
    densities = (("*", 1.0),)
    for params, changes in [
        (start, dict(prune_density=densities)),
        (shared, dict(prune_density=densities, codebook_bits=3)),
        (shared, dict(codebook_bits=3)),
        (grid, dict(qat=True)),
        (grid, dict(qat=True, prune_density=densities)),
    ]:
        end = trajectory(settings(**options, **changes), params, (0.1,) * 6)[-1]
        for path, before in leaves_by_path(params).items():
            if path.startswith("frozen"):
                np.testing.assert_array_equal(end[path], before)
                continue
            assert np.mean(end[path] != before) > 0.1
            if path.endswith("kernel"):
                assert not end[path][before == 0].view(np.uint32).any()
            if path.endswith("kernel") and "codebook_bits" in changes:
                for value in np.unique(before):
                    assert len(np.unique(end[path][before == value].view(np.uint32))) == 1
            if path.endswith("kernel") and "qat" in changes:
                np.testing.assert_array_equal(end[path] * 4, np.round(end[path] * 4))
