"""Packs and unpacks the tensor table of a .sqz file.

The table is binary, so that a device reads it without inflating or parsing text. An entry has these
fields, in order. A varint has 7 bits a byte, low bits first, and the high bit set if more follow.

  - uint8: number of bytes that the name has in common with the start of the previous name
  - uint8: number of further bytes, and these bytes (UTF-8)
  - uint8: index in `KINDS`, plus `ADDED` if the tensor is added to the base
  - uint8: number of axes, and each axis as a varint
  - quantized tensors: scan as uint8, then `below` and `above` as varints
  - uniform tensors: step as float32, little-endian
  - tensors that are kept from the base or added to it: number of the base's weights between the
    last ones used and these, as a varint

An entry of the kind "kept" stands for weights of the base: all tensors that follow one another in
both networks, as a single axis under the name of the first.
"""

import os
import struct
from collections.abc import Mapping

from squeeze_jax.compress.sqz.quantized_tensor import MAX_AXES, TensorSpec
from squeeze_jax.errors import UserError

KINDS = ("float32", "float16", "uniform", "codebook", "kept")
ADDED = 8  # plus the kind


def pack(specs: Mapping[str, TensorSpec]) -> bytes:
    """Returns the table of tensors by name.

    Raises:
      UserError: a name is empty, too long, or has a zero byte.
    """
    parts, before, base_end = [], b"", 0
    for name, spec in specs.items():
        encoded = name.encode()
        if not 0 < len(encoded) < 256 or b"\0" in encoded:
            raise UserError(
                f"a tensor's name must have 1 to 255 bytes, none of them 0; got {name[:40]!r}"
            )
        prefix = len(os.path.commonprefix([before, encoded]))
        before = encoded
        added = ADDED * (spec.base_offset is not None and spec.kind != "kept")
        parts += [
            bytes([prefix, len(encoded) - prefix]),
            encoded[prefix:],
            bytes([KINDS.index(spec.kind) + added, len(spec.shape)]),
        ]
        parts += [_varint(axis) for axis in spec.shape]
        if spec.is_quantized:
            parts += [bytes([spec.scan]), _varint(spec.below), _varint(spec.above)]
        if spec.kind == "uniform":
            parts.append(struct.pack("<f", spec.step))
        if spec.base_offset is not None:
            parts.append(_varint(spec.base_offset - base_end))
            base_end = spec.base_offset + spec.size
    return b"".join(parts)


def unpack(data: bytes, count: int, is_delta: bool) -> dict[str, TensorSpec]:
    """Returns the tensors of a table, by name.

    Args:
      data: what `pack` returned.
      count: number of tensors in the table.
      is_delta: whether tensors may refer to a base.

    Raises:
      UserError: the bytes are not a table of `count` tensors.
    """
    reader, base_end = _Reader(data), 0
    specs: dict[str, TensorSpec] = {}
    for _ in range(count):
        name = reader.name()
        spec, added = _read_spec(reader, base_end)
        if spec.base_offset is not None:
            base_end = spec.base_offset + spec.size
        spec.check()
        if (
            name in specs
            or spec.scan > 1
            or added
            and not spec.is_quantized
            or spec.base_offset is not None
            and not is_delta
        ):
            raise _damaged()
        specs[name] = spec
    if reader.at != len(data):
        raise UserError(f"its table has more than {count:,} tensors")
    return specs


def _read_spec(reader: "_Reader", base_end: int) -> tuple[TensorSpec, bool]:
    """Returns a tensor's spec, and whether it is added to the base."""
    kind, axes = reader.byte(), reader.byte()
    added, kind = bool(kind & ADDED), kind & ~ADDED
    if kind >= len(KINDS) or axes > MAX_AXES:
        raise _damaged()
    spec = TensorSpec(tuple(reader.varint() for _ in range(axes)), KINDS[kind])
    if spec.is_quantized:
        spec = spec._replace(scan=reader.byte(), below=reader.varint(), above=reader.varint())
    if spec.kind == "uniform":
        spec = spec._replace(step=struct.unpack("<f", reader.take(4))[0])
    if added or spec.kind == "kept":
        spec = spec._replace(base_offset=base_end + reader.varint())
    return spec, added


def _varint(number: int) -> bytes:
    """Returns a number as 7 bits a byte, the low ones first."""
    groups = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def _damaged() -> UserError:
    return UserError("its table of tensors is damaged")


class _Reader:
    """Reads a table from front to back; raises UserError where it is damaged."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0
        self.last_name = b""

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

    def name(self) -> str:
        prefix, rest = self.byte(), self.byte()
        self.last_name = name = self.last_name[:prefix] + self.take(rest)
        if not 0 < len(name) < 256 or len(name) != prefix + rest or 0 in name:
            raise _damaged()
        try:
            return name.decode()
        except UnicodeDecodeError as e:
            raise UserError("its table of tensors has a name that is not UTF-8") from e
