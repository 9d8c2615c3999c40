"""The optimizer against Caffe's rule written in NumPy, the schedules against their formulas."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from squeeze_jax.configs import base
from squeeze_jax.errors import UserError
from squeeze_jax.train import TrainConfig, TrialConfig, optimizers


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
