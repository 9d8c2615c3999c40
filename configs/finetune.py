"""How well does a trained or imported net learn other classes (transfer learning)?

CHECKPOINT is a trial's folder, what `squeeze-jax import` wrote or reads, or a .sqz file. The new
net has its model, preprocessing and weights but for the classifier, which is drawn anew unless the
classes are the same. Set data keys to change the preprocessing. Result: experiments/finetune.

python launch.py --config configs/finetune.py:digits --config.train.init_from=cifar10-48k  a minute
F="--config configs/finetune.py --config.train.init_from=CHECKPOINT"
python launch.py $F --config.data.data_dir=my_images
python launch.py $F --config.data.data_dir=my_images --config.train.freeze="('conv1', 'fire*')"

Any TFDS set: configs/finetune.py:cifar10 with --config.data.name=NAME and its splits, and sizes
such as --config.data.resize=72 --config.data.image_size=64.
"""

from ml_collections.config_dict import placeholder

from squeeze_jax.configs import base


def get_config(preset: str = "folder"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "finetune")
    config.seeds = 1
    base.take_from_checkpoint(config)
    config.data.update(pad=0)  # the crop out of the larger resize moves enough
    # Where few images make few steps, Muon learns far more from them than SGD. The warm-up spares
    # the weights the first steps of a classifier that knows nothing. Without a floor, 60 images
    # make ten steps, which end at chance.
    config.train.update(epochs=10.0, steps=0, min_steps=50, batch_size=32, **base.MUON)
    config.train.warmup = config.train.warmup or 0.1
    config.train.learning_rate = placeholder(float)  # the checkpoint sets it
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for seed in range(config.seeds):
        yield {"seed": seed}
