"""Configs and sweeps -> trials: every study of the project, and what is wrong with a sweep."""

import importlib
from types import SimpleNamespace

import pytest

from squeeze_jax.configs import base
from squeeze_jax.errors import UserError
from squeeze_jax.study import Plan, make_trials

POINTS = {
    "sr_sweep": 5,
    "pct3x3_sweep": 9,
    "bypass_sweep": 3,
    "squeezenet": 1,
    "distill": 3,
    "ablation": 9,
    "squeezenext_sweep": 15,
    "alexnet": 1,
    "vgg": 1,
}

PRESETS = ("digits", "cifar10", "cifar10_modern", "cifar100", "imagenet", "imagenet_modern")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("study", POINTS)
def test_every_study_yields_its_trials(study, preset):
    module = importlib.import_module(f"configs.{study}")
    config = module.get_config(preset)
    trials = make_trials(config, module.sweep)
    points = POINTS[study]
    if study == "squeezenext_sweep" and preset == "digits":
        points = 4
    if study == "ablation" and preset in ("cifar10", "cifar10_modern"):
        points -= 1  # the teacher is trained already
    assert len(trials) == points * config.seeds
    assert (config.study, config.preset) == (study, preset)
    assert len({trial.name for trial in trials}) == len(trials)
    if config.report.paper:  # otherwise its curve would not be drawn
        assert config.report.paper.metric == config.report.metric
    for trial in trials:
        for key, value in trial.overrides.items():
            node = trial.config
            for part in key.split("."):
                node = node[part]
            assert node == value


def test_the_papers_points():
    sr, pct = (importlib.import_module(f"configs.{name}") for name in ("sr_sweep", "pct3x3_sweep"))
    assert {
        trial.config.model.squeeze_ratio for trial in make_trials(sr.get_config(), sr.sweep)
    } == {0.125, 0.25, 0.5, 0.75, 1.0}
    trials = make_trials(pct.get_config(), pct.sweep)
    assert {trial.config.model.squeeze_ratio for trial in trials} == {0.5}
    assert {trial.config.model.pct3x3 for trial in trials} == {
        0.01,
        0.125,
        0.25,
        0.375,
        0.5,
        0.625,
        0.75,
        0.875,
        0.99,
    }


def test_the_papers_protocol():
    """The released solver and data layer."""
    config = base.get_config("imagenet", "x")
    assert (
        config.data.name,
        config.data.image_size,
        config.data.channel_order,
        config.data.mean,
    ) == (
        "imagenet2012",
        227,
        "bgr",
        (104, 117, 123),
    )
    recipe = config.train
    assert (recipe.batch_size, recipe.learning_rate, recipe.schedule, recipe.steps) == (
        512,
        0.04,
        "linear",
        170_000,
    )
    assert (recipe.momentum, recipe.weight_decay, recipe.warmup, recipe.clip_norm) == (
        0.9,
        2e-4,
        0,
        0,
    )
    assert not config.data.mirror and config.model.dropout is None  # the model's own 0.5


def test_seeds_is_a_count():
    module = importlib.import_module("configs.sr_sweep")
    config = module.get_config()
    config.seeds = 5
    assert len(make_trials(config, module.sweep)) == 25


def test_names_tell_keys_apart():
    config = base.get_config("digits", "x")
    trials = make_trials(
        config, lambda config: [{"model.name": "squeezenet_v1_1", "data.name": "digits"}]
    )
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


@pytest.mark.parametrize(
    ("points", "set_by_user"),
    [([{"seed": 0}], ["train.epochs"]), ([{"train.epochs": 3.0}, {"train.epochs": 9.0}], [])],
)
def test_epochs_that_a_count_of_steps_overrules_are_refused(points, set_by_user):
    config = base.get_config("imagenet", "x")
    config.train.epochs = 3.0
    with pytest.raises(UserError, match="^train.epochs=3 has no effect while train.steps is 170,"):
        make_trials(config, lambda config: points, set_by_user)
    config.train.steps = 0
    assert len(make_trials(config, lambda config: points, set_by_user)) == len(points)


