"""The bytes of a .sqz file: a fixed head, the network's header, the tensor table, the payload and a CRC.

All numbers are little-endian. The head has 32 bytes: the magic, the version, the flags, log2 of the
arithmetic coder's contexts and a zero; then, as uint32, the length of the file, the number of
tensors, the number of their weights, the length of the header, the length of the tensor table, and
the CRC of the base. The header, the tensor table and the payload follow, then the CRC-32 of
everything before it.

The flags of version 2 are the coder's flag (see `coders.CODERS`) and `DELTA`. A file with `DELTA` is
a delta from another network, its base, and holds the base's CRC-32: that of its decoded weights as
float32, in the order of its tensors. Other files hold 0 there. A reader rejects flags that it does
not know.
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
    """The parts of a file. Their lengths agree with one another."""

    flags: int
    context_bits: int  # log2 of the contexts; 0 where the coder has none
    base_crc: int  # 0 where the file is no delta
    num_weights: int
    header: bytes
    specs: dict[str, TensorSpec]  # the tensor table, by path
    payload: bytes

    @property
    def coder(self) -> Coder:
        """The coder of the payload.

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
        raise UserError("it does not begin like one")
    _, version, flags, context_bits, zero, *numbers = _HEAD.unpack_from(data)
    length, num_tensors, num_weights, header_size, table_size, base_crc = numbers
    known_flags = {coder.flag for coder in CODERS.values()}
    is_delta = bool(flags & DELTA)
    if version != VERSION or flags & ~DELTA not in known_flags or zero or base_crc and not is_delta:
        raise UserError(
            f"it has version {version} and flags {flags}; this reader takes version {VERSION} and "
            f"the flags {sorted(known_flags)}, plus {DELTA} for a delta"
        )
    header_end = _HEAD.size + header_size
    table_end = header_end + table_size
    if length != len(data) or table_end > length - _CRC_BYTES:
        raise UserError(f"it has {len(data):,} bytes and should have {length:,}")
    if zlib.crc32(data[:-_CRC_BYTES]) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        raise UserError("its checksum does not match its content")
    check_num_weights(num_weights)
    specs = tensor_table.unpack(data[header_end:table_end], num_tensors, is_delta)
    if sum(spec.size for spec in specs.values()) != num_weights:
        raise UserError(f"its tensors do not have {num_weights:,} weights in all")
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
      UserError: there are too many.
    """
    if 4 * num_weights > MAX_DECODED_BYTES:
        raise UserError(
            f"{num_weights:,} weights are more than the {MAX_DECODED_BYTES // 2**20} MiB that a "
            "file may decode to"
        )
