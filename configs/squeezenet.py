"""How accurate is one net: v1.0, v1.1 or any point of the design space, one trial a seed?

python launch.py --config configs/squeezenet.py                           v1.0's, seconds
python launch.py --config configs/squeezenet.py:cifar10 --config.model.squeeze_ratio=0.5
python launch.py --config configs/squeezenet.py:imagenet --config.model.name=squeezenet_v1_1
python launch.py --config configs/squeezenet.py:folder --config.data.data_dir=my_images
"""

from squeeze_jax.configs import base


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "squeezenet")
    config.seeds = 1
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for seed in range(config.seeds):
        yield {"seed": seed}
