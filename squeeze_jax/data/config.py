"""The keys of a config's data section."""

from dataclasses import dataclass
from typing import Annotated

from squeeze_jax.config_parsing import Range

Part = Annotated[float, Range(above=0, below=1)]
Pixels = Annotated[int, Range(at_least=1, at_most=2**14)]
Padding = Annotated[int, Range(at_least=0, at_most=2**14)]
Mean = Annotated[float, Range(at_least=0, at_most=255)]
# 256 is that of nets that scale pixels by 1/256.
Deviation = Annotated[float, Range(above=0, at_most=256)]
Channel = Annotated[int, Range(at_least=0, at_most=255)]
Threads = Annotated[int, Range(at_least=0, at_most=1024)]


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they reach the net."""

    name: str = "digits"  # a key of SOURCES (digits, folder), or the name of a TFDS data set
    data_dir: str = ""  # TFDS: "" is its default; folder: the folder, see data/folder.py
    train_split: str = "train"
    eval_split: str = "test"
    holdout: Part = 0.2  # folder without val/ and test/: the fraction held out for evaluation
    skip_unreadable: bool = False  # go on without images that cannot be decoded
    background: tuple[Channel, ...] = (255, 255, 255)  # RGB, under transparent pixels
    resize: Pixels = 32  # pixels, before the crop
    resize_mode: str = "squash"  # to resize x resize; or "short": the short side, then the centre
    image_size: Pixels = 32  # pixels, the crop: random in training, central in evaluation
    pad: Padding = 0  # pixels added on each side before the random crop
    mirror: bool = False  # horizontal flips in training
    augment: tuple[str, ...] = ()  # more AUGMENTATIONS, after the crop and the flip
    channel_order: str = "rgb"  # or "bgr"
    mean: tuple[Mean, ...] = (127.5, 127.5, 127.5)  # of 0..255, in channel order
    std: tuple[Deviation, ...] = (127.5, 127.5, 127.5)
    placement: str = "auto"  # memory (of the devices), stream (Grain), or auto: memory up to 1 GiB
    workers: Threads = 8  # threads that decode for a stream
