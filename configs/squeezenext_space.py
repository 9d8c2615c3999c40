"""What are SqueezeNext's designs worth, and which of its metaparameters matter?

As squeezenet_space, with which `squeeze-jax compare` sets it side by side: the blocks of each stage
are axes of their own, as the paper moves them between stages (arXiv 1803.10615, section 3.3).

python launch.py --config configs/squeezenext_space.py                  64 designs, 15 minutes
python launch.py --config configs/squeezenext_space.py:cifar10_modern   within 12.5 M MACs
"""

from squeeze_jax.configs import base, squeezenet_space, squeezenext_sweep
from squeeze_jax.study import Choice, Uniform

STAGES = ("blocks1", "blocks2", "blocks3", "blocks4")


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "squeezenext_space")
    config.model = squeezenext_sweep.get_config(preset).model
    squeezenet_space.sample(config)
    for stage in STAGES:  # of one trial; the space sets them
        config[stage] = 1
    if preset == "digits":
        config.train.update(clip_norm=0.0, learning_rate=0.1, weight_decay=1e-4)
    return config


def space(config):
    """Returns the axes."""
    deepest = (4, 6, 8, 4)
    return {
        "model.width": Uniform(0.25, 1.5, step=0.125),
        "model.version": Choice(1, 2),
        "model.groups": Choice(1, 2),
        "model.conv1_filters": Uniform(16, 64, step=8),
        "model.bottleneck": Choice(32, 64, 128),
        **{stage: Uniform(1, most) for stage, most in zip(STAGES, deepest, strict=True)},
    }


def derive(config):
    """Sets the blocks of the four stages."""
    config.model.blocks = tuple(config[stage] for stage in STAGES)
