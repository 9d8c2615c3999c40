"""The places that labelled images come from."""

from typing import Protocol

from squeeze_jax.data import digits, folder, prepared, tfds
from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.decode import WHITE
from squeeze_jax.data.source import Source
from squeeze_jax.network.labels import check_class_names


class SourceModule(Protocol):
    """What a file in this package, or any object, must have to be an entry of SOURCES."""

    def load(self, config: DataConfig) -> tuple[Source, ...]:
        """Returns the training and the evaluation images, and a test set where there is one."""
        ...

    def load_split(self, config: DataConfig, split: str | None) -> Source:
        """Returns one split alone, None being the one to evaluate on.

        Reads name, data_dir and background.
        """
        ...


# By `config.data.name`; any other name is that of a TFDS data set.
SOURCES: dict[str, SourceModule] = {
    "digits": digits,
    "folder": folder,
    "prepared": prepared,
}


def load(config: DataConfig) -> tuple[Source, ...]:
    """Returns the training and the evaluation images that a config names.

    A folder of three splits also has a test set, whose accuracy is reported apart.

    Raises:
      UserError: the data are not there, not in the layout expected, or not prepared; or a class
        name is not UTF-8, or stands for two classes.
    """
    return tuple(map(_checked, SOURCES.get(config.name, tfds).load(config)))


def load_split(
    name: str, data_dir: str, split: str | None, background: tuple[int, ...] = WHITE
) -> Source:
    """Returns one split alone, for evaluation or calibration.

    Args:
      name: of the source, as in a config.
      data_dir: as in a config.
      split: of a TFDS data set, "train" or "test" of the digits, "train", "val" or "test" of a
        folder, or "train", "eval" or "test" of a prepared set; None takes test, validation or the
        only one there is. A folder without splits is
        taken whole.
      background: RGB, under transparent pixels.

    Raises:
      UserError: the data or the split are not there.
    """
    config = DataConfig(name=name, data_dir=data_dir, background=background)
    return _checked(SOURCES.get(name, tfds).load_split(config, split))


def _checked(source: Source) -> Source:
    """Returns the source; raises UserError where its class names are no names."""
    check_class_names(source.name, source.class_names)
    return source
