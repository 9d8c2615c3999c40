"""Labelled images, from wherever they lie to the float32 batch inside a compiled training step.

    sources.load(config)        random access to (uint8 RGB image, label): digits, a folder of images, or a TFDS data set
      -> transforms.resize      on the host, once when in memory or per read when streamed: every image becomes [R, R, 3]
      -> Pipeline.batches       what a step needs from the host: indices into the resident images, or the images themselves
      -> Pipeline.fetch         inside the compiled step: gather, normalise, pad, crop, mirror

Whether images live in memory or are streamed changes speed only: both give the same examples, in the same order, with the
same augmentation, and all of it is a pure function of (seed, step).
"""

from squeeze_jax.data.pipeline import Data, Pipeline, evaluation_data, open_data, sample
from squeeze_jax.data.sources import Source, load, load_split, relabel

__all__ = [
    "Data",
    "Pipeline",
    "Source",
    "evaluation_data",
    "load",
    "load_split",
    "open_data",
    "relabel",
    "sample",
]
