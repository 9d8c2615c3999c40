"""Configs and sweeps -> trials: every study of the project, and what is wrong with a sweep."""

import importlib

import pytest

from configs import base
from squeeze_jax.errors import UserError
from squeeze_jax.sweep import make_trials

POINTS = {"sr_sweep": 5, "pct3x3_sweep": 9, "bypass_sweep": 3, "squeezenet": 1, "squeezenext_sweep": 15, "alexnet": 1, "vgg": 1}


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet"])
@pytest.mark.parametrize("study", POINTS)
def test_every_study_yields_its_trials(study, preset):
    module = importlib.import_module(f"configs.{study}")
    config = module.get_config(preset)
    trials = make_trials(config, module.sweep)
    shortened = study == "squeezenext_sweep" and preset == "digits"
    assert len(trials) == (4 if shortened else POINTS[study]) * config.seeds
    assert (config.study, config.preset) == (study, preset)
    assert len({trial.name for trial in trials}) == len(trials)
    for trial in trials:
        for key, value in trial.overrides.items():
            node = trial.config
            for part in key.split("."):
                node = node[part]
            assert node == value


def test_the_papers_points():
    sr, pct = (importlib.import_module(f"configs.{name}") for name in ("sr_sweep", "pct3x3_sweep"))
    assert {trial.config.model.squeeze_ratio for trial in make_trials(sr.get_config(), sr.sweep)} == {0.125, 0.25, 0.5, 0.75, 1.0}
    trials = make_trials(pct.get_config(), pct.sweep)
    assert {trial.config.model.squeeze_ratio for trial in trials} == {0.5}
    assert {trial.config.model.pct3x3 for trial in trials} == {0.01, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.99}


def test_the_papers_protocol():
    """The released solver and data layer."""
    config = base.get_config("imagenet", "x")
    assert (config.data.name, config.data.image_size, config.data.channel_order, config.data.mean) == (
        "imagenet2012",
        227,
        "bgr",
        (104, 117, 123),
    )
    recipe = config.train
    assert (recipe.batch_size, recipe.learning_rate, recipe.schedule, recipe.steps) == (512, 0.04, "linear", 170_000)
    assert (recipe.momentum, recipe.weight_decay, recipe.warmup, recipe.clip_norm) == (0.9, 2e-4, 0, 0)
    assert not config.data.mirror and config.model.dropout is None  # the model's own 0.5


def test_seeds_is_a_count():
    module = importlib.import_module("configs.sr_sweep")
    config = module.get_config()
    config.seeds = 5
    assert len(make_trials(config, module.sweep)) == 25


def test_names_tell_keys_apart():
    config = base.get_config("digits", "x")
    trials = make_trials(config, lambda config: [{"model.name": "squeezenet_v1_1", "data.name": "digits"}])
    assert trials[0].name == "model.name=squeezenet_v1_1,data.name=digits"


@pytest.mark.parametrize(
    ("points", "set_by_user", "words"),
    [
        ([{"model.sqeeze_ratio": 0.5}], (), "model.sqeeze_ratio, which is no key"),
        ([{"modl.squeeze_ratio": 0.5}], (), "modl.squeeze_ratio, which is no key"),
        ([{"seed": 0}, {"seed": 0}], (), "seed=0 more than once"),
        ([{"seed": 0}], ("seed",), "seed is swept"),
        ([{"model.bypass": 3.5}], (), "model.bypass=3.5"),
        ([], (), "no trials"),
    ],
)
def test_a_bad_sweep_is_one_clear_line(points, set_by_user, words):
    with pytest.raises(UserError, match=words):
        make_trials(base.get_config("digits", "x"), lambda config: points, set_by_user)


def test_an_unknown_preset_is_named():
    with pytest.raises(UserError, match="'mnist'; there are digits, cifar10, imagenet, folder"):
        base.get_config("mnist", "x")
