"""The 1,797 handwritten 8x8 digits bundled with scikit-learn.

scikit-learn takes a second to import, so its file is read without it. `digits_split.csv` has the
rows of the training images and of the held-out ones, a line each, as scikit-learn's
`train_test_split(range(1797), test_size=360, stratify=labels, random_state=0)` draws them.
"""

import importlib.util
from pathlib import Path

import numpy as np

from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.source import ArraySource, Source
from squeeze_jax.errors import UserError


def load(config: DataConfig) -> tuple[Source, Source]:
    """Returns the training images and 360 held-out ones, the same ones for every seed.

    Raises:
      UserError: `data_dir` is set, which names a user's own images.
    """
    if config.data_dir:
        raise UserError(
            f"digits come with scikit-learn, and data_dir is {config.data_dir}; for a folder of "
            "images take the preset folder: --config CONFIG.py:folder"
        )
    pixels, labels = read()
    images = np.rint(pixels * (255 / 16)).astype(np.uint8)
    images = np.repeat(images[..., None], 3, axis=-1)

    def split(name: str, line: str) -> Source:
        rows = np.array(line.split(","), np.int64)
        return ArraySource(f"digits/{name}", tuple("0123456789"), images[rows], labels[rows])

    train, held_out = Path(__file__).with_name("digits_split.csv").read_text().splitlines()
    return split("train", train), split("eval", held_out)


def read() -> tuple[np.ndarray, np.ndarray]:
    """Returns the images, float64 [1797, 8, 8] from 0 to 16, and the labels, int64 [1797]."""
    package = importlib.util.find_spec("sklearn")
    assert package and package.origin  # one of our requirements
    rows = np.loadtxt(
        Path(package.origin).with_name("datasets") / "data/digits.csv.gz", delimiter=","
    )
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


def load_split(config: DataConfig, split: str | None) -> Source:
    """Returns the split "train" or "test"; None takes test.

    Raises:
      UserError: another split.
    """
    splits = dict(zip(("train", "test"), load(config), strict=True))
    if split not in (None, *splits):
        raise UserError(f"digits has the splits train and test, not {split!r}")
    return splits[split or "test"]
