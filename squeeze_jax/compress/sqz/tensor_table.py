"""The table of tensors in a .sqz file: binary and plain, so that a device reads it without inflating or parsing text.

For each tensor: how many bytes its name begins like the one before with, how many bytes of its own follow, and these (UTF-8); its kind,
plus 8 if it is added to the base; its number of axes, and each as a varint (7 bits a byte, the low ones first, the high bit set if more
follow). Levels have, on top, their scan, and `below` and `above` as varints; uniform ones then their step as float32, little-endian.
What the base takes part in has, last, a varint: how many weights of the base lie between the last ones that were taken and these. Of
kind "kept" are weights of the base as they are: under the name of the first one, as a single axis, all tensors that follow one another
in both nets.
"""

import os
import struct
from collections.abc import Mapping

from squeeze_jax.compress.sqz.quantized_tensor import MOST_AXES, TensorSpec
from squeeze_jax.errors import UserError

KINDS = ("float32", "float16", "uniform", "shared", "kept")
ADDED = 8  # to a kind


def pack(outlines: Mapping[str, TensorSpec]) -> bytes:
    """The table of tensors by name.

    Raises:
      UserError: a name that no table holds.
    """
    parts, before, taken = [], b"", 0
    for name, item in outlines.items():
        encoded = name.encode()
        if not 0 < len(encoded) < 256 or b"\0" in encoded:
            raise UserError(
                f"a tensor's name has 1 to 255 bytes and no 0 among them: {name[:40]!r}"
            )
        alike = len(os.path.commonprefix([before, encoded]))
        before = encoded
        added = ADDED * (item.base is not None and item.kind != "kept")
        parts += [
            bytes([alike, len(encoded) - alike]),
            encoded[alike:],
            bytes([KINDS.index(item.kind) + added, len(item.shape)]),
        ]
        parts += [_varint(axis) for axis in item.shape]
        if item.kind in ("uniform", "shared"):
            parts += [bytes([item.scan]), _varint(item.below), _varint(item.above)]
        if item.kind == "uniform":
            parts.append(struct.pack("<f", item.step))
        if item.base is not None:
            parts.append(_varint(item.base - taken))
            taken = item.base + item.size
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """7 bits a byte, the low ones first."""
    groups = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def unpack(data: bytes, count: int, update: bool) -> dict[str, TensorSpec]:
    """The tensors of a table, by name.

    Args:
      data: `pack`'s bytes.
      count: of the tensors.
      update: whether a base may take part.

    Raises:
      UserError: it is not a table of so many tensors.
    """
    reader, outlines, before, taken = _Reader(data), {}, b"", 0
    damaged = UserError("its table of tensors is damaged")
    for _ in range(count):
        alike, more = reader.byte(), reader.byte()
        before = before[:alike] + reader.take(more)
        kind, axes = reader.byte(), reader.byte()
        added, kind = kind & ADDED, kind & ~ADDED
        if (
            kind >= len(KINDS)
            or axes > MOST_AXES
            or not 0 < len(before) < 256
            or len(before) != alike + more
            or 0 in before
        ):
            raise damaged
        item = TensorSpec(tuple(reader.varint() for _ in range(axes)), KINDS[kind])
        levels, based = item.kind in ("uniform", "shared"), added or item.kind == "kept"
        if levels:
            item = item._replace(scan=reader.byte(), below=reader.varint(), above=reader.varint())
        if item.kind == "uniform":
            item = item._replace(step=struct.unpack("<f", reader.take(4))[0])
        if based:
            item = item._replace(base=taken + reader.varint())
            taken = item.base + item.size
        item.check()
        try:
            name = before.decode()
        except UnicodeDecodeError as e:
            raise UserError("its table of tensors has a name that is no text") from e
        if item.scan > 1 or name in outlines or (added and not levels) or (based and not update):
            raise damaged
        outlines[name] = item
    if reader.at != len(data):
        raise UserError(f"its table has more than {count:,} tensors")
    return outlines


class _Reader:
    """The table, from front to back."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise UserError("its table of tensors ends early")
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        number = 0
        for shift in range(0, 35, 7):
            group = self.byte()
            number |= (group & 127) << shift
            if group < 128:
                if number >= 2**31:
                    break
                return number
        raise UserError("its table of tensors has a number out of range")
