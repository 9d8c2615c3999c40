"""Looks at every image of a folder: which are unreadable, how large they are, which are equal."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from squeeze_jax.data import unreadable
from squeeze_jax.data.config import DataConfig
from squeeze_jax.data.decode import UnreadableImage
from squeeze_jax.data.folder import FileSource, ImageFolder, source_of
from squeeze_jax.data.source import Example
from squeeze_jax.errors import UserError


@dataclass(frozen=True)
class Survey:
    """What decoding every image of a folder showed.

    Attributes:
      sizes: (width, height) of each image that can be read, upright.
      unreadable: the others.
      lost: what keeps training from going on without them; "": nothing.
      across_splits: groups of equal files that lie in more than one split.
      across_classes: groups of equal files that lie in more than one class.
    """

    sizes: Sequence[tuple[int, int]]
    unreadable: Sequence[UnreadableImage]
    lost: str
    across_splits: Sequence[Sequence[Path]]
    across_classes: Sequence[Sequence[Path]]


def survey(folder: ImageFolder, splits: Mapping[str, Mapping[str, Sequence[Path]]]) -> Survey:
    """Reads every image of a folder.

    Args:
      folder: the folder.
      splits: split -> class name -> images, the training set first.
    """
    sizes: list[tuple[int, int]] = []
    sources: list[FileSource] = []
    failures: list[dict[int, UnreadableImage]] = []
    equal: dict[str, list[tuple[str, int, Path]]] = {}
    for split, classes in splits.items():
        source = source_of(folder, split, classes, DataConfig())

        def use(index: int, example: Example) -> None:
            height, width, _ = example[0].shape
            sizes.append((width, height))

        sources.append(source)
        failures.append(unreadable.read_all(source, use))
        for path, label in zip(source.paths, source.labels, strict=True):
            equal.setdefault(_digest(path), []).append((split, label, path))

    def groups(part: int) -> list[list[Path]]:
        return [
            [path for *_, path in files]
            for files in equal.values()
            if len({file[part] for file in files}) > 1
        ]

    lost = ""
    try:
        unreadable.reject_lost(sources, failures)
    except UserError as e:
        lost = str(e)
    found = [failure for each in failures for failure in each.values()]
    return Survey(sizes, found, lost, groups(0), groups(1))


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return str(path)  # it cannot be read, and equals no other
