"""Transfer learning: a trained or imported net taught other classes.

python launch.py --config configs/finetune.py --config.train.init_from=CHECKPOINT --config.data.data_dir=my_images
python launch.py --config configs/finetune.py:cifar10 --config.train.init_from=CHECKPOINT --config.data.{resize=72,image_size=64}
python launch.py --config configs/finetune.py:... --config.train.freeze="('conv1', 'fire*')"                    the classifier alone

Any other TFDS set: the preset cifar10 with --config.data.name=NAME and its splits.

CHECKPOINT is a trial's folder or what `squeeze-jax import` wrote. Its model and its preprocessing are used, and its weights but for
the classifier, which is drawn anew (it stays where the classes are the same). Set data keys to change the preprocessing.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from squeeze_jax.configs import base


def get_config(preset: str = "folder"):
    config = base.get_config(preset, "finetune")
    config.seeds = 1
    config.model = ConfigDict(
        dict(name=placeholder(str))
    )  # from the checkpoint, and so is the preprocessing
    config.data.update(
        resize=placeholder(int), image_size=placeholder(int), resize_mode=placeholder(str)
    )
    config.data.update(
        channel_order=placeholder(str), mean=placeholder(tuple), std=placeholder(tuple)
    )
    config.data.update(pad=0)  # the crop out of the larger resize moves enough
    # A tenth of the rate that trains from scratch; the warm-up spares the weights the first steps of a classifier that knows nothing.
    config.train.update(epochs=10.0, learning_rate=0.005, batch_size=32)
    return config


def sweep(config):
    for seed in range(config.seeds):
        yield {"seed": seed}
