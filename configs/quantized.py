"""How much accuracy does quantization-aware training win back for a lossy .sqz file?

Weights stay multiples of their layer's step and zeros stay zero, so the file stays as small.
sweep.csv has the accuracy and the bytes of the lossless file trials/NAME/net.arithmetic.sqz. Model
and preprocessing are small.sqz's. Result and sizes at which it pays: experiments/quantized.

squeeze-jax compress NET -o small.sqz --target-bytes N
python launch.py --config configs/quantized.py --config.train.init_from=small.sqz         10 seconds
python launch.py --config configs/quantized.py:cifar10 --config.train.init_from=small.sqz
"""

from squeeze_jax.configs import base


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "quantized")
    config.seeds = 1
    base.take_from_checkpoint(config)
    # An average of weights would leave the grid.
    config.train.update(
        qat=True, epochs=1.0, steps=0, batch_size=64, eval_every=0, ema_decay=0.0, **base.SGD
    )
    config.train.learning_rate = 0.02
    config.compress.coders = ("arithmetic",)
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for seed in range(config.seeds):
        yield {"seed": seed}
