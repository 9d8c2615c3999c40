"""What do pruning and weight sharing cost in accuracy (Deep Compression, arXiv 1510.00149)?

Claim (SqueezeNet paper, Tables 1 and 2): pruned to a third of its weights, which then share 63
values a layer, SqueezeNet loses no accuracy; its file is a tenth as large.

Each seed goes through the stages dense, pruned, and from there shared8 and shared6; each but the
first starts from another one's weights. Every net is also written as a .sqz file with Huffman
codes, as published, and with our arithmetic code; experiments/deep_compression/table2.py makes the
paper's table. Other densities: --config.pruned.prune_density="(...)", such as `squeeze-jax
sensitivity` proposes for a trained net.

python launch.py --config configs/deep_compression.py             12 trials, 3 minutes; 190 -> 25 kB
python launch.py --config configs/deep_compression.py:cifar10     see experiments/deep_compression
python launch.py --config configs/deep_compression.py:imagenet    the paper's protocol
"""

from ml_collections import ConfigDict

from squeeze_jax.configs import base

# Table 1, fractions of weights kept; its 33 % of fire8/expand3x3 is a misprint, its count of
# parameters and the released net have 30 %.
TABLE_1 = (
    ("fire[89]/expand3x3", 0.3),
    ("fire*/expand3x3", 0.33),
    ("fire[68]/expand1x1", 0.5),
    ("fire[79]/squeeze", 0.5),
    ("conv10", 0.2),
)
STARTS_FROM = {"pruned": "dense", "shared8": "pruned", "shared6": "pruned"}


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "deep_compression")
    config.stage = "dense"  # of one trial; the sweep sets it
    # Learning rate and length as fractions of the dense net's.
    config.pruned = ConfigDict(dict(prune_density=TABLE_1, learning_rate=0.5, length=0.5))
    # A shared value gets the sum of its weights' gradients, hundreds of times as much as one: only
    # clipped do its steps stay short.
    config.shared = ConfigDict(dict(learning_rate=0.1, length=0.25, clip_norm=1.0))
    config.compress.coders = ("huffman", "arithmetic")
    config.report.update(x="stage", label="stage")
    if preset == "imagenet":
        # A net that has converged needs less.
        config.pruned.learning_rate, config.shared.learning_rate = 0.1, 0.01
        config.report.metric = "top5"
        config.report.paper.update(
            metric="top5",
            source="SqueezeNet paper, Table 2",
            points=(("dense", 80.3), ("shared8", 80.3), ("shared6", 80.3)),
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
    retraining = config.pruned if config.stage == "pruned" else config.shared
    base.retrain(config, retraining.learning_rate, retraining.length)
    if config.stage == "pruned":
        config.train.prune_density = retraining.prune_density
    else:
        config.train.codebook_bits = int(config.stage.removeprefix("shared"))
        config.train.clip_norm = config.train.clip_norm or retraining.clip_norm
