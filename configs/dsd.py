"""Does a spell with fewer weights help the dense net (arXiv 1607.04381; SqueezeNet, section 7)?

Claim: a trained net that is pruned, retrained, and retrained again with all its weights is better
than before (57.5 -> 61.8 % top-1).

Stages: dense -> sparse (three in ten weights of each layer are zero) -> dsd (the zeros free again,
a tenth of the rate). Longer training alone may explain a gain, so a control has the same length and
rates without a mask: dense -> unmasked -> longer.

python launch.py --config configs/dsd.py             15 trials, a minute
python launch.py --config configs/dsd.py:cifar10     see experiments/dsd
python launch.py --config configs/dsd.py:imagenet    the paper's protocol for the dense net
"""

from ml_collections import ConfigDict

from squeeze_jax.configs import base
from squeeze_jax.configs.deep_compression import TABLE_1

STARTS_FROM = {"sparse": "dense", "dsd": "sparse", "unmasked": "dense", "longer": "unmasked"}


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "dsd")
    config.stage = "dense"  # of one trial; the sweep sets it
    # Learning rate and length as fractions of the dense net's.
    config.sparse = ConfigDict(dict(prune_density=(("*", 0.7),), learning_rate=0.5, length=0.5))
    config.dsd = ConfigDict(dict(learning_rate=0.1, length=0.5))
    config.report.update(x="stage", label="stage")
    config.report.claim.update(kind="beats", values=("dsd", "dense"))
    if preset == "imagenet":
        # As the released DSD SqueezeNet was made: from the net pruned to a third, 20 of 68 epochs
        # at a rate of 1e-4.
        config.sparse.update(prune_density=TABLE_1, learning_rate=0.1)
        config.dsd.update(learning_rate=0.0025, length=0.3)
        config.report.paper.update(
            metric="top1",
            source="SqueezeNet paper, section 7",
            points=(("dense", 57.5), ("dsd", 61.8)),
        )
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for stage in ("dense", *STARTS_FROM):
        for seed in range(config.seeds):
            yield {"stage": stage, "seed": seed}


def derive(config):
    """Sets what follows from the stage."""
    if config.stage not in STARTS_FROM:
        return
    config.train.init_from = f"trial:stage={STARTS_FROM[config.stage]},seed={config.seed}"
    retraining = config.sparse if config.stage in ("sparse", "unmasked") else config.dsd
    base.retrain(config, retraining.learning_rate, retraining.length)
    if config.stage == "sparse":
        config.train.prune_density = retraining.prune_density
