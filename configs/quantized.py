"""Quantisation-aware training: accuracy that a net lost in a lossy .sqz file comes back, and the file stays as small.

  squeeze-jax compress NET -o small.sqz --target-bytes N        see experiments/quantized for sizes at which it pays
  squeeze-jax decompress small.sqz -o SMALL
  python launch.py --config configs/quantized.py:cifar10 --config.train.init_from=SMALL

Any preset; with `folder`, --config.data.data_dir=my_images. Weights stay multiples of their layer's step, zeros zero, and sweep.csv
has the accuracy and the bytes of the lossless file trials/NAME/net.arithmetic.sqz. Model and preprocessing are those of SMALL.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from squeeze_jax.configs import base


def get_config(preset: str = "digits"):
    config = base.get_config(preset, "quantized")
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
    config.train.update(
        qat=True, epochs=1.0, steps=0, learning_rate=0.02, batch_size=64, eval_every=0
    )
    config.compress.coders = ("arithmetic",)
    return config


def sweep(config):
    for seed in range(config.seeds):
        yield {"seed": seed}
