"""Which settings let plain SqueezeNet, without BatchNorm, train from scratch at all?

Measures the share of seeds that stay at chance or diverge, for each initialiser and learning rate
under three recipes: "paper" has neither warm-up nor clipping, as the released solver; "relu" has
both, and conv10's ReLU before the mean, as the released net; "ours" has both and no such ReLU.
Result: experiments/collapse.

python launch.py --config configs/collapse_sweep.py             225 trials, 15 minutes on two cores
python launch.py --config configs/collapse_sweep.py:cifar10     on CIFAR-10
"""

from squeeze_jax.configs import base

RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
RECIPES = ("paper", "relu", "ours")


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "collapse_sweep")
    config.seeds = 5
    config.recipe = "ours"  # of one trial; the sweep sets it
    config.report.update(x="train.learning_rate", label="learning rate")
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for recipe in RECIPES:
        for init in ("xavier", "torchvision", "he"):
            for rate in RATES:
                for seed in range(config.seeds):
                    yield {
                        "recipe": recipe,
                        "model.init": init,
                        "train.learning_rate": rate,
                        "seed": seed,
                    }


def derive(config):
    """Sets what the recipe's name stands for."""
    if config.recipe == "paper":
        config.train.update(warmup=0.0, clip_norm=0.0)
    config.model.conv10_relu = config.recipe != "ours"
