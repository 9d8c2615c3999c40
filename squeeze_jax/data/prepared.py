"""A prepared set: the resized images of another source as JPEG, and what was done to them.

    FOLDER/preparation.json               the source, the resize, the classes, and every shard
    FOLDER/train-00000-of-00016           array_record; a record is the label and a JPEG
    FOLDER/eval-…, perhaps FOLDER/test-…

`data/prepare.py` writes it.
"""

import dataclasses
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeeze_jax.config_parsing import parse_section
from squeeze_jax.data.config import DataConfig, Size
from squeeze_jax.data.decode import decode_plain_jpeg
from squeeze_jax.data.source import Example, RecordSource, Source, fingerprint
from squeeze_jax.errors import UserError
from squeeze_jax.network.preprocessing import fits_inside, height_width
from squeeze_jax.storage import as_path, is_remote

PREPARATION_FILE = "preparation.json"
UNCROPPED = "uncropped"  # serves random resized crops and either resize_mode
FORMAT = 1  # of the record and of the shards; another one is refused
LABEL = struct.Struct("<i")  # what a record begins with


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is done to every image.

    Attributes:
      resize: pixels of a square, or height and width; one number with UNCROPPED.
      resize_mode: "squash" or "short", both to that size, or UNCROPPED, the short side of images
        that are larger.
      background: RGB, under transparent pixels.
      quality: of JPEG.
      subsampling: of the JPEG's colours.
    """

    resize: Size
    resize_mode: str
    background: tuple[int, ...]
    quality: int
    subsampling: str = "4:4:4"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of a split.

    Attributes:
      images: how many it holds.
      bytes: its size.
      sha256: of its content.
      skipped: images that could not be read: index in the source's split, name and reason.
    """

    images: int
    bytes: int
    sha256: str
    skipped: tuple[tuple[int, str, str], ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Shard":
        """Returns the shard that `dataclasses.asdict` made `content` of."""
        return cls(**{**content, "skipped": tuple(map(tuple, content["skipped"]))})


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What preparation.json says.

    Attributes:
      name: of the source.
      fingerprint: split -> the source's; see `Source.fingerprint`.
      settings: what is done to every image.
      class_names: by label.
      images: split -> how many the source has.
      shards: split -> its files, in order; {} until all of them are written.
    """

    name: str
    fingerprint: Mapping[str, str]
    settings: Settings
    class_names: tuple[str, ...]
    images: Mapping[str, int]
    shards: Mapping[str, Sequence[Shard]]

    def to_json(self) -> str:
        """Returns the content of preparation.json."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n"


def check_on_disk(folder: Path) -> None:
    """Rejects, with a UserError, a folder in object storage: shards are read where they lie."""
    if is_remote(folder):
        raise UserError(f"prepared data lie on a disk; name a folder there, not {folder}")


def read_preparation(folder: Path) -> Preparation:
    """Reads preparation.json.

    Raises:
      UserError: it is not there, or holds something else; or the folder is not on a disk.
    """
    check_on_disk(folder)
    path = folder / PREPARATION_FILE
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT:
            raise UserError(f"{path} is of another version of squeeze_jax; prepare the set again")
        return Preparation(
            content["name"],
            content["fingerprint"],
            parse_section(Settings, content["settings"], PREPARATION_FILE),
            tuple(content["class_names"]),
            content["images"],
            {
                split: [Shard.from_json(shard) for shard in shards]
                for split, shards in content["shards"].items()
            },
        )
    except (FileNotFoundError, NotADirectoryError) as e:
        raise UserError(
            f"no prepared data in {folder}: data_dir is a folder that `squeeze-jax prepare` wrote"
        ) from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path} is damaged; prepare the set again in another folder") from e


