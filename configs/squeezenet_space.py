"""What are SqueezeNet's designs worth, and which of its metaparameters matter?

Draws designs of all metaparameters at once from a window of costs (Radosavovic et al. 2020, arXiv
2003.13678), in place of one axis at a time. `squeeze-jax compare WORKDIR` shows their distribution,
the share of each axis, and the best one; experiments/space has what came out.

python launch.py --config configs/squeezenet_space.py                   64 designs, 10 minutes
python launch.py --config configs/squeezenet_space.py --config.stopping.scheduler=asha
python launch.py --config configs/squeezenet_space.py --config.search.sampler=tpe
python launch.py --config configs/squeezenet_space.py:cifar10_modern    within 12.5 M MACs
"""

from squeeze_jax.configs import base
from squeeze_jax.network.preprocessing import height_width
from squeeze_jax.study import Choice, Uniform


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "squeezenet_space")
    sample(config)
    return config


def sample(config):
    """Sets how many designs are drawn, and from which window of costs; of both spaces alike."""
    config.seeds = 1
    config.search = base.search(designs=64, sampler="random")
    if config.preset == "digits":
        config.budget.update(min_macs=300_000, max_macs=1_500_000)
    elif config.preset in ("cifar10", "cifar10_modern", "cifar100"):
        config.budget.update(min_macs=6_000_000, max_macs=12_500_000)
    config.report.update(x="macs", label="MACs")


def space(config):
    """Returns the axes."""
    # A quarter of the paper's widths on small images, as in its presets; the paper's own on others.
    unit = 1 if max(height_width(config.data.image_size)) <= 32 else 4
    axes = {
        "model.squeeze_ratio": Choice(0.125, 0.25, 0.5, 0.75, 1.0),
        "model.pct3x3": Choice(0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875),
        "model.base_e": Uniform(8 * unit, 48 * unit, step=8 * unit),
        "model.incr_e": Uniform(0, 32 * unit, step=8 * unit),
        "model.freq": Choice(1, 2, 4),
        "model.bypass": Choice("none", "simple", "complex"),
        "model.conv1_filters": Uniform(8 * unit, 32 * unit, step=8 * unit),
    }
    if config.preset.startswith("cifar"):
        places = [("fire2", "fire4"), ("fire2", "fire5"), ("fire3", "fire5"), ("fire3", "fire6")]
        axes["model.pool_after"] = Choice(*places)
    return axes
