"""How many of the expand filters must be 3x3 (SqueezeNet paper, section 5.3, Fig. 3b)?

Claim: accuracy plateaus at 50 % of 3x3 filters; more of them only add bytes. SR is 0.5 throughout.

python launch.py --config configs/pct3x3_sweep.py             27 trials, 2 minutes
python launch.py --config configs/pct3x3_sweep.py:cifar10     see experiments/pct3x3_sweep
python launch.py --config configs/pct3x3_sweep.py:imagenet    top-5 76.3 -> 85.6 % in the paper
"""

from squeeze_jax.configs import base


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "pct3x3_sweep")
    config.model.squeeze_ratio = 0.5
    config.report.update(x="model.pct3x3", label="3x3 filters in expand layers (fraction)")
    # The paper's own gain is 0.3 points at most above 0.5, and 0.6 from 0.375 to 0.5.
    config.report.claim.update(kind="saturates", at=0.5, margin=0.5)
    if preset == "imagenet":
        config.report.metric = "top5"
        config.report.paper.update(
            metric="top5",
            source="SqueezeNet paper, Fig. 3b",
            points=(
                (0.01, 76.3),
                (0.125, 80.7),
                (0.25, 84.1),
                (0.375, 84.7),
                (0.5, 85.3),
                (0.625, 85.6),
                (0.75, 85.5),
                (0.875, 85.5),
                (0.99, 85.3),
            ),  # fmt: skip
        )
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for pct3x3 in (0.01, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.99):
        for seed in range(config.seeds):
            yield {"model.pct3x3": pct3x3, "seed": seed}
