"""The keys of a config's data section."""

from dataclasses import dataclass
from typing import Annotated

from squeeze_jax.config_parsing import Range
from squeeze_jax.network.preprocessing import LARGEST_SIDE

Part = Annotated[float, Range(above=0, below=1)]
Pixels = Annotated[int, Range(at_least=1, at_most=LARGEST_SIDE)]
Size = Pixels | tuple[Pixels, ...]  # of a square, or height and width
Padding = Annotated[int, Range(at_least=0, at_most=LARGEST_SIDE)]
Mean = Annotated[float, Range(at_least=0, at_most=255)]
# 256 is that of nets that scale pixels by 1/256.
Deviation = Annotated[float, Range(above=0, at_most=256)]
Channel = Annotated[int, Range(at_least=0, at_most=255)]
Threads = Annotated[int, Range(at_least=0, at_most=1024)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]
Area = Annotated[float, Range(above=0, at_most=1)]
AspectRatio = Annotated[float, Range(at_least=0.01, at_most=100)]


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they reach the net."""

    name: str = "digits"  # a key of SOURCES (digits, folder, prepared), or a TFDS data set
    data_dir: str = ""  # TFDS: "" is its default; folder: the folder, see data/folder.py
    train_split: str = "train"
    eval_split: str = "test"
    holdout: Part = 0.2  # folder without val/ and test/: the fraction held out for evaluation
    skip_unreadable: bool = False  # go on without images that cannot be decoded
    background: tuple[Channel, ...] = (255, 255, 255)  # RGB, under transparent pixels
    # Pixels, before the crop: of a square, or (height, width).
    resize: Size = 32
    resize_mode: str = "squash"  # both sides; or "short": keeps the proportions, takes the centre
    # Pixels, likewise, of the crop: random in training, central in evaluation.
    image_size: Size = 32
    pad: Padding = 0  # pixels added on each side before the random crop
    mirror: bool = False  # horizontal flips in training
    # More AUGMENTATIONS, in this order after the crop and the flip. random_resized_crop takes the
    # place of the crop.
    augment: tuple[str, ...] = ()
    crop_area: tuple[Area, ...] = (0.08, 1.0)  # random_resized_crop: least and most, of the image
    crop_ratio: tuple[AspectRatio, ...] = (3 / 4, 4 / 3)  # least and most, width / height
    # color_jitter: factors are drawn from 1 - x to 1 + x.
    jitter_brightness: Fraction = 0.4
    jitter_contrast: Fraction = 0.4
    jitter_saturation: Fraction = 0.4
    erase_probability: Fraction = 0.5  # random_erasing
    erase_area: tuple[Area, ...] = (0.02, 0.4)  # least and most, of the image
    erase_ratio: tuple[AspectRatio, ...] = (0.3, 3.3)
    channel_order: str = "rgb"  # or "bgr", or "grey": one channel, the luma of colour images
    # Of 0..255, in channel order: one value with grey.
    mean: tuple[Mean, ...] = (127.5, 127.5, 127.5)
    std: tuple[Deviation, ...] = (127.5, 127.5, 127.5)
    placement: str = "auto"  # memory (of the devices), stream (Grain), or auto: memory up to 1 GiB
    workers: Threads = 8  # threads that decode for a stream
