"""A study small enough to train inside a test."""

import pytest

from squeeze_jax.configs import base
from squeeze_jax.data import open_data
from squeeze_jax.train import TrialConfig
from tests.train.narrow import narrow_config


@pytest.fixture
def config():
    """A narrow SqueezeNet on the digits, for a few steps."""
    return narrow_config()


@pytest.fixture(scope="session")
def digits():
    """The digits in memory."""
    return open_data(TrialConfig.parse(base.get_config("digits", "test")).data)
