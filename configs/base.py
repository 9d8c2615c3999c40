"""The keys that every study has, and the presets: data, network scale and recipe that go together.

digits           scikit-learn's 1,797 handwritten digits, bundled: offline, minutes on two CPU cores
cifar10          CIFAR-10 through TFDS: an accelerator, or hours on a CPU
cifar10_modern   the same with BatchNorm and a recipe of today, for nets worth having
cifar100         CIFAR-100, as cifar10_modern
imagenet         the SqueezeNet paper's protocol (its released solver): ImageNet-2012 through TFDS,
                 170,000 steps of 512 images
imagenet_modern  the same data with BatchNorm and a recipe of today
folder           your own images, as folder/class/image.jpg or under train, val and test:
                 --config.data.data_dir=FOLDER; `squeeze-jax data FOLDER` tells how it is read

Choose a preset with `--config configs/sr_sweep.py:cifar10`; set any key with
`--config.train.epochs=5`.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from squeeze_jax import models
from squeeze_jax.compress.config import CompressConfig
from squeeze_jax.config_parsing import plain_section
from squeeze_jax.data.config import DataConfig
from squeeze_jax.errors import UserError, suggest
from squeeze_jax.study.scheduler import StoppingConfig
from squeeze_jax.study.search import SearchConfig
from squeeze_jax.train.config import TrainConfig

SIZES = ("resize", "image_size")  # keys of the data section: an int, or (height, width)


def get_config(preset: str, study: str) -> ConfigDict:
    """Returns the config of a study under a preset.

    Raises:
      UserError: no such preset.
    """
    if preset not in PRESETS:
        raise UserError(f"no preset {preset!r}; {suggest(preset, PRESETS)}")
    config = defaults()
    config.study = study
    config.preset = preset
    PRESETS[preset](config)
    return config


def defaults() -> ConfigDict:
    """Returns every key with its value unless a preset, a study or the command line sets it."""
    config = ConfigDict()
    config.study = config.preset = ""
    config.seeds = 3  # trials a design point
    config.seed = 0  # of one trial; a sweep sets it
    config.budget = budget()
    config.model = model("squeezenet_v1_0")
    config.data = data()
    config.train = train()
    config.stopping = stopping()
    config.compress = compress()
    config.report = report()
    return config


def budget() -> ConfigDict:
    """Returns what a design point may cost to be trained at all; None: anything."""
    return ConfigDict(
        dict(
            max_params=placeholder(int),
            max_macs=placeholder(int),
            max_cycles=placeholder(int),
            max_ram=placeholder(int),  # bytes, of TFLM's arena for the int8 file
            max_engine_ram=placeholder(int),  # bytes, of the C engine
            max_flash=placeholder(int),  # bytes, of the int8 file
            # With the largest, the window in which designs of a space are drawn.
            min_params=placeholder(int),
            min_macs=placeholder(int),
        )
    )


def model(name: str | None, **options: Any) -> ConfigDict:
    """Returns a model section: a registered name, and the options of every family by type.

    An option that is None has the model's own default, see the constructors in
    squeeze_jax/models; or the checkpoint's where the name is None, too.
    """
    known = {key: placeholder(kind) for key, kind in models.model_options().items()}
    section = ConfigDict({"name": name or placeholder(str), **known})
    section.update(options)
    return section


def data() -> ConfigDict:
    """Returns where images come from and how they reach the net; the keys are in data/config.py."""
    section = ConfigDict(plain_section(DataConfig()))
    for key in SIZES:  # ConfigDict would hold them to ints
        section[key] = FieldReference(section[key], field_type=object)
    return section


def train() -> ConfigDict:
    """Returns the recipe; the keys are in train/config.py."""
    return ConfigDict(plain_section(TrainConfig()))


def retrain(config: ConfigDict, learning_rate: float, length: float) -> None:
    """Turns a config that trains from scratch into a later stage.

    Fractions of its rate and steps.
    """
    config.train.learning_rate *= learning_rate
    config.train.epochs *= length
    if config.train.steps:  # 0 would mean epochs
        config.train.steps = max(1, round(config.train.steps * length))


def take_from_checkpoint(config: ConfigDict) -> None:
    """Leaves the model and the preprocessing open; the checkpoint in train.init_from sets them.

    But for options of the model that are set, such as a smaller num_fire.
    """
    config.model = model(None)
    kinds: dict[str, type] = dict.fromkeys(("resize_mode", "channel_order"), str)
    kinds |= dict.fromkeys(("mean", "std", "background"), tuple)
    config.data.update({key: placeholder(kind) for key, kind in kinds.items()})
    config.data.update(dict.fromkeys(SIZES))


def stopping() -> ConfigDict:
    """Returns how trials are stopped early; the keys are in study/scheduler.py."""
    return ConfigDict(plain_section(StoppingConfig()))


def search(**settings: Any) -> ConfigDict:
    """Returns how designs are drawn, for a study with a space; the keys are in study/search.py."""
    section = ConfigDict(plain_section(SearchConfig()))
    section.update(settings)
    return section


def compress() -> ConfigDict:
    """Returns how nets become .sqz files; the keys are in compress/config.py."""
    section = ConfigDict(plain_section(CompressConfig()))
    section.max_loss = placeholder(float)
    return section


def report() -> ConfigDict:
    """Returns what the report shows: the x axis, its label, the metric, and the paper's curve.

    The curve is drawn where it is of the metric. Samplers and schedulers go by the metric as well.
    And the claim that the seeds are to support or contradict, see study/hypothesis.py: {"kind":
    "saturates", "at": 0.75, "margin": 0.5}, {"kind": "rises"}, {"kind": "best", "value": "simple"}
    or {"kind": "beats", "values": ("simple", "none")}.
    """
    return ConfigDict(dict(x="", label="", metric="top1", paper=ConfigDict(), claim=ConfigDict()))


def from_scratch(config: ConfigDict) -> None:
    """Sets the initialiser and head with which every seed learns at small scale.

    The paper's own recipe stays at chance there.
    """
    config.model.init = "he"
    config.model.conv10_relu = False


def digits(config: ConfigDict) -> None:
    """Sets 8x8 grey digits upscaled to 32x32, and a quarter of the paper's widths."""
    from_scratch(config)
    # Dropout 0.5 costs so narrow a net 20 to 40 points in ten epochs; without the set's own mean
    # and deviation it stays at chance.
    config.model.update(base_e=32, incr_e=32, conv1_filters=24, conv1_kernel=3, dropout=0.0)
    config.data.update(mean=(77.8, 77.8, 77.8), std=(95.9, 95.9, 95.9))
    config.train.update(eval_every=44, log_every=22)


