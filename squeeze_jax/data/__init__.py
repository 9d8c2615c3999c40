"""Labelled images, from wherever they lie to the float32 batch inside a compiled training step.

    sources.load(config)        random access to (uint8 RGB image, label), of a source in SOURCES
      -> preprocessing.resize   on the host, once in memory or at each read of a stream: [R, R, 3];
                                a stream takes random resized crops here, of the decoded image
      -> Pipeline.batches       what a step needs from the host: indices into the images in device
                                memory, or the images themselves
      -> Pipeline.fetch         inside the compiled step: gather, normalise, AUGMENTATIONS

Whether images live in memory or are streamed changes speed only, but for random resized crops: both
give the same examples, in the same order, with the same augmentation, and all of it is a pure
function of (seed, step).
"""

from squeeze_jax.data.augment import AUGMENTATIONS
from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.decode import UnreadableImage, decode
from squeeze_jax.data.photographs import photographs
from squeeze_jax.data.pipeline import Data, Pipeline, evaluation_data, open_data, sample, spread
from squeeze_jax.data.source import ArraySource, Source, relabel
from squeeze_jax.data.sources import SOURCES, load, load_split

__all__ = [
    "AUGMENTATIONS",
    "SOURCES",
    "ArraySource",
    "Data",
    "DataConfig",
    "Pipeline",
    "Source",
    "UnreadableImage",
    "decode",
    "evaluation_data",
    "load",
    "load_split",
    "open_data",
    "photographs",
    "relabel",
    "sample",
    "spread",
]
