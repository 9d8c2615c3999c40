"""The defaults that every study shares, and the presets: the data, the net's scale and the recipe that belong together.

  digits    scikit-learn's 1,797 handwritten digits, bundled: offline, minutes on two CPU cores
  cifar10   CIFAR-10 through TFDS: an accelerator, or hours on a CPU
  imagenet  the SqueezeNet paper's protocol (its released solver): ImageNet-2012 through TFDS, 170,000 steps of 512 images
  folder    your own images, as folder/class/image.jpg: --config.data.data_dir=FOLDER

Take a preset with `--config configs/sr_sweep.py:cifar10`, and set any key with `--config.train.epochs=5`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from squeeze_jax.config_parsing import plain_section
from squeeze_jax.data.config import DataConfig
from squeeze_jax.errors import UserError
from squeeze_jax.train.config import TrainConfig


def get_config(preset: str, study: str) -> ConfigDict:
    """The config of `study` under `preset`.

    Raises:
      UserError: no such preset.
    """
    presets = {"digits": digits, "cifar10": cifar10, "imagenet": imagenet, "folder": folder}
    if preset not in presets:
        raise UserError(f"no preset {preset!r}; there are {', '.join(presets)}")
    config = defaults()
    config.study = study
    config.preset = preset
    presets[preset](config)
    return config


def defaults() -> ConfigDict:
    """Every key with the value that it has unless a preset, a study or the command line sets it."""
    config = ConfigDict()
    config.study = config.preset = ""
    config.seeds = 3  # trials a design point
    config.seed = 0  # of one trial; a sweep sets it
    config.budget = budget()
    config.model = squeezenet()
    config.data = data()
    config.train = train()
    config.compress = compress()
    config.report = report()
    return config


def budget() -> ConfigDict:
    """What a design point may cost to be trained at all; None: anything."""
    return ConfigDict(
        dict(max_params=placeholder(int), max_macs=placeholder(int), max_cycles=placeholder(int))
    )


def squeezenet() -> ConfigDict:
    """A registered SqueezeNet and its options; None leaves the model's own default (squeeze_jax/models/squeezenet.py)."""
    return ConfigDict(
        dict(
            name="squeezenet_v1_0",
            squeeze_ratio=placeholder(float),
            pct3x3=placeholder(float),
            base_e=placeholder(int),
            incr_e=placeholder(int),
            freq=placeholder(int),
            bypass=placeholder(str),
            num_fire=placeholder(int),
            conv1_filters=placeholder(int),
            conv1_kernel=placeholder(int),
            conv1_stride=placeholder(int),
            conv1_pad=placeholder(int),
            pool_after=placeholder(tuple),
            conv10_pad=placeholder(int),
            conv10_relu=placeholder(bool),
            dropout=placeholder(float),
            batch_norm=placeholder(bool),
            init=placeholder(str),
        )
    )


def squeezenext() -> ConfigDict:
    """SqueezeNext and its options; None leaves the model's own default (squeeze_jax/models/squeezenext.py)."""
    return ConfigDict(
        dict(
            name="squeezenext_23",
            width=placeholder(float),
            depth=placeholder(int),
            version=placeholder(int),
            blocks=placeholder(tuple),
            groups=placeholder(int),
            aggregation=placeholder(bool),
            conv1_filters=placeholder(int),
            conv1_kernel=placeholder(int),
            conv1_stride=placeholder(int),
            conv1_pad=placeholder(int),
            pool1=placeholder(bool),
            bottleneck=placeholder(int),
            separable=placeholder(str),
            classifier_bias=placeholder(bool),
        )
    )


def data() -> ConfigDict:
    """Returns where images come from and how they reach the net; the keys are in data/config.py."""
    return ConfigDict(plain_section(DataConfig()))


def train() -> ConfigDict:
    """Returns the recipe; the keys are in train/config.py."""
    return ConfigDict(plain_section(TrainConfig()))


def retrain(config: ConfigDict, learning_rate: float, length: float) -> None:
    """Makes of a config that trains from scratch one of a later stage: fractions of its learning rate and of its steps."""
    config.train.learning_rate *= learning_rate
    config.train.epochs *= length
    config.train.steps = round(config.train.steps * length)


def compress() -> ConfigDict:
    """How each net that learned is also written as a file of few bytes, trials/NAME/net.CODER.sqz (squeeze_jax/compress)."""
    return ConfigDict(
        dict(
            coders=(),  # any of "arithmetic", "huffman"
            # KL divergence, nats, that the outputs may take on, measured on training images; None: the very same weights.
            max_loss=placeholder(float),
        )
    )


def report() -> ConfigDict:
    """What the figure shows: the swept key on the x axis, its label, and the paper's curve where the protocol is the paper's."""
    return ConfigDict(dict(x="", label="", metric="top1", paper=ConfigDict()))


def from_scratch(config: ConfigDict) -> None:
    """Initialisation and head with which every seed learns at small scale; the paper's own recipe stays at chance there."""
    config.model.init = "he"
    config.model.conv10_relu = False


def digits(config: ConfigDict) -> None:
    """8x8 grey digits upscaled to 32x32; a quarter of the paper's widths."""
    from_scratch(config)
    # Dropout 0.5 on so narrow a net costs 20 to 40 points in ten epochs; without the set's own mean and deviation it stays at chance.
    config.model.update(base_e=32, incr_e=32, conv1_filters=24, conv1_kernel=3, dropout=0.0)
    config.data.update(mean=(77.8, 77.8, 77.8), std=(95.9, 95.9, 95.9))
    config.train.update(eval_every=44, log_every=22)


def cifar10(config: ConfigDict) -> None:
    """The paper's widths on 32x32: stem 3x3/1, so that three pools leave 3x3 positions for conv10."""
    from_scratch(config)
    config.model.update(conv1_kernel=3, conv1_stride=1, conv1_pad=1)
    config.data.update(
        name="cifar10", pad=4, mirror=True, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7)
    )
    config.train.update(
        epochs=60.0,
        batch_size=256,
        eval_batch_size=1000,
        eval_every=975,
        log_every=39,
        checkpoint_every=975,
    )


def imagenet(config: ConfigDict) -> None:
    """The paper's protocol: what Caffe did with the released solver file."""
    config.data.update(
        name="imagenet2012",
        eval_split="validation",
        resize=256,
        image_size=227,
        channel_order="bgr",
        mean=(104.0, 117.0, 123.0),
        std=(1.0, 1.0, 1.0),
        placement="stream",
        workers=64,
    )
    config.train.update(
        steps=170_000,
        batch_size=512,
        learning_rate=0.04,
        warmup=0.0,
        clip_norm=0.0,
        eval_batch_size=512,
        eval_every=5_000,
        log_every=100,
        checkpoint_every=1_000,
    )


def folder(config: ConfigDict) -> None:
    """Your own images at 128x128: a small set in memory, a large one streamed."""
    from_scratch(config)
    config.data.update(
        name="folder",
        resize=144,
        resize_mode="short",
        image_size=128,
        mirror=True,
        mean=(124.0, 117.0, 104.0),
        std=(58.0, 57.0, 58.0),
    )
    config.train.update(epochs=30.0, batch_size=32)
