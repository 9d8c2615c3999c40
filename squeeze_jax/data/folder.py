"""A folder of images, one folder a class."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.decode import decode
from squeeze_jax.data.source import Example, Source
from squeeze_jax.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
LAYOUT = "expected data_dir/<class>/<image> or data_dir/{train,val}/<class>/<image>"


@dataclasses.dataclass(frozen=True, eq=False)
class FileSource(Source):
    """Image files and their labels; each read decodes the file."""

    name: str
    class_names: tuple[str, ...]
    paths: Sequence[Path]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return decode(self.paths[index], str(self.paths[index])), self.labels[index]


def load(config: DataConfig) -> tuple[Source, Source]:
    """Returns the training and the evaluation images of `config.data_dir`.

    The folders train and val (or test) are the splits where they hold class folders; otherwise the
    fraction `config.holdout` of each class is held out.

    Raises:
      UserError: there is no such folder, or its layout is another.
    """
    root = _existing(config.data_dir)
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
        train, evaluation = _hold_out(_class_files(root), config.holdout)
    if len(train) < 2:
        raise UserError(
            f"{root} has only one class, {next(iter(train))!r}; at least two are needed"
        )
    names = tuple(train)
    return _files(f"{root.name}/train", names, train), _files(
        f"{root.name}/eval", names, evaluation
    )


def load_split(config: DataConfig, split: str | None) -> Source:
    """Returns all images of data_dir/<class>/<image>, for evaluation; a folder has no splits."""
    del split
    files = _class_files(_existing(config.data_dir))
    return _files(Path(config.data_dir).name, tuple(files), files)


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
    """Returns the image files by class name, both sorted by name."""
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
            f"class folder {root / empty[0]} holds no image "
            f"({', '.join(sorted(SUFFIXES))}); {LAYOUT}"
        )
    return files


def _hold_out(
    files: dict[str, list[Path]], fraction: float
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Returns (train, held out) of each class: always the same, at least one image in either."""
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


def _files(name: str, class_names: tuple[str, ...], files: dict[str, list[Path]]) -> FileSource:
    pairs = [
        (path, label)
        for label, class_name in enumerate(class_names)
        for path in files.get(class_name, ())
    ]
    return FileSource(name, class_names, *zip(*pairs, strict=True))
