"""Which bypass connections help: none, simple or complex (SqueezeNet paper, section 6, Table 3)?

Claim: simple bypass (60.4 % top-1) beats complex bypass (58.8 %), which beats none (57.5 %).

python launch.py --config configs/bypass_sweep.py             9 trials, about a minute on two cores
python launch.py --config configs/bypass_sweep.py:cifar10     see experiments/bypass_sweep
python launch.py --config configs/bypass_sweep.py:imagenet    the paper's protocol
"""

from squeeze_jax.configs import base


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "bypass_sweep")
    config.report.update(x="model.bypass", label="bypass")
    config.report.claim.update(kind="beats", values=("simple", "complex", "none"))
    if preset == "imagenet":
        config.report.paper.update(
            metric="top1",
            source="SqueezeNet paper, Table 3",
            points=(("none", 57.5), ("simple", 60.4), ("complex", 58.8)),
        )
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for bypass in ("none", "simple", "complex"):
        for seed in range(config.seeds):
            yield {"model.bypass": bypass, "seed": seed}
