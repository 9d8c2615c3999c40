"""Random access to labelled images."""

import abc
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from squeeze_jax.errors import UserError

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
class Relabelled(Source):
    """Another source's images, with the labels of a network that numbers the classes otherwise."""

    source: Source
    class_names: tuple[str, ...]
    label_of: Sequence[int]  # the network's label by the source's
    name: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        image, label = self.source[index]
        return image, self.label_of[label]

    def read(self, indices: Iterable[int]) -> list[Example]:
        """Reads several examples, as the source does."""
        return [(image, self.label_of[label]) for image, label in self.source.read(indices)]


def relabel(source: Source, class_names: Sequence[str]) -> Source:
    """Returns `source` with the labels of a net whose outputs are `class_names`.

    Classes are matched by name where each of the source's is one of the net's ("n01440764" and
    "tench" are both "n01440764 tench"), and by number where there are equally many.

    Raises:
      UserError: neither holds.
    """
    known: dict[str, int] = {}
    for label, name in enumerate(class_names):
        for alias in (name, *name.split(" ", 1)):
            known.setdefault(alias, label)
    if all(name in known for name in source.class_names):
        label_of = [known[name] for name in source.class_names]
        return Relabelled(source, tuple(class_names), label_of, source.name)
    if source.num_classes == len(class_names):
        return Relabelled(source, tuple(class_names), range(source.num_classes), source.name)
    unknown = [name for name in source.class_names if name not in known]
    raise UserError(
        f"{source.name} has {source.num_classes} classes and the network {len(class_names)}; "
        f"{len(unknown)} of them are not the network's, such as {unknown[0]!r}"
    )
