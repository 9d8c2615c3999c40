"""What a delta file takes from another network, its base.

Some tensors keep the base's weights, others are added to them. The base is its weights alone, one
tensor after another, so that a device needs no table of them.
"""

import math
import zlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from squeeze_jax.compress.sqz.quantized_tensor import QuantizedTensor, TensorSpec, find_codebook
from squeeze_jax.errors import UserError


class BaseWeights(NamedTuple):
    """The weights of a base, as a delta sees them."""

    weights: np.ndarray  # float32 [weights of all tensors]
    specs: Mapping[str, TensorSpec]  # by path, in order; all of the kind "kept"

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "BaseWeights":
        """Returns the weights of a network's arrays, which come by path, in order."""
        specs, size = {}, 0
        for path, array in arrays.items():
            specs[path] = TensorSpec(np.shape(array), "kept", base_offset=size)
            size += specs[path].size
        flat = [np.asarray(array, np.float32).reshape(-1) for array in arrays.values()]
        return cls(np.concatenate([np.zeros(0, np.float32), *flat]), specs)

    @property
    def crc(self) -> int:
        """The CRC-32 of the weights as little-endian float32, by which a delta knows its base."""
        return zlib.crc32(self.weights.astype("<f4").tobytes())

    def offset(self, path: str, shape: tuple[int, ...]) -> int | None:
        """Returns the offset of the tensor of this path and shape, or None if there is none."""
        spec = self.specs.get(path)
        return spec.base_offset if spec and spec.shape == shape else None

    def find(self, path: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Returns the tensor of this path and shape, or None if there is none."""
        return None if self.offset(path, shape) is None else self.values(self.specs[path])

    def values(self, spec: TensorSpec) -> np.ndarray:
        """Returns the base's weights at the offset of a spec, in its shape."""
        assert spec.base_offset is not None
        return self.weights[spec.base_offset : spec.base_offset + spec.size].reshape(spec.shape)


def add(before: np.ndarray, difference: QuantizedTensor) -> np.ndarray:
    """Returns float32 weights plus a difference.

    Each weight takes one float32 sum, so that every decoder gives the same. Where the level is 0
    the weight stays the same to the bit.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(difference.levels != 0, before + difference.values(), before)


def find_difference(before: np.ndarray, after: np.ndarray) -> QuantizedTensor | None:
    """Returns the difference that makes `after` of `before`, bit for bit.

    Args:
      before: float32 [...].
      after: float32, of the same shape.

    Returns:
      The difference; None if there is none, or one of too many values to be worth a codebook.
    """
    same = _view_bits(before) == _view_bits(after)
    with np.errstate(over="ignore", invalid="ignore"):
        found = find_codebook(np.where(same.reshape(after.shape), np.float32(0), after - before))
    return found if found and add(before, found).tobytes() == after.tobytes() else None


def _view_bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint32)


def make_entries(
    shapes: Mapping[str, tuple[int, ...]],
    specs: Mapping[str, TensorSpec],
    base: BaseWeights,
    added: Collection[str],
) -> dict[str, TensorSpec]:
    """Returns the entries of a file's tensor table.

    Successive tensors that keep the base's weights, and follow one another there too, share an
    entry: one axis, under the path of the first.

    Args:
      shapes: those of all arrays of the network, by path.
      specs: those of the arrays that are in the payload; the others keep the base's weights.
      base: the weights that are kept, or added to.
      added: paths of the arrays that are added to the base's.
    """
    table: dict[str, TensorSpec] = {}
    run, end = None, None  # the path under which weights are being kept, and where these end
    for path, shape in shapes.items():
        offset, size = base.offset(path, shape), math.prod(shape)
        if path in specs:
            table[path] = specs[path]._replace(base_offset=offset if path in added else None)
            run = None
            continue
        assert offset is not None, f"{path} is in neither the payload nor the base"
        if run is not None and end == offset:
            table[run] = table[run]._replace(shape=(table[run].size + size,))
        else:
            table[path], run = TensorSpec((size,), "kept", base_offset=offset), path
        end = offset + size
    return table


def resolve(
    shapes: Mapping[str, tuple[int, ...]], table: Mapping[str, TensorSpec], base: BaseWeights
) -> dict[str, TensorSpec]:
    """Undoes `make_entries`: returns a spec for every array, each checked against the base's.

    Raises:
      UserError: the table is not one of these arrays, or takes other weights from the base.
    """
    wrong = UserError("its tensors are not those of the network in its header")
    specs: dict[str, TensorSpec] = {}
    left, offset = 0, 0  # of the weights that are being kept: how many more, and where they are
    rest = iter(table.items())
    for path, shape in shapes.items():
        spec = None
        if not left:
            name, spec = next(rest, ("", None))
            if spec is None or name != path:
                raise wrong
            if spec.kind == "kept":
                left, offset = spec.size, spec.base_offset or 0
        if left:
            spec = TensorSpec(shape, "kept", base_offset=offset)
            left, offset = left - spec.size, offset + spec.size
        if spec is None or spec.shape != shape or left < 0:
            raise wrong
        if spec.base_offset is not None and spec.base_offset != base.offset(path, shape):
            raise UserError(f"it takes weights from its base that are not there: {path}")
        specs[path] = spec
    if left or next(rest, None):
        raise wrong
    return specs