def cifar10(config: ConfigDict) -> None:
    """Sets CIFAR-10 and the paper's widths, with a 3x3/1 stem: three pools leave 3x3 positions."""
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


def cifar10_modern(config: ConfigDict) -> None:
    """Sets CIFAR-10 with BatchNorm and Muon, for short trainings and long ones.

    The net of experiments/tiny (114,730 parameters, 12.5 M MACs) has 84.6 % top-1 after 5 epochs
    with an EMA of 0.99, and with random erasing 90.3 % after 40. On JPEG copies of the images 5
    epochs end at 81.2 %, and with Nesterov's momentum, a peak of 0.1 and decay 5e-4, the recipe of
    Wide ResNets (arXiv 1605.07146, section 3), at 76.6 %. Muon's momentum is its author's; rate
    times decay is that recipe's. The cosine is SGDR's (1608.03983), and decay spares biases and
    BatchNorm (1812.01187, section 3.1).
    """
    cifar10(config)
    # Two pools leave 8x8 positions.
    config.model.update(batch_norm=True, dropout=0.0, pool_after=("fire3", "fire5"))
    modern(config)
    config.train.update(epochs=200.0, batch_size=128, ema_decay=0.999, **MUON)


def cifar100(config: ConfigDict) -> None:
    """Sets CIFAR-100, with all else as `cifar10_modern`."""
    cifar10_modern(config)
    config.data.update(name="cifar100", mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4))


# Caffe's, whatever the preset trains with.
SGD = dict(optimizer="sgd", momentum=0.9, weight_decay=2e-4)
MUON = dict(optimizer="muon", learning_rate=0.02, momentum=0.95, weight_decay=0.025)


def modern(config: ConfigDict) -> None:
    """Sets what the modern recipes share."""
    config.train.update(
        schedule="cosine",
        warmup=0.05,
        decay_norm_and_bias=False,
        clip_norm=0.0,  # BatchNorm needs none
    )


def imagenet(config: ConfigDict) -> None:
    """Sets the paper's protocol: what Caffe did with the released solver file."""
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


def imagenet_modern(config: ConfigDict) -> None:
    """Sets ImageNet-2012 with BatchNorm and the usual recipe of small nets.

    A rate of 0.1 for each 256 images and five epochs of warm-up are Goyal et al.'s (arXiv
    1706.02677), decay 4e-5 and crops of at least a third of the image, which a small net underfits
    less, are ShuffleNet's (1707.01083, section 4), label smoothing is Inception v3's (1512.00567).
    To beat: 62.11 % top-1, SqueezeNet v1.0 from scratch in STMicroelectronics' model zoo. Not yet
    measured here.
    """
    imagenet(config)
    from_scratch(config)
    config.model.update(batch_norm=True, dropout=0.0)
    config.data.update(
        mirror=True,
        augment=("random_resized_crop",),
        crop_area=(0.35, 1.0),
        channel_order="rgb",
        mean=(123.7, 116.3, 103.5),
        std=(58.4, 57.1, 57.4),
    )
    modern(config)
    config.train.update(
        steps=0,
        epochs=100.0,
        batch_size=1024,
        optimizer="nesterov",
        learning_rate=0.4,
        weight_decay=4e-5,
        label_smoothing=0.1,
        ema_decay=0.9999,
    )


def folder(config: ConfigDict) -> None:
    """Sets your own images at 128x128: a small set in memory, a large one streamed."""
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


PRESETS = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar10_modern": cifar10_modern,
    "cifar100": cifar100,
    "imagenet": imagenet,
    "imagenet_modern": imagenet_modern,
    "folder": folder,
}
