"""The 1,797 handwritten 8x8 digits bundled with scikit-learn."""

from typing import Any

import numpy as np

from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.source import ArraySource, Source
from squeeze_jax.errors import UserError


def load(config: DataConfig) -> tuple[Source, Source]:
    """Returns the training images and 360 held-out ones, the same ones for every seed."""
    del config
    # Imported here, since it takes seconds and only this source needs it.
    import sklearn.datasets
    import sklearn.model_selection

    digits: Any = sklearn.datasets.load_digits()  # its type depends on an argument
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(images[..., None], 3, axis=-1)
    train, held_out = sklearn.model_selection.train_test_split(
        np.arange(len(images)), test_size=360, stratify=digits.target, random_state=0
    )
    names = tuple(str(name) for name in digits.target_names)

    def split(name: str, rows: Any) -> Source:
        return ArraySource(f"digits/{name}", names, images[rows], digits.target[rows])

    return split("train", train), split("eval", held_out)


def load_split(config: DataConfig, split: str | None) -> Source:
    """Returns the split "train" or "test"; None takes test.

    Raises:
      UserError: another split.
    """
    splits = dict(zip(("train", "test"), load(config), strict=True))
    if split not in (None, *splits):
        raise UserError(f"digits has the splits train and test, not {split!r}")
    return splits[split or "test"]
