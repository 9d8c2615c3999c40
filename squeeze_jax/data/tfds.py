"""A prepared TFDS data set, read without TensorFlow."""

import dataclasses
import io
from pathlib import Path
from typing import Any

from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.decode import decode, first_line
from squeeze_jax.data.source import Example, RecordSource, Source
from squeeze_jax.errors import UserError
from squeeze_jax.storage import as_path


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource(RecordSource):
    """A split of a TFDS data set; `records` yields {"image": encoded bytes, "label": int, ...}."""

    background: tuple[int, ...]

    def decode_record(self, index: int, record: dict[str, Any]) -> Example:
        """Returns a record's example."""
        if record["label"] < 0:
            raise UserError(f"{self.name} has no labels")
        name = f"{index} of {self.name}"
        image = decode(io.BytesIO(record["image"]), name, self.background)
        return image, int(record["label"])


def load(config: DataConfig) -> tuple[Source, ...]:
    """Returns the splits `config.train_split` and `config.eval_split`.

    Raises:
      UserError: the set is unknown, not prepared, or not for classification; or it has no such
        split.
    """
    builder = _prepared(config)
    return tuple(
        _split(builder, split, config) for split in (config.train_split, config.eval_split)
    )


def load_split(config: DataConfig, split: str | None) -> Source:
    """Returns one split; None takes test, validation, or the only one there is.

    Raises:
      UserError: as in `load`, or `split` must be given.
    """
    builder = _prepared(config)
    there = list(builder.info.splits)
    preferred = [name for name in ("test", "validation") if name in there] or there
    if split is None and len(preferred) > 1 and preferred == there:
        raise UserError(f"which split of {config.name}? It has {', '.join(there)}")
    return _split(builder, split or preferred[0], config)


def _prepared(config: DataConfig) -> Any:
    """Returns the TFDS builder of a prepared classification set."""
    # Imported here, since only this source needs it.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants, read_only_builder

    name, folder = config.name, as_path(config.data_dir or constants.DATA_DIR).expanduser()
    try:
        # From its files alone: tfds.builder would ask the network about a set that is not there.
        builder = read_only_builder.builder_from_files(name, data_dir=str(folder))
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        if name.split("/")[0].split(":")[0] in tfds.list_builders(with_community_datasets=False):
            raise UserError(
                f"data set {name} is not in {folder}; prepare it with: {_preparation(name, folder)}"
            ) from error
        raise UserError(
            f"unknown data set {name!r}: neither prepared in {folder} nor known to TFDS"
        ) from error
    dictionary: Any = builder.info.features  # its type depends on the data set
    features = dict(dictionary.items())
    if not isinstance(features.get("image"), tfds.features.Image) or not isinstance(
        features.get("label"), tfds.features.ClassLabel
    ):
        raise UserError(
            f"data set {name} is not for classification: it needs features 'image' and 'label', "
            f"and has {', '.join(features)}"
        )
    return builder


def _preparation(name: str, folder: Path) -> str:
    """Returns the command that prepares a TFDS data set."""
    command = (
        "pip install 'squeeze_jax[prepare]' && "
        f"tfds build {name} --file_format=array_record --data_dir={folder}"
    )
    if name.startswith("imagenet2012"):
        command += f" (put the ImageNet archives by hand into {folder}/downloads/manual first)"
    return command


def _split(builder: Any, which: str, config: DataConfig) -> Source:
    """Returns a split of a prepared data set."""
    import tensorflow_datasets as tfds

    name, folder, label = (
        builder.name,
        as_path(builder.data_dir).parents[1],
        builder.info.features["label"],
    )
    try:
        records = builder.as_data_source(
            split=which, decoders={"image": tfds.decode.SkipDecoding()}
        )
    except NotImplementedError as error:
        # Without --overwrite, tfds build keeps what is there, whatever its format.
        command = _preparation(name, folder)
        raise UserError(
            f"data set {name} in {folder} is not array_record; "
            f"prepare it with --overwrite added: {command}"
        ) from error
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(
            f"cannot open split {which!r} of {name} in {folder}: {first_line(error)}"
        ) from error
    return TfdsSource(
        f"{name}/{which}",
        tuple(label.int2str(number) for number in range(label.num_classes)),
        records,
        config.background,
    )
