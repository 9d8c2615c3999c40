"""A config's sections as dataclasses: what is refused, what is converted, and what trials share."""

import pytest
from ml_collections import ConfigDict

from squeeze_jax.config_parsing import parse_section
from squeeze_jax.configs import base
from squeeze_jax.data import DataConfig
from squeeze_jax.errors import UserError
from squeeze_jax.train import TrainConfig, TrialConfig


def test_the_dataclasses_are_the_sections_of_a_config():
    config = base.defaults()
    assert parse_section(TrainConfig, config.train, "train") == TrainConfig()
    assert parse_section(DataConfig, config.data, "data") == DataConfig()
    trial = TrialConfig.parse(config)
    assert trial.seed == 0 and trial.model.name == config.model.name
    assert trial.model.options == {}  # all others are the model's own defaults


def test_ints_are_floats_and_lists_are_tuples():
    """As they come from a command line and from JSON."""
    section = {"epochs": 3, "freeze": ["conv1"], "prune_density": [["fire*", 0.5]]}
    config = parse_section(TrainConfig, section, "train")
    assert isinstance(config.epochs, float) and config.freeze == ("conv1",)
    assert config.prune_density == (("fire*", 0.5),)
    hash(config)
    assert parse_section(DataConfig, {"mean": [1, 2, 3]}, "data").mean == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"batch_size": "x"}, "train.batch_size is an int; got 'x'"),
        ({"batch_size": 2.5}, "train.batch_size is an int; got 2.5"),
        ({"steps": True}, "train.steps is an int; got True"),
        ({"epochs": None}, "train.epochs is a float; got None"),
        ({"qat": 1}, "train.qat is a bool; got 1"),
        ({"dtype": 32}, "train.dtype is a str; got 32"),
        ({"freeze": "conv1"}, "train.freeze is a tuple of strs; got 'conv1'"),
        ({"freeze": (1,)}, "each item of train.freeze is a str; got 1"),
        ({"batchsize": 1}, "the config has no key train.batchsize; did you mean train.batch_size?"),
        ({"zzz": 1}, "the config has no key train.zzz"),
    ],
)
def test_a_mistake_is_one_line(section, words):
    with pytest.raises(UserError) as caught:
        parse_section(TrainConfig, ConfigDict(section), "train")
    assert str(caught.value) == words


def test_what_trials_share():
    config = base.defaults()
    shared = TrialConfig.parse(config).compiled_part()
    config.seed = 3
    config.train.update(learning_rate=0.3, schedule="cosine", warmup=0.0, init_from="somewhere")
    assert TrialConfig.parse(config).compiled_part() == shared
    config.train.momentum = 0.8
    assert TrialConfig.parse(config).compiled_part() != shared
