"""Bypass connections: SqueezeNet paper, section 6 and Table 3.

Claim: simple bypass (60.4 % top-1) beats complex bypass (58.8 %), which beats none (57.5 %).

  python launch.py --config configs/bypass_sweep.py             9 trials (the 15 of sr_sweep take one to two minutes on two CPU cores)
  python launch.py --config configs/bypass_sweep.py:cifar10     on CIFAR-10
  python launch.py --config configs/bypass_sweep.py:imagenet    the paper's protocol
"""

from squeeze_jax.configs import base


def get_config(preset: str = "digits"):
    config = base.get_config(preset, "bypass_sweep")
    config.report.update(x="model.bypass", label="bypass")
    if preset == "imagenet":
        config.report.paper.update(
            metric="top1",
            source="SqueezeNet paper, Table 3",
            points=(("none", 57.5), ("simple", 60.4), ("complex", 58.8)),
        )
    return config


def sweep(config):
    for bypass in ("none", "simple", "complex"):
        for seed in range(config.seeds):
            yield {"model.bypass": bypass, "seed": seed}
