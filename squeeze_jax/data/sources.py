"""Random access to labelled images: the bundled digits, a folder of class folders, or a prepared TFDS data set."""

import abc
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import ml_collections
import numpy as np
from PIL import Image, ImageOps

from squeeze_jax.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
LAYOUT = "expected data_dir/<class>/<image> or data_dir/{train,val}/<class>/<image>"

Example = tuple[np.ndarray, int]


class Source(abc.ABC):
    """A sequence of (image uint8 [H, W, 3] RGB, label); safe to read from several threads.

    Attributes:
        name: what error messages and progress bars call it.
        class_names: the label's meaning, by label.
    """

    name: str
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises UserError when its image cannot be decoded."""

    def read(self, indices: Iterable[int]) -> list[Example]:
        """Reads several examples; a source that reads in bulk more cheaply overrides this."""
        return [self[index] for index in indices]


def load(config: ml_collections.ConfigDict) -> tuple[Source, Source]:
    """Opens the training and the evaluation images that `config.data` names.

    Args:
        config: `name` ("digits", "folder" or a TFDS name), `data_dir`; for a folder `holdout`; for TFDS `train_split`, `eval_split`.

    Raises:
        UserError: the data are not there, not in the layout expected, or not prepared.
    """
    if config.name == "digits":
        return _digits()
    if config.name == "folder":
        return _folder(config.data_dir, config.holdout)
    return _tfds(config.name, config.data_dir, config.train_split, config.eval_split)


def load_split(name: str, data_dir: str, split: str | None) -> Source:
    """Opens one split alone, for evaluation or calibration.

    Args:
        name, data_dir: as in `load`'s config.
        split: of a TFDS data set, or "train" or "test" of the digits; None takes test, validation or the only one there is. A folder
            has none: data_dir/<class>/<image> is taken whole.

    Raises:
        UserError: the data or the split are not there.
    """
    if name == "digits":
        splits = dict(zip(("train", "test"), _digits()))
        if split not in (None, *splits):
            raise UserError(f"digits has the splits train and test, not {split!r}")
        return splits[split or "test"]
    if name == "folder":
        files = _class_files(_existing(data_dir))
        return _files(Path(data_dir).name, tuple(files), files)
    opened = _prepared(name, data_dir)
    there = list(opened.info.splits)
    preferred = [one for one in ("test", "validation") if one in there] or there
    if split is None and len(preferred) > 1 and preferred == there:
        raise UserError(f"which split of {name}? It has {', '.join(there)}")
    return _split(opened, split or preferred[0])


def decode(file: BinaryIO | Path, name: str) -> np.ndarray:
    """Decodes an image upright (EXIF orientation honoured) to uint8 [H, W, 3] RGB.

    Raises:
        UserError: naming `name`; the image is corrupt, larger than Pillow's limit against decompression bombs, or not 8-bit.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip them at 255 without a word
                raise UserError(
                    f"cannot read image {name}: only 8-bit channels are supported, not Pillow's mode {image.mode}"
                )
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(image.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # a corrupt file makes Pillow's plugins raise nearly anything
        raise UserError(f"cannot read image {name}: {_first_line(error)}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class Relabelled(Source):
    """Another source's images with the labels of a net that knows its classes under other numbers."""

    source: Source
    class_names: tuple[str, ...]
    label_of: Sequence[int]  # the net's label by the source's

    @property
    def name(self) -> str:
        return self.source.name

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        image, label = self.source[index]
        return image, self.label_of[label]

    def read(self, indices: Iterable[int]) -> list[Example]:
        return [(image, self.label_of[label]) for image, label in self.source.read(indices)]


def relabel(source: Source, class_names: Sequence[str]) -> Source:
    """`source` with the labels of a net whose outputs are `class_names`.

    Classes are matched by name where every one of the source's is among the net's ("n01440764" and "tench" are both
    "n01440764 tench"), and by number where there are equally many.

    Raises:
        UserError: neither holds.
    """
    known: dict[str, int] = {}
    for label, name in enumerate(class_names):
        for alias in (name, *name.split(" ", 1)):
            known.setdefault(alias, label)
    if all(name in known for name in source.class_names):
        return Relabelled(source, tuple(class_names), [known[name] for name in source.class_names])
    if source.num_classes == len(class_names):
        return Relabelled(source, tuple(class_names), range(source.num_classes))
    unknown = [name for name in source.class_names if name not in known]
    raise UserError(
        f"{source.name} has {source.num_classes} classes and the net {len(class_names)}; "
        f"{len(unknown)} of them are not the net's, such as {unknown[0]!r}"
    )


def photographs() -> list[np.ndarray]:
    """The two photographs bundled with scikit-learn, uint8 RGB [427, 640, 3]: real images where nobody gave any."""
    import sklearn.datasets

    return list(sklearn.datasets.load_sample_images().images)


# ---------------------------------------------------------------- digits


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(Source):
    """Images uint8 [N, H, W, 3] and labels [N] already in memory."""

    name: str
    class_names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return self.images[index], int(self.labels[index])


def _digits() -> tuple[Source, Source]:
    """The 1,797 8x8 digits bundled with scikit-learn; 360 held out, the same ones whatever the training seed."""
    import sklearn.datasets  # here, because it takes seconds to import and only this source needs it
    import sklearn.model_selection

    digits = sklearn.datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(images[..., None], 3, axis=-1)
    train, held_out = sklearn.model_selection.train_test_split(
        np.arange(len(images)), test_size=360, stratify=digits.target, random_state=0
    )
    names = tuple(str(name) for name in digits.target_names)

    def split(name: str, rows: np.ndarray) -> Source:
        return Arrays(f"digits/{name}", names, images[rows], digits.target[rows])

    return split("train", train), split("eval", held_out)


# ---------------------------------------------------------------- image folders


@dataclasses.dataclass(frozen=True, eq=False)
class Files(Source):
    """Image files and their labels; a file is decoded each time it is read."""

    name: str
    class_names: tuple[str, ...]
    paths: Sequence[Path]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return decode(self.paths[index], str(self.paths[index])), self.labels[index]


def _folder(data_dir: str, holdout: float) -> tuple[Source, Source]:
    root = _existing(data_dir)
    splits = {folder.name: folder for folder in _subfolders(root) if _subfolders(folder)}
    held_out = splits.get("val") or splits.get("test")
    if "train" in splits and held_out:
        train = _class_files(splits["train"])
        evaluation = _class_files(held_out)
        if unknown := sorted(evaluation.keys() - train.keys()):
            raise UserError(
                f"{held_out} has a class that {splits['train']} lacks: {', '.join(unknown)}"
            )
    else:
        train, evaluation = _hold_out(_class_files(root), holdout)
    if len(train) < 2:
        raise UserError(
            f"{root} has only one class, {next(iter(train))!r}; at least two are needed"
        )
    names = tuple(train)
    return _files(f"{root.name}/train", names, train), _files(
        f"{root.name}/eval", names, evaluation
    )


def _existing(data_dir: str) -> Path:
    root = Path(data_dir).expanduser()
    if not data_dir or not root.is_dir():
        raise UserError(f"no such image folder: data_dir={data_dir!r}")
    return root


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _class_files(root: Path) -> dict[str, list[Path]]:
    """Class name -> its image files, both sorted by name."""
    files = {
        folder.name: sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        for folder in _subfolders(root)
    }
    if not files:
        raise UserError(f"no class folders in {root}; {LAYOUT}")
    if empty := [name for name, paths in files.items() if not paths]:
        raise UserError(
            f"class folder {root / empty[0]} holds no image ({', '.join(sorted(SUFFIXES))}); {LAYOUT}"
        )
    return files


def _hold_out(
    files: dict[str, list[Path]], fraction: float
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Splits every class into (train, held out), the same way each time, with at least one image on either side."""
    if not 0 < fraction < 1:
        raise UserError(f"data.holdout must lie between 0 and 1, not {fraction}")
    train, held_out = {}, {}
    for name, paths in files.items():
        if len(paths) < 2:
            raise UserError(
                f"class folder {paths[0].parent} holds one image; two are needed to hold one out"
            )
        count = min(max(round(fraction * len(paths)), 1), len(paths) - 1)
        chosen = frozenset(np.random.default_rng(0).permutation(len(paths))[:count].tolist())
        train[name] = [path for i, path in enumerate(paths) if i not in chosen]
        held_out[name] = [path for i, path in enumerate(paths) if i in chosen]
    return train, held_out


def _files(name: str, class_names: tuple[str, ...], files: dict[str, list[Path]]) -> Files:
    pairs = [
        (path, label)
        for label, class_name in enumerate(class_names)
        for path in files.get(class_name, ())
    ]
    return Files(name, class_names, *zip(*pairs, strict=True))


# ---------------------------------------------------------------- TFDS


@dataclasses.dataclass(frozen=True, eq=False)
class Records(Source):
    """A split of a TFDS data set; `records` yields {"image": encoded bytes, "label": int, ...}."""

    name: str
    class_names: tuple[str, ...]
    records: Any

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        return self._decode(index, self.records[index])

    def read(self, indices: Iterable[int]) -> list[Example]:
        indices = list(indices)  # array_record reads a list four times as fast as one by one
        return [
            self._decode(index, record)
            for index, record in zip(indices, self.records.__getitems__(indices), strict=True)
        ]

    def _decode(self, index: int, record: dict[str, Any]) -> Example:
        if record["label"] < 0:
            raise UserError(f"{self.name} has no labels")
        return decode(io.BytesIO(record["image"]), f"{index} of {self.name}"), int(record["label"])


def _tfds(name: str, data_dir: str, train_split: str, eval_split: str) -> tuple[Source, Source]:
    builder = _prepared(name, data_dir)
    return _split(builder, train_split), _split(builder, eval_split)


def _prepared(name: str, data_dir: str) -> Any:
    """The TFDS builder of a prepared classification set."""
    import tensorflow_datasets as tfds  # here, because only this source needs it
    from tensorflow_datasets.core import read_only_builder

    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    try:
        # From its files alone, not through tfds.builder: that asks the network about a data set that is not there.
        builder = read_only_builder.builder_from_files(name, data_dir=str(folder))
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        if name.split("/")[0].split(":")[0] in tfds.list_builders(with_community_datasets=False):
            raise UserError(
                f"data set {name} is not in {folder}; prepare it with: {_preparation(name, folder)}"
            ) from error
        raise UserError(
            f"unknown data set {name!r}: not digits, folder, prepared in {folder}, or known to TFDS"
        ) from error
    features = dict(builder.info.features.items())
    if not isinstance(features.get("image"), tfds.features.Image) or not isinstance(
        features.get("label"), tfds.features.ClassLabel
    ):
        raise UserError(
            f"data set {name} is not for classification: it needs features 'image' and 'label', and has {', '.join(features)}"
        )
    return builder


def _preparation(name: str, folder: Path) -> str:
    """The command that prepares a TFDS data set."""
    command = f"pip install -e '.[prepare]' && tfds build {name} --file_format=array_record --data_dir={folder}"
    if name.startswith("imagenet2012"):
        command += f" (put the ImageNet archives by hand into {folder}/downloads/manual first)"
    return command


def _split(builder: Any, which: str) -> Source:
    import tensorflow_datasets as tfds

    name, folder, label = (
        builder.name,
        Path(builder.data_dir).parents[1],
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
            f"data set {name} in {folder} is not array_record; prepare it with --overwrite added: {command}"
        ) from error
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(
            f"cannot open split {which!r} of {name} in {folder}: {_first_line(error)}"
        ) from error
    return Records(
        f"{name}/{which}",
        tuple(label.int2str(number) for number in range(label.num_classes)),
        records,
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
