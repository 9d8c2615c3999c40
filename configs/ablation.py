"""What is each ingredient of the modern recipe worth, one changed at a time?

The net is that of experiments/tiny: SqueezeNet with BatchNorm and complex bypass, 114,730
parameters and 12.5 M MACs. The recipe is the preset's (configs/base.py), but for an average of the
weights that suits a few epochs.

recipe        as it is
half          half as many epochs
no_ema        the last weights instead of their moving average
mixup         images mixed in pairs, alpha 0.2 (arXiv 1710.09412)
augment       TrivialAugment besides crops and mirroring (arXiv 2103.10158)
taught        by a net of twice the size: on CIFAR-10 the bundled cifar10-100k, which has 92.1 %
              (experiments/tiny); else the wide net of configs/distill.py, which each seed trains
              as `teacher`
nesterov      Nesterov's momentum, a peak of 0.1 and decay 5e-4 instead of Muon
whole_batch   BatchNorm over the whole batch instead of groups of 16 images

python launch.py --config configs/ablation.py                   27 trials on digits, minutes
python launch.py --config configs/ablation.py:cifar10_modern --config.train.epochs=3
"""

from squeeze_jax.configs import base, distill

# By stage: what differs from the recipe in the train section.
CHANGES = {
    "recipe": {},
    "half": {},
    "no_ema": {"ema_decay": 0.0},
    "mixup": {"mixup": 0.2},
    "augment": {},
    "taught": {},
    "nesterov": dict(optimizer="nesterov", learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
    "whole_batch": {"bn_group_size": 0},
}


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = distill.get_config(preset)
    config.study = "ablation"
    if preset == "digits":
        config.model.update(bypass="complex", batch_norm=True)
        base.modern(config)
        config.train.update(**base.MUON)
    config.train.ema_decay = 0.95 if preset == "digits" else 0.99
    config.bundled_teacher = "cifar10-100k" if config.data.name == "cifar10" else ""
    config.stage = "recipe"  # of one trial; the sweep sets it
    config.report.claim.values = ("taught", "recipe")
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for stage in CHANGES if config.bundled_teacher else ("teacher", *CHANGES):
        for seed in range(config.seeds):
            yield {"stage": stage, "seed": seed}


def derive(config):
    """Sets what follows from the stage."""
    distill.derive(config)
    config.train.update(CHANGES.get(config.stage, {}))
    if config.stage == "taught" and config.bundled_teacher:
        config.train.teacher = config.bundled_teacher
    if config.stage == "augment":
        config.data.augment = (*config.data.augment, "trivial_augment")
    if config.stage == "half":
        base.retrain(config, learning_rate=1.0, length=0.5)
