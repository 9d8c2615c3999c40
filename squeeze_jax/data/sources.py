"""The places that labelled images come from."""

import dataclasses
from typing import Protocol

from squeeze_jax.data import digits, folder, tfds
from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.source import Source
from squeeze_jax.network.labels import check_class_names


class SourceModule(Protocol):
    """What a file in this package, or any object, must have to be an entry of SOURCES."""

    def load(self, config: DataConfig) -> tuple[Source, Source]:
        """Returns the training and the evaluation images that the config names."""
        ...

    def load_split(self, config: DataConfig, split: str | None) -> Source:
        """Returns one split alone, None being the one to evaluate on; reads name and data_dir."""
        ...


# By `config.data.name`; any other name is that of a TFDS data set.
SOURCES: dict[str, SourceModule] = {"digits": digits, "folder": folder}


def load(config: DataConfig) -> tuple[Source, Source]:
    """Returns the training and the evaluation images that a config names.

    Raises:
      UserError: the data are not there, not in the layout expected, or not prepared; or a class
        name is not UTF-8, or stands for two classes.
    """
    train, evaluation = SOURCES.get(config.name, tfds).load(config)
    return _checked(train), _checked(evaluation)


def load_split(name: str, data_dir: str, split: str | None) -> Source:
    """Returns one split alone, for evaluation or calibration.

    Args:
      name: of the source, as in a config.
      data_dir: as in a config.
      split: of a TFDS data set, or "train" or "test" of the digits; None takes test, validation or
        the only one there is. A folder has none: data_dir/<class>/<image> is taken whole.

    Raises:
      UserError: the data or the split are not there.
    """
    config = dataclasses.replace(DataConfig(), name=name, data_dir=data_dir)
    return _checked(SOURCES.get(name, tfds).load_split(config, split))


def _checked(source: Source) -> Source:
    """Returns the source; raises UserError where its class names are no names."""
    check_class_names(source.name, source.class_names)
    return source