@pytest.mark.parametrize(
    "yielded", [None, {"seed": 0}, ["seed"], [{}], [{0: 1}], [[("seed", 0)]], 3]
)
def test_a_sweep_yields_dicts(yielded):
    with pytest.raises(UserError, match=r"sweep\(\) yields a dict of dotted keys .*; got "):
        make_trials(base.get_config("digits", "squeezenet"), lambda _: yielded)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 0}, "seeds is 1 to 100,000; got 0"),
        ({"seeds": -1}, "seeds is 1 to"),
        ({"seeds": 10**9}, "seeds is 1 to"),
        ({"budget.max_params": 0}, "budget.max_params is above 0; got 0"),
        ({"budget.max_macs": -5}, "budget.max_macs is above 0"),
    ],
)
def test_numbers_of_the_study_have_ranges(changes, words):
    config = base.get_config("digits", "x")
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        make_trials(config, lambda config: [{"seed": seed} for seed in range(config.seeds)])


def plan(tmp_path, *points, **parts):
    module = SimpleNamespace(sweep=lambda config: points, **parts)
    return Plan.of(module, base.get_config("digits", "x"), (), tmp_path, command="test")


def test_swept_values_are_checked_before_any_trial(tmp_path):
    for key, value, words in (
        ("train.learning_rate", -1.0, "train.learning_rate is at least 0; got -1.0"),
        ("seed", -3, "seed is at least 0"),
        ("data.std", (0.0, 1.0, 1.0), "each item of data.std"),
        ("compress.max_loss", float("inf"), "compress.max_loss is above 0; got inf"),
    ):
        with pytest.raises(UserError, match=words):
            plan(tmp_path, {"train.dtype": "float32"}, {key: value})
    assert not list(tmp_path.iterdir())


LAYERS = tuple((f"fire{i}/{part}", 0.4) for i in range(2, 10) for part in ("squeeze", "expand1x1"))


def test_the_name_of_a_trial_is_short_whatever_is_swept(tmp_path):
    points = [
        {"train.prune_density": (*LAYERS, ("conv10", density)), "seed": seed}
        for density in (0.4, 0.7)
        for seed in (0, 1)
    ]
    trials = plan(tmp_path, *points).trials
    names = [trial.name for trial in trials]
    assert len(set(names)) == 4 and all(len(name) <= 100 for name in names)
    assert all(name.startswith("prune_density=('fire2_squeeze', 0.4)-") for name in names)
    assert [name[-7:] for name in names] == [",seed=0", ",seed=1"] * 2
    assert [trial.overrides for trial in trials] == points
    assert [trial.name for trial in plan(tmp_path, *points).trials] == names  # of every launch
    for trial in trials:
        (tmp_path / "trials" / trial.name).mkdir(parents=True)


def test_names_of_100_bytes_and_those_of_older_workdirs_stay(tmp_path):
    """Up to 255 bytes they were folders."""
    fits, longer = ("x" * (100 - len("init_from=")), "x" * (101 - len("init_from=")))
    points = [{"train.init_from": value} for value in (fits, longer)]
    [kept, cut] = plan(tmp_path, *points).trials
    assert kept.name == f"init_from={fits}" and cut.name != f"init_from={longer}"
    (tmp_path / "trials" / f"init_from={longer}").mkdir(parents=True)
    assert plan(tmp_path, *points).trials[1].name == f"init_from={longer}"


def test_letters_of_several_bytes_are_not_cut_apart(tmp_path):
    [trial] = plan(tmp_path, {"train.init_from": "é" * 80}).trials
    assert len(trial.name.encode()) <= 100 and trial.name.startswith("init_from=éé")


def test_a_stage_finds_the_long_name_that_it_starts_from(tmp_path):
    whole = "prune_density=" + "-".join(str(pair).replace("/", "_") for pair in LAYERS)

    def derive(config):
        if config.train.schedule == "cosine":
            config.train.init_from = f"trial:{whole},schedule=constant"

    points = [
        {"train.prune_density": LAYERS, "train.schedule": name} for name in ("constant", "cosine")
    ]
    dense, later = plan(tmp_path, *points, derive=derive).trials
    assert later.parents == {"train.init_from": dense.name}
    assert later.config.train.init_from == f"trial:{dense.name}"


def test_a_sweep_under_an_older_key_is_read_under_todays(tmp_path, capsys):
    [trial] = plan(tmp_path, {"train.keep": (("*", 0.5),), "seed": 0}).trials
    assert trial.name == "keep=('*', 0.5),seed=0"  # as older versions called it
    assert trial.overrides == {"train.prune_density": (("*", 0.5),), "seed": 0}
    assert "train.keep is called train.prune_density now" in capsys.readouterr().err


