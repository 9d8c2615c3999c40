"""Relates a delta file to its base, the network whose weights it needs.

Some tensors keep the base's weights, others are added to them. The base is an array of weights, one
tensor after another, so that a device needs no table of its tensors.
"""

import math
import zlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from squeeze_jax.compress.sqz.quantized_tensor import QuantizedTensor, TensorSpec, find_codebook
from squeeze_jax.errors import UserError


class BaseWeights(NamedTuple):
    """Holds the weights of a base.

    Attributes:
      weights: the weights of all tensors, float32 [weights].
      specs: the tensors by path, in order, all of the kind "kept".
    """

    weights: np.ndarray
    specs: Mapping[str, TensorSpec]

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "BaseWeights":
        """Returns the weights of a network's arrays, given by path in order."""
        specs, size = {}, 0
        for path, array in arrays.items():
            specs[path] = TensorSpec(np.shape(array), "kept", base_offset=size)
            size += specs[path].size
        flat = [np.asarray(array, np.float32).reshape(-1) for array in arrays.values()]
        return cls(np.concatenate([np.zeros(0, np.float32), *flat]), specs)

    @property
    def crc(self) -> int:
        """Returns the CRC-32 of the weights as little-endian float32, which identifies the base."""
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
    """Returns weights plus a difference, float32.

    Each weight is one float32 sum, so that all decoders give the same. Where the level is 0 the
    weight keeps its bits.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(difference.levels != 0, before + difference.values(), before)


def find_difference(before: np.ndarray, after: np.ndarray) -> QuantizedTensor | None:
    """Returns the difference that turns `before` into `after`, bit for bit.

    Args:
      before: float32 [...].
      after: float32 [...], of the same shape.

    Returns:
      The difference; None if no sum is exact, or if a codebook of its values would be too large.
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

    Tensors that keep the base's weights, and follow one another in both networks, are one entry: a
    single axis, under the path of the first.

    Args:
      shapes: shapes of all arrays of the network, by path.
      specs: specs of the arrays in the payload; the others keep the base's weights.
      base: the base's weights.
      added: paths of the arrays that are added to the base's.
    """
    table: dict[str, TensorSpec] = {}
    run, end = None, None  # path of the current entry of kept weights, and where these end
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
    """Returns the spec of every array, checked against the base; undoes `make_entries`.

    Args:
      shapes: shapes of all arrays of the network, by path.
      table: the tensor table.
      base: the base's weights.

    Raises:
      UserError: the table does not describe these arrays, or refers to other weights of the base.
    """
    wrong = UserError("its tensors are not those of the network in its header")
    specs: dict[str, TensorSpec] = {}
    left, offset = 0, 0  # of the current entry of kept weights: how many are left, and where
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
            raise UserError(f"it refers to weights that its base lacks: {path}")
        specs[path] = spec
    if left or next(rest, None):
        raise wrong
    return specs