def shard_path(folder: Path, split: str, number: int, count: int) -> Path:
    """Returns where a shard is."""
    return folder / f"{split}-{number:05}-of-{count:05}"


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedSource(RecordSource):
    """A split of a prepared set; `records` yields a label and a JPEG as bytes."""

    folder: Path
    preparation: Preparation
    split: str

    def decode_record(self, index: int, record: bytes) -> Example:
        """Returns a record's example."""
        image = decode_plain_jpeg(memoryview(record)[LABEL.size :], f"{index} of {self.name}")
        return image, LABEL.unpack_from(record)[0]

    def check_resize(self, size: Size, mode: str, crops: bool = False) -> None:
        """Rejects a resize, or random crops, of which the stored images cannot give the pixels.

        Raises:
          UserError: they are smaller, or squashed or cropped otherwise.
        """
        stored = self.preparation.settings
        if not fits_inside(size, stored.resize):
            raise UserError(
                f"{self.folder} was prepared with resize={stored.resize}, too small for "
                f"data.resize={size}; lower it, or prepare the set again with --set resize={size}"
            )
        (height, width), (old_height, old_width) = map(height_width, (size, stored.resize))
        if mode == stored.resize_mode == "short" and height * old_width != width * old_height:
            raise UserError(
                f"{self.folder} was prepared with resize={stored.resize} and resize_mode=short, "
                f"which cut the images to other proportions than data.resize={size}; prepare the "
                "set again with --uncropped"
            )
        if stored.resize_mode != UNCROPPED and (mode != stored.resize_mode or crops):
            needs = "random_resized_crop" if crops else f"data.resize_mode={mode}"
            raise UserError(
                f"{self.folder} was prepared with resize_mode={stored.resize_mode}, and {needs} "
                "needs whole images; prepare the set again with --uncropped"
            )

    def fingerprint(self) -> str:
        """Returns a hash of the images' checksums."""
        shards = self.preparation.shards[self.split]
        return fingerprint([self.class_names, [shard.sha256 for shard in shards]])


@dataclasses.dataclass(frozen=True)
class _FileInstruction:
    """Tells array_record how long a shard is, which it would open the file for."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def load(config: DataConfig) -> tuple[Source, ...]:
    """Returns the training and the evaluation images, and a test set where the source had one.

    Raises:
      UserError: the set is not there, not complete, or prepared with another background.
    """
    folder, preparation = _open(config)
    return tuple(_split(folder, preparation, split) for split in preparation.shards)


def load_split(config: DataConfig, split: str | None) -> Source:
    """Returns the split train, eval or test; None takes test, or else eval.

    Raises:
      UserError: there is no such split; see also `load`.
    """
    folder, preparation = _open(config)
    there = list(preparation.shards)
    if split not in (None, *there):
        raise UserError(f"{folder} has no split {split!r}; it has {', '.join(there)}")
    return _split(folder, preparation, split or there[-1])


def _open(config: DataConfig) -> tuple[Path, Preparation]:
    folder = as_path(config.data_dir).expanduser()
    preparation = read_preparation(folder)
    if not preparation.shards:
        raise UserError(
            f"the preparation in {folder} did not end; run squeeze-jax prepare again to continue"
        )
    if (stored := preparation.settings.background) != tuple(config.background):
        raise UserError(
            f"{folder} was prepared with background={stored}, not {tuple(config.background)}; "
            "prepare the set again"
        )
    return folder, preparation


def _split(folder: Path, preparation: Preparation, split: str) -> PreparedSource:
    # Imported here, since it takes long and only this source needs it.
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    shards = preparation.shards[split]
    files = []
    for number, shard in enumerate(shards):
        path = shard_path(folder, split, number, len(shards))
        if not path.is_file() or path.stat().st_size != shard.bytes:
            state = "cut short" if path.is_file() else "missing"
            raise UserError(
                f"{path} is {state}; run the same squeeze-jax prepare again to write it anew"
            )
        if shard.images:
            files.append(_FileInstruction(str(path), 0, shard.images, shard.images))
    return PreparedSource(
        f"{preparation.name}/{split}",
        preparation.class_names,
        ArrayRecordDataSource(files),
        folder,
        preparation,
        split,
    )
