"""Packs and unpacks the parts of a .sqz file.

A file consists of a head of 32 bytes, the network's header, the tensor table, the payload, and the
CRC-32 of everything before it. All numbers are little-endian. The head has these fields:

  magic             4 bytes
  version           uint8
  flags             uint8: the coder's flag (see `coders.CODERS`) and `DELTA`
  context bits      uint8: log2 of the arithmetic coder's contexts; 0 for other coders
  zero              uint8
  length            uint32: bytes of the file
  tensors           uint32: entries of the tensor table
  weights           uint32: weights of all tensors
  header length     uint32: bytes
  table length      uint32: bytes
  base CRC          uint32: see below

A file with the flag `DELTA` is a delta from another network, its base, and holds the CRC-32 of the
base's decoded weights as float32, in the order of its tensors. Other files hold 0 there. A reader
rejects flags that it does not know.
"""

import struct
import zlib
from typing import NamedTuple

from squeeze_jax.compress.sqz import arithmetic, tensor_table
from squeeze_jax.compress.sqz.coders import CODERS, Coder
from squeeze_jax.compress.sqz.quantized_tensor import TensorSpec
from squeeze_jax.errors import UserError

MAGIC = b"\x8fSQZ"
VERSION = 2
DELTA = 2  # flag
MAX_DECODED_BYTES = 256 * 2**20  # of the weights as float32

_HEAD = struct.Struct("<4s4B6I")
_CRC_BYTES = 4


class Content(NamedTuple):
    """Holds the parts of a file, whose lengths agree."""

    flags: int
    context_bits: int  # log2 of the contexts; 0 for a coder without
    base_crc: int  # 0 unless the file is a delta
    num_weights: int
    header: bytes
    specs: dict[str, TensorSpec]  # the tensor table, by path
    payload: bytes

    @property
    def coder(self) -> Coder:
        """Returns the coder of the payload.

        Raises:
          UserError: no coder has this flag.
        """
        flag = self.flags & ~DELTA
        for coder in CODERS.values():
            if coder.flag == flag:
                return coder
        raise UserError(f"no coder has the flag {flag}; known are {', '.join(CODERS)}")


def pack(content: Content) -> bytes:
    """Returns the bytes of a file."""
    table = tensor_table.pack(content.specs)
    body = content.header + table + content.payload
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        content.flags,
        content.context_bits,
        0,
        _HEAD.size + len(body) + _CRC_BYTES,
        len(content.specs),
        content.num_weights,
        len(content.header),
        len(table),
        content.base_crc,
    )
    return head + body + struct.pack("<I", zlib.crc32(head + body))


def unpack(data: bytes) -> Content:
    """Returns the parts of a file.

    Raises:
      UserError: the lengths disagree, the file is damaged, or its version or flags are unknown.
    """
    if len(data) < _HEAD.size + _CRC_BYTES or not data.startswith(MAGIC):
        raise UserError("it does not begin with the magic bytes")
    _, version, flags, context_bits, zero, *numbers = _HEAD.unpack_from(data)
    length, num_tensors, num_weights, header_size, table_size, base_crc = numbers
    known_flags = {coder.flag for coder in CODERS.values()}
    is_delta = bool(flags & DELTA)
    if version != VERSION or flags & ~DELTA not in known_flags or zero or base_crc and not is_delta:
        raise UserError(
            f"it has version {version} and flags {flags}; this reader knows version {VERSION} and "
            f"the flags {sorted(known_flags)}, plus {DELTA} for a delta"
        )
    header_end = _HEAD.size + header_size
    table_end = header_end + table_size
    if length != len(data) or table_end > length - _CRC_BYTES:
        raise UserError(f"it has {len(data):,} bytes instead of {length:,}")
    if zlib.crc32(data[:-_CRC_BYTES]) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        raise UserError("its checksum does not match its content")
    check_num_weights(num_weights)
    specs = tensor_table.unpack(data[header_end:table_end], num_tensors, is_delta)
    if sum(spec.size for spec in specs.values()) != num_weights:
        raise UserError(f"its tensors do not have the {num_weights:,} weights of its head")
    content = Content(
        flags,
        context_bits,
        base_crc,
        num_weights,
        data[_HEAD.size : header_end],
        specs,
        data[table_end:-_CRC_BYTES],
    )
    if content.coder.has_contexts:
        arithmetic.check_context_bits(context_bits)
    return content


def check_num_weights(num_weights: int) -> None:
    """Rejects more weights than a file may decode to.

    Raises:
      UserError: the weights exceed `MAX_DECODED_BYTES`.
    """
    if 4 * num_weights > MAX_DECODED_BYTES:
        raise UserError(
            f"a file may decode to {MAX_DECODED_BYTES // 2**20} MiB, which is less than "
            f"{num_weights:,} float32 weights"
        )
