"""A study small enough to train inside a test."""

import pytest

from squeeze_jax.configs import base
from squeeze_jax.data import open_data
from squeeze_jax.train import TrialConfig


@pytest.fixture
def config():
    """A narrow SqueezeNet on the digits, for a few steps."""
    config = base.get_config("digits", "test")
    config.model.update(
        base_e=8,
        incr_e=8,
        conv1_filters=8,
        squeeze_ratio=0.5,
        num_fire=2,
        pool_after=("conv1", "fire2"),
    )
    config.train.update(steps=6, log_every=3, eval_every=0, batch_size=32, eval_batch_size=180)
    return config


@pytest.fixture(scope="session")
def digits():
    """The digits in memory."""
    return open_data(TrialConfig.parse(base.get_config("digits", "test")).data)
