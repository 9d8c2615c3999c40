"""Which net makes the most of a device's flash and RAM?

Every image size goes with every width; design points over the budget are left out. SqueezeNet with
BatchNorm and complex bypass keeps its accuracy in int8 and as coded weights, and the C engine runs
its expand layers, pools and bypasses without tensors of their own (experiments/engine).

python launch.py --config configs/device.py                     5 design points on digits, a minute
python launch.py --config configs/device.py:folder --config.data.data_dir=photos \
    --config.budget.max_engine_ram=98_304 --config.budget.max_params=400_000

`squeeze-jax firmware photos --flash 256K --ram 96K -o OUT` does this, trains the best point for
longer, compresses it and writes the C project; see docs/deploy.md.
"""

from squeeze_jax.configs import base
from squeeze_jax.network.preprocessing import height_width

# Coded weights of such nets take about 3.3 bits without a loss that can be measured
# (experiments/tiny).
BITS_A_WEIGHT = 3.5


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "device")
    config.seeds = 1
    config.model.update(
        bypass="complex",
        squeeze_ratio=0.25,
        batch_norm=True,
        dropout=0.0,
        conv1_kernel=3,
        conv1_pad=1,
    )
    base.modern(config)
    config.train.update(ema_decay=0.95, **base.MUON)
    config.image_sizes = (
        (32,) if preset == "digits" or preset.startswith("cifar") else (64, 96, 128)
    )
    config.widths = (8, 16, 24, 32, 48)  # expand filters of the first two fire modules
    config.report.update(x="model.base_e", label="expand filters of the first fire modules")
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for image_size in config.image_sizes:
        for width in config.widths:
            for seed in range(config.seeds):
                yield {"data.image_size": image_size, "model.base_e": width, "seed": seed}


def derive(config):
    """Sets what follows from the image size and the width."""
    size, width = height_width(config.data.image_size), config.model.base_e
    config.model.update(incr_e=width, conv1_filters=width)
    if min(size) >= 64:
        config.model.update(conv1_stride=2, pool_after=("fire2", "fire4", "fire8"))
        height, width = (round(side * 9 / 8) for side in size)
        config.data.resize = height if height == width else (height, width)
    else:
        config.model.update(conv1_stride=1, pool_after=("fire2", "fire5"))
