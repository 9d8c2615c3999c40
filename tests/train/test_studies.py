"""Studies whose trials differ in more than swept keys: stages and nets, in every preset."""

import jax
import pytest

from squeeze_jax.compress.prune import kept_fractions
from squeeze_jax.configs import (
    ablation,
    base,
    deep_compression,
    distill,
    dsd,
    equal_params,
    finetune,
)
from squeeze_jax.network import weight_shapes
from squeeze_jax.study import make_trials
from squeeze_jax.study.schema import flatten

PRESETS = ("digits", "cifar10", "imagenet", "folder")


def trials_of(study, preset, **settings):
    config = study.get_config(preset)
    config.update(settings)
    return {
        trial.name: trial.config for trial in make_trials(config, study.sweep, (), study.derive)
    }


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("study", "starts"),
    [
        (deep_compression, {"pruned": "dense", "shared8": "pruned", "shared6": "pruned"}),
        (dsd, {"sparse": "dense", "dsd": "sparse", "unmasked": "dense", "longer": "unmasked"}),
    ],
)
def test_stages_start_from_one_another(study, starts, preset):
    trials = trials_of(study, preset, seeds=2)
    assert len(trials) == 2 * (len(starts) + 1)
    for stage, start in starts.items():
        for seed in range(2):
            assert (
                trials[f"stage={stage},seed={seed}"].train.init_from
                == f"trial:stage={start},seed={seed}"
            )
    dense = trials["stage=dense,seed=1"]
    assert dense.train.to_dict() == base.get_config(preset, "x").train.to_dict()
    params, _ = weight_shapes({"model": dense.model, "num_classes": 10})
    for config in trials.values():
        kept_fractions(params, config.train.prune_density)


def test_retraining_is_shorter_and_slower():
    trials = trials_of(deep_compression, "imagenet")
    dense, pruned, shared = (
        trials[f"stage={stage},seed=0"].train for stage in ("dense", "pruned", "shared6")
    )
    assert dense.learning_rate > pruned.learning_rate > shared.learning_rate > 0
    assert dense.steps > pruned.steps > shared.steps > 0
    assert (dense.codebook_bits, pruned.codebook_bits, shared.codebook_bits) == (0, 0, 6)
    assert (dense.prune_density, pruned.prune_density, shared.prune_density) == (
        (),
        deep_compression.TABLE_1,
        (),
    )


def test_a_stage_of_a_few_steps_has_one_at_least():
    config = deep_compression.get_config("imagenet")
    config.train.steps = 1
    trials = make_trials(config, deep_compression.sweep, ["train.steps"], deep_compression.derive)
    assert {trial.config.train.steps for trial in trials} == {1}


@pytest.mark.parametrize("preset", [*PRESETS, "cifar10_modern", "imagenet_modern"])
def test_fine_tuning_counts_epochs_and_warms_up(preset):
    recipe = finetune.get_config(preset).train
    assert recipe.steps == 0 and recipe.epochs == 10 and recipe.warmup > 0


def test_dsds_control_differs_in_the_mask_alone():
    trials = trials_of(dsd, "cifar10")
    for masked, control in (("sparse", "unmasked"), ("dsd", "longer")):
        masked, control = (
            trials[f"stage={stage},seed=2"].train.copy_and_resolve_references()
            for stage in (masked, control)
        )
        masked.init_from = control.init_from
        masked.prune_density = ()
        assert masked.to_dict() == control.to_dict()


@pytest.mark.parametrize("preset", PRESETS)
def test_each_seed_is_taught_by_its_own_wider_net(preset):
    trials = trials_of(distill, preset, seeds=2)
    assert len(trials) == 6
    for seed in range(2):
        teacher, alone, taught = (
            trials[f"stage={stage},seed={seed}"].copy_and_resolve_references()
            for stage in distill.STAGES
        )
        assert taught.train.teacher == f"trial:stage=teacher,seed={seed}"
        assert taught.model.to_dict() == alone.model.to_dict()
        taught.train.teacher = ""
        assert taught.train.to_dict() == alone.train.to_dict() == teacher.train.to_dict()
        wide, net = (
            sum(
                leaf.size
                for leaf in jax.tree.leaves(weight_shapes({"model": model, "num_classes": 10})[0])
            )
            for model in (teacher.model, alone.model)
        )
        assert wide > 2 * net
        if preset == "cifar10":
            assert (wide, net) == (254_842, 114_730)


def test_the_ablation_changes_one_ingredient_at_a_time():
    trials = {
        name: flatten(trial.to_dict())
        for name, trial in trials_of(ablation, "cifar10_modern").items()
    }
    recipe = trials["stage=recipe,seed=1"]
    for stage in ablation.CHANGES:
        found = trials[f"stage={stage},seed=1"]
        changed = {key for key in recipe if recipe[key] != found[key]} - {"stage"}
        if stage == "nesterov":
            assert changed == {f"train.{key}" for key in ablation.CHANGES[stage]}
        else:
            assert len(changed) == (stage != "recipe"), (stage, changed)
    assert trials["stage=taught,seed=1"]["train.teacher"] == "cifar10-100k"
    assert "stage=teacher,seed=1" not in trials


def test_the_ablation_trains_a_teacher_where_none_travels_with_the_package():
    trials = trials_of(ablation, "imagenet_modern")
    assert trials["stage=augment,seed=0"].data.augment == ("random_resized_crop", "trivial_augment")
    assert trials["stage=taught,seed=1"].train.teacher == "trial:stage=teacher,seed=1"
    recipe, teacher = (
        flatten(trials[f"stage={stage},seed=1"].to_dict()) for stage in ("recipe", "teacher")
    )
    changed = {key for key in recipe if recipe[key] != teacher[key]} - {"stage"}
    assert changed and all(key.startswith("model.") for key in changed)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [*PRESETS, "cifar10_modern", "imagenet_modern"])
def test_the_nets_of_equal_params_are_of_equal_size(preset):
    trials = trials_of(equal_params, preset, seeds=1)
    shapes = [
        weight_shapes({"model": trial.model, "num_classes": 1000 if "imagenet" in preset else 10})
        for trial in trials.values()
    ]
    counts = [sum(leaf.size for leaf in jax.tree.leaves(params)) for params, _ in shapes]
    assert max(counts) < 1.02 * min(counts)
    assert [bool(stats) for _, stats in shapes] == [False, True, True]
    recipes = [trial.train.to_dict() for trial in trials.values()]
    assert recipes == recipes[:1] * len(recipes)
