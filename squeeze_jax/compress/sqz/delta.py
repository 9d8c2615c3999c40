"""What a .sqz file takes from another net, its base: weights that stay as they are, and weights that levels are added to.

A base is its weights alone, one tensor after the other, so that a device needs no table of them.
"""

import math
import zlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from squeeze_jax.compress.sqz.quantized_tensor import QuantizedTensor, TensorSpec, find_codebook
from squeeze_jax.errors import UserError


class Base(NamedTuple):
    """The weights of a net, as its updates see them."""

    weights: np.ndarray  # float32 [weights of all tensors]
    outlines: Mapping[str, TensorSpec]  # by path, in order: where the tensors lie, as "kept" ones

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Base":
        """From all arrays of a net, by path, in order."""
        outlines, size = {}, 0
        for path, array in arrays.items():
            outlines[path] = TensorSpec(np.shape(array), "kept", base=size)
            size += outlines[path].size
        flat = [np.asarray(array, np.float32).reshape(-1) for array in arrays.values()]
        return cls(np.concatenate([np.zeros(0, np.float32), *flat]), outlines)

    @property
    def crc(self) -> int:
        """The CRC-32 of the weights as float32, little-endian: what an update knows its base by."""
        return zlib.crc32(self.weights.astype("<f4").tobytes())

    def place(self, path: str, shape: tuple[int, ...]) -> int | None:
        """Where the tensor of this path begins; None if there is none, or one of another shape."""
        item = self.outlines.get(path)
        return item.base if item and item.shape == shape else None

    def values(self, item: TensorSpec) -> np.ndarray:
        """The weights that an outline takes from the base, in its shape."""
        return self.weights[item.base : item.base + item.size].reshape(item.shape)


def added(before: np.ndarray, difference: QuantizedTensor) -> np.ndarray:
    """Weights plus a difference: one float32 sum each, so that every decoder gives the same; at level 0 they stay, bit for bit."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(difference.levels != 0, before + difference.values(), before)


def find_difference(before: np.ndarray, after: np.ndarray) -> QuantizedTensor | None:
    """The levels that make `after` of `before`, bit for bit; None where there are none, or of too many values to pay.

    Args:
      before: float32 [...].
      after: of the same shape.
    """
    same = np.ascontiguousarray(before).reshape(-1).view(np.uint32) == np.ascontiguousarray(
        after
    ).reshape(-1).view(np.uint32)
    with np.errstate(over="ignore", invalid="ignore"):
        found = find_codebook(np.where(same.reshape(after.shape), np.float32(0), after - before))
    return found if found and added(before, found).tobytes() == after.tobytes() else None


def entries(
    shapes: Mapping[str, tuple[int, ...]],
    outlines: Mapping[str, TensorSpec],
    base: Base,
    sums: Collection[str],
) -> dict[str, TensorSpec]:
    """What the table of an update has.

    Args:
      shapes: of all arrays of the net, by path.
      outlines: of those that have numbers in the file; the others are kept.
      base: has the others, and `sums`.
      sums: paths of those that are added to the base.
    """
    table: dict[str, TensorSpec] = {}
    run = None  # the path under which weights are being kept
    for path, shape in shapes.items():
        place = base.place(path, shape)
        if path in outlines:
            table[path], run = outlines[path]._replace(base=place if path in sums else None), None
        elif run and table[run].base + table[run].size == place:
            table[run] = table[run]._replace(shape=(table[run].size + math.prod(shape),))
        else:
            table[path], run = TensorSpec((math.prod(shape),), "kept", base=place), path
    return table


def laid_out(
    shapes: Mapping[str, tuple[int, ...]], table: Mapping[str, TensorSpec], base: Base
) -> dict[str, TensorSpec]:
    """The other way: an outline for every array of the net, each checked against the base's.

    Raises:
      UserError: the table is not of these arrays, or takes others from the base.
    """
    wrong = UserError("its tensors are not those of the net in its record")
    outlines: dict[str, TensorSpec] = {}
    left, place = 0, 0  # of weights that are being kept: how many more, and where they lie
    rest = iter(table.items())
    for path, shape in shapes.items():
        if not left:
            name, item = next(rest, ("", None))
            if name != path:
                raise wrong
            if item.kind == "kept":
                left, place = item.size, item.base
        if left:
            item = TensorSpec(shape, "kept", base=place)
            left, place = left - item.size, place + item.size
        if item.shape != shape or left < 0:
            raise wrong
        if item.base is not None and item.base != base.place(path, shape):
            raise UserError(f"it takes from its base what is not there: {path}")
        outlines[path] = item
    if left or next(rest, None):
        raise wrong
    return outlines
