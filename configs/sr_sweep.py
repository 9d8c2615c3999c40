"""Does accuracy saturate as the squeeze ratio grows (SqueezeNet paper, section 5.2, Fig. 3a)?

Claim: accuracy rises with the squeeze ratio (SR) and saturates at 0.75, while the model keeps
growing (4.8 to 24 MB).

python launch.py --config configs/sr_sweep.py             15 trials, 1 to 2 minutes on two CPU cores
python launch.py --config configs/sr_sweep.py:cifar10     see experiments/sr_sweep
python launch.py --config configs/sr_sweep.py:imagenet    top-5 80.3 -> 86.0 % in the paper
"""

from squeeze_jax.configs import base


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "sr_sweep")
    config.model.pct3x3 = 0.5
    config.report.update(x="model.squeeze_ratio", label="squeeze ratio (SR)")
    # The paper's own gain from 0.75 to 1.0 is 0.1 points, and 0.7 from 0.5 to 0.75.
    config.report.claim.update(kind="saturates", at=0.75, margin=0.5)
    if preset == "imagenet":
        config.report.metric = "top5"
        config.report.paper.update(
            metric="top5",
            source="SqueezeNet paper, Fig. 3a",
            points=((0.125, 80.3), (0.25, 83.4), (0.5, 85.3), (0.75, 86.0), (1.0, 86.1)),
        )
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for squeeze_ratio in (0.125, 0.25, 0.5, 0.75, 1.0):
        for seed in range(config.seeds):
            yield {"model.squeeze_ratio": squeeze_ratio, "seed": seed}
