"""Random access to labelled images."""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from squeeze_jax.network.labels import match_labels
from squeeze_jax.network.preprocessing import Size

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
        """Returns how many classes there are."""
        return len(self.class_names)

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns how many examples there are."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises UserError where its image cannot be decoded."""

    def read(self, indices: Iterable[int]) -> list[Example]:
        """Reads several examples; a source that reads in bulk more cheaply overrides this."""
        return [self[index] for index in indices]

    def is_prepared(self) -> bool:
        """Returns whether its images need no check before they are streamed."""
        return True

    def check_resize(self, size: Size, mode: str, crops: bool = False) -> None:  # noqa: B027
        """Rejects a resize that the images cannot serve; originals serve any.

        Args:
          size: as `network.preprocessing.resize` takes it.
          mode: likewise.
          crops: whether random resized crops are taken of the images.

        Raises:
          UserError: the images were resized before, to something else.
        """

    def subset(self, indices: Sequence[int]) -> "Source":
        """Returns the source with some of its examples alone."""
        return Subset(self, indices)

    def without(self, indices: Iterable[int]) -> "Source":
        """Returns the source without some of its examples."""
        gone = set(indices)
        return self.subset([i for i in range(len(self)) if i not in gone])

    def fingerprint(self) -> str:
        """Returns a hash that tells one version of the data from another, without reading them."""
        return fingerprint([self.class_names, len(self)])


def fingerprint(content: Any) -> str:
    """Returns a hash of anything that JSON holds, as 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource(Source):
    """Images uint8 [N, H, W, 3] and labels [N] already in memory."""

    name: str
    class_names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return self.images[index], int(self.labels[index])


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSource(Source):
    """Records of array_record files, each of which `decode_record` makes an example of."""

    name: str
    class_names: tuple[str, ...]
    records: Any

    @abc.abstractmethod
    def decode_record(self, index: int, record: Any) -> Example:
        """Returns a record's example; raises UserError where its image cannot be decoded."""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        return self.decode_record(index, self.records[index])

    def read(self, indices: Iterable[int]) -> list[Example]:
        """Reads several examples, four times as fast as one after another."""
        indices = list(indices)
        records = self.records.__getitems__(indices)
        return [self.decode_record(*each) for each in zip(indices, records, strict=True)]


class Subset(Source):
    """Some of the examples of another source."""

    def __init__(self, source: Source, indices: Sequence[int]):
        """Takes the examples at `indices`."""
        self.name, self.class_names = source.name, source.class_names
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]

    def read(self, indices: Iterable[int]) -> list[Example]:
        """Reads several examples, as the source does."""
        return self._source.read([self._indices[index] for index in indices])

    def check_resize(self, size: Size, mode: str, crops: bool = False) -> None:
        """Rejects what the source rejects."""
        self._source.check_resize(size, mode, crops)


@dataclasses.dataclass(frozen=True, eq=False)
class Relabelled(Source):
    """Another source's images, with the labels of a network that numbers the classes otherwise."""

    source: Source
    class_names: tuple[str, ...]
    label_of: Sequence[int]  # the network's label by the source's
    name: str
    note: str = ""  # tells the user how classes were matched, if not by name

    def is_prepared(self) -> bool:
        """Returns whether the source's images need no check."""
        return self.source.is_prepared()

    def check_resize(self, size: Size, mode: str, crops: bool = False) -> None:
        """Rejects what the source rejects."""
        self.source.check_resize(size, mode, crops)

    def subset(self, indices: Sequence[int]) -> "Relabelled":
        """Returns the source with some of its examples alone."""
        return dataclasses.replace(self, source=self.source.subset(indices))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        image, label = self.source[index]
        return image, self.label_of[label]

    def read(self, indices: Iterable[int]) -> list[Example]:
        """Reads several examples, as the source does."""
        return [(image, self.label_of[label]) for image, label in self.source.read(indices)]


def relabel(
    source: Source,
    class_names: Sequence[str],
    has_class_names: bool = True,
    by_position: bool = False,
) -> Relabelled:
    """Returns `source` with the labels of a net whose outputs are `class_names`.

    Args:
      source: the data set.
      class_names: the net's.
      has_class_names: whether the net's classes have names; see `network.labels`.
      by_position: whether to match by position in any case.

    Raises:
      UserError: the classes do not match.
    """
    found = match_labels(source.name, source.class_names, class_names, has_class_names, by_position)
    return Relabelled(source, tuple(class_names), found.labels, source.name, found.note)