def test_an_unknown_preset_is_named():
    with pytest.raises(UserError, match="'mnist'; there are digits, .*, imagenet_modern, folder"):
        base.get_config("mnist", "x")


def two_stages(config):
    for stage in ("dense", "pruned"):
        yield {"train.schedule": "constant" if stage == "dense" else "cosine", "seed": 0}


def staged(derive, *set_by_user, **changes):
    """The trials of two_stages, of a config with these changes."""
    config = base.get_config("digits", "x")
    config.train.update(changes)
    return make_trials(config, two_stages, set_by_user, derive)


def test_derive_completes_each_trial_and_names_stay():
    def derive(config):
        if config.train.schedule == "cosine":
            config.train.update(
                learning_rate=0.1 * config.train.learning_rate,
                init_from="trial:schedule=constant,seed=0",
            )

    dense, pruned = staged(derive)
    assert (dense.name, pruned.name) == ("schedule=constant,seed=0", "schedule=cosine,seed=0")
    assert pruned.overrides == {"train.schedule": "cosine", "seed": 0}
    assert (dense.config.train.learning_rate, pruned.config.train.learning_rate) == (
        0.05,
        pytest.approx(0.005),
    )
    assert (dense.parents, pruned.parents) == ({}, {"train.init_from": dense.name})


@pytest.mark.parametrize("epochs", [5.0, 10.0])  # 10 is what the config has anyway
def test_derive_may_compute_from_what_the_user_set(epochs):
    def scale(config):
        config.train.epochs *= 0.5

    assert [
        trial.config.train.epochs for trial in staged(scale, "train.epochs", epochs=epochs)
    ] == [epochs / 2] * 2


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        (
            "train",
            {"epochs": 3.0},
            "derive.. makes train.epochs 3.0 for schedule=constant,seed=0, "
            "but it is set on the command line: 10.0",
        ),
        (
            "train",
            {"dtype": "bfloat16"},
            "makes train.dtype 'bfloat16' .* set on the command line: 'float32'",
        ),
        ("data", {"mirror": True}, "makes data.mirror True .* set on the command line: False"),
        (
            "train",
            {"schedule": "poly"},
            "makes train.schedule 'poly' .* but it is swept: 'constant'",
        ),
        ("train", {"prune_to": 0.5}, "derive.. fails for schedule=constant,seed=0: .*prune_to"),
        ("train", {"epochs": "many"}, "derive.. fails for schedule=constant,seed=0: .*epochs"),
    ],
)
def test_what_derive_may_not_do(section, changes, words):
    def derive(config):
        for key, value in changes.items():
            config[section][key] = value

    with pytest.raises(UserError, match=words):
        staged(derive, "train.epochs", "train.dtype", "data.mirror")


def test_the_users_checkpoint_is_where_the_first_stage_starts():
    def derive(config):
        if config.train.schedule == "cosine":
            config.train.init_from = "trial:schedule=constant,seed=0"

    starts = [
        trial.config.train.init_from
        for trial in staged(derive, "train.init_from", init_from="runs/released")
    ]
    assert starts == ["runs/released", "trial:schedule=constant,seed=0"]


def test_derive_leaves_what_it_gives_back_as_it_was():
    assert [
        trial.config.train.dtype
        for trial in staged(lambda config: None, "train.dtype", dtype="bfloat16")
    ] == ["bfloat16"] * 2


@pytest.mark.parametrize(
    ("parent", "words"),
    [
        (
            "schedule=linear,seed=0",
            "schedule=constant,seed=0 starts from trial:schedule=linear,seed=0: "
            "no trial of this study",
        ),
        (
            "schedule=constant,seed=0",
            "schedule=constant,seed=0 starts from trial:schedule=constant,seed=0: itself",
        ),
        (
            "schedule=cosine,seed=0",
            "schedule=constant,seed=0 starts from trial:schedule=cosine,seed=0: which comes later",
        ),
    ],
)
def test_a_trial_starts_from_an_earlier_one(parent, words):
    with pytest.raises(UserError, match=words):
        staged(None, init_from=f"trial:{parent}")
