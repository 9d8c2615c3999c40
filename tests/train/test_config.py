"""A config's sections as dataclasses: what is refused, what is converted, and what trials share."""

import dataclasses
import math
import re
import typing

import pytest
from ml_collections import ConfigDict

from squeeze_jax.compress.config import CompressConfig
from squeeze_jax.config_parsing import parse_section
from squeeze_jax.configs import base
from squeeze_jax.data import DataConfig, open_data
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


BAD = {
    "train.learning_rate": (-1.0, math.nan, math.inf, 10**400),
    "train.momentum": (1.5, 1.0, -0.1, math.nan),
    "train.beta2": (1.0, -0.1, math.nan),
    "train.ema_decay": (1.0, -0.1, math.nan),
    "train.bn_group_size": (-1,),
    "train.weight_decay": (-1.0, math.inf),
    "train.label_smoothing": (1.5, 1.0, -0.1),
    "train.warmup": (1.5, 1.0, -0.1),
    "train.warmup_from": (-0.1,),
    "train.power": (-1.0,),
    "train.clip_norm": (-1.0, math.nan),
    "train.epochs": (-1.0, math.inf, math.nan, 1e308),
    "train.steps": (-1,),
    "train.min_steps": (-1,),
    "train.batch_size": (0, -32, 2**21),
    "train.eval_batch_size": (0, 10**12),
    "train.mixup": (-0.1, math.nan, 1000.0),
    "train.cutmix": (-0.1, math.inf),
    "train.grad_accum_steps": (-1,),
    "train.eval_every": (-1,),
    "train.log_every": (0,),
    "train.checkpoint_every": (-1,),
    "train.codebook_bits": (9, -1),
    "train.teacher_temperature": (0.0, -1.0, math.inf),
    "train.teacher_weight": (-0.1, 1.1, math.nan),
    "train.teacher_views": (-1,),
    "data.holdout": (0.0, 1.0, -0.2, 20.0, math.nan),
    "data.resize": (0, -32, 10**6),
    "data.image_size": (0, -32),
    "data.pad": (-1, 10**9),
    "data.crop_area": ((0.0, 1.0), (0.1, 1.1), (math.nan, 1.0)),
    "data.crop_ratio": ((0.0, 1.0), (1.0, 1000.0)),
    "data.jitter_brightness": (-0.1, 1.5),
    "data.jitter_contrast": (-0.1, 1.5),
    "data.jitter_saturation": (-0.1, math.nan),
    "data.erase_probability": (-0.1, 1.5),
    "data.erase_area": ((0.0, 1.0), (0.1, 1.1)),
    "data.erase_ratio": ((0.0, 1.0), (-1.0, 1.0)),
    "data.workers": (-1, 10**6),
    "data.mean": ((-1.0, 0.0, 0.0), (31537.0, 0.0, 0.0), (math.nan, 0.0, 0.0)),
    "data.std": ((0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (14891.0, 1.0, 1.0), (math.inf, 1.0, 1.0)),
    "compress.max_loss": (0.0, -1.0, math.inf, math.nan),
    "seed": (-1, 2**32),
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_a_number_out_of_range_is_refused_by_its_keys_name(key, value):
    config = base.defaults().to_dict()
    *section, leaf = key.split(".")
    (config[section[0]] if section else config)[leaf] = value
    with pytest.raises(UserError, match=rf"\b{re.escape(key)} is .*; got ") as caught:
        TrialConfig.parse(config)
        parse_section(CompressConfig, config["compress"], "compress")
    assert "\n" not in str(caught.value)


def test_every_number_of_a_section_has_a_range():
    for name, cls in {"train": TrainConfig, "data": DataConfig, "compress": CompressConfig}.items():
        for key, value in typing.get_type_hints(cls).items():
            if value in (int, float) or "float" in str(value) and "str" not in str(value):
                assert f"{name}.{key}" in BAD


def test_the_ends_of_ranges_are_taken():
    section = dict(
        learning_rate=0, momentum=0, warmup=0.99, label_smoothing=0, clip_norm=0, steps=0
    )
    assert parse_section(TrainConfig, section, "train").learning_rate == 0.0
    caffe = dict(mean=(104, 117, 123), std=(1, 1, 1), pad=0, workers=0, holdout=0.5)
    assert parse_section(DataConfig, caffe, "data").std == (1.0, 1.0, 1.0)
    assert parse_section(CompressConfig, {"max_loss": None}, "compress").max_loss is None


@pytest.mark.parametrize(
    ("key", "values", "scaled"),
    [
        ("mean", (0.485, 0.456, 0.406), r"\(123.67, 116.28, 103.53\)"),
        ("std", (0.229, 0.224, 0.225), r"\(58.395, 57.12, 57.375\)"),
        ("mean", (0.5, 0.5, 0.5), r"\(127.5, 127.5, 127.5\)"),
    ],
)
def test_a_mean_or_deviation_of_pixels_in_0_to_1_is_refused(key, values, scaled):
    config = dataclasses.replace(DataConfig(), **{key: values})
    with pytest.raises(UserError, match=f"data.{key} is of pixels in 0..255.*give {scaled}"):
        open_data(config)


def test_what_trials_share():
    config = base.defaults()
    shared = TrialConfig.parse(config).compiled_part()
    config.seed = 3
    config.train.update(learning_rate=0.3, schedule="cosine", warmup=0.0, init_from="somewhere")
    config.train.teacher = "somewhere"  # its structure is compared beside this
    assert TrialConfig.parse(config).compiled_part() == shared
    config.train.momentum = 0.8
    assert TrialConfig.parse(config).compiled_part() != shared
