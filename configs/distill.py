"""Does a small net learn more from a wider one than from the labels alone (arXiv 1503.02531)?

Claim (Hinton et al.): a net that also learns the softened outputs of a better one is more accurate
than the same net trained on the labels: by 0.8 to 2.6 points for seven pairs of nets on CIFAR-100
(arXiv 1910.10699, Table 1).

Each seed trains a teacher, the wide net, then the small net twice: alone, and taught by that
teacher. train.teacher_weight and train.teacher_temperature set what is learned from it.

python launch.py --config configs/distill.py             9 trials, a minute
python launch.py --config configs/distill.py:cifar10     about 7 hours on two CPU cores
python launch.py --config configs/distill.py:cifar10_modern     200 epochs; see experiments/tiny
python launch.py --config configs/distill.py:imagenet    the paper's protocol; twice the widths

Digits, ten epochs: the teacher (362,410 parameters) has 95.6 % top-1, the net (47,578) 86.0 alone
and 88.4 taught; by seed +0.3, -0.6 and +7.2, so three seeds show no gain. After 20 epochs five
seeds have 92.9 +- 3.0 (standard deviation) alone and 93.7 +- 0.6 taught. On CIFAR-10 254,842
parameters teach 114,730.

A teacher that is trained already, a checkpoint or a .sqz file, needs no study: any config takes
--config.train.teacher=PATH.
"""

from ml_collections import ConfigDict

from squeeze_jax.configs import base

STAGES = ("teacher", "alone", "taught")


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "distill")
    config.stage = "teacher"  # of one trial; the sweep sets it
    config.teacher = ConfigDict(dict(squeeze_ratio=1.0))  # the wide net's model options
    config.report.update(x="stage", label="stage")
    config.report.claim.update(kind="beats", values=("taught", "alone"))
    if preset.startswith("cifar"):
        # Within the 12.5 M MACs of MLPerf Tiny's ResNet-8; see experiments/tiny.
        config.model.update(
            base_e=32,
            incr_e=32,
            conv1_filters=32,
            squeeze_ratio=0.25,
            pool_after=("fire2", "fire5"),
            bypass="complex",
            batch_norm=True,
            dropout=0.0,
        )
        config.teacher = ConfigDict(
            dict(base_e=48, incr_e=48, conv1_filters=48, pool_after=("fire3", "fire5"))
        )
    if preset == "cifar10":
        config.train.update(
            epochs=25.0, batch_size=128, learning_rate=0.1, schedule="cosine", weight_decay=5e-4
        )
    if preset.startswith("imagenet"):
        config.teacher = ConfigDict(dict(base_e=256, incr_e=256))
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for stage in STAGES:
        for seed in range(config.seeds):
            yield {"stage": stage, "seed": seed}


def derive(config):
    """Sets what follows from the stage."""
    if config.stage == "teacher":
        config.model.update(config.teacher)
    if config.stage == "taught":
        config.train.teacher = f"trial:stage=teacher,seed={config.seed}"
