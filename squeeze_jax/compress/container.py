"""The .sqz file: a net in few bytes, for this package and for a device that has no more than c/sqz.c.

All numbers are little-endian. 28 bytes: the magic, version, flags, log2 of the arithmetic coder's contexts, a zero; then as uint32 the
file's length, the number of tensors, the weights of all of them, the record's length, the table's length. The record, the table and the
payload follow, and the CRC-32 of everything before it. Version 1 has one flag: whether the payload is Huffman codes or one arithmetic
code. Files whose levels are differences from another net's will be a flag of their own; a reader refuses flags that it does not know.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from squeeze_jax.compress import arithmetic, huffman, record, table
from squeeze_jax.compress.levels import Levels, Outline, Tensor, find_shared
from squeeze_jax.errors import UserError
from squeeze_jax.net import Net, Tree, leaves, weight_shapes, with_leaves

MAGIC = b"\x8fSQZ"
VERSION = 1
HUFFMAN = 1  # flag
LARGEST = 256 * 2**20  # bytes of decoded weights, as float32

_HEADER = struct.Struct("<4s4B5I")
_CRC = 4

Coder = Literal["arithmetic", "huffman"]


def write(
    net: Net,
    coded: Mapping[str, Tensor],
    *,
    coder: Coder = "arithmetic",
    bits: int = arithmetic.BITS,
    known_classes: record.KnownClasses | None = None,
) -> bytes:
    """A net as a .sqz file.

    Args:
      net: whose record the file carries.
      coded: every weight and statistic, by its path as `paths` has it: in levels, or as it is in float32 or float16.
      coder: of the payload.
      bits: log2 of the contexts that the arithmetic decoder has memory for, 52 * 2^bits bytes; 10 to 18.
      known_classes: lists of class names that readers have too, by name; they cost next to nothing.

    Raises:
      UserError: `coded` is not all of the net's arrays, or no file can hold them.
    """
    shapes = {path: np.shape(leaf) for path, leaf in paths(net.params, net.stats).items()}
    found = {path: tensor.levels.shape if isinstance(tensor, Levels) else tensor.shape for path, tensor in coded.items()}
    if found != shapes:
        wrong = sorted(path for path in shapes.keys() | found.keys() if shapes.get(path) != found.get(path))
        raise UserError(f"{len(wrong)} arrays are missing, left over or of another shape than the net's: {', '.join(wrong[:3])}")
    if not arithmetic.FEWEST_BITS <= bits <= arithmetic.MOST_BITS:
        raise UserError(f"contexts come in 2^{arithmetic.FEWEST_BITS} to 2^{arithmetic.MOST_BITS}, not 2^{bits}")
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    _check_total(total)
    tensors = [coded[path] for path in shapes]
    if coder == "huffman":
        flags, bits = HUFFMAN, 0
        outlines, payload = huffman.encode(tensors)
    else:
        flags = 0
        outlines, payload = arithmetic.encode(tensors, bits)
    described = record.pack(net.record(), known_classes or {})
    tabled = table.pack(dict(zip(shapes, outlines)))
    length = _HEADER.size + len(described) + len(tabled) + len(payload) + _CRC
    sizes = (length, len(tensors), total, len(described), len(tabled))
    content = _HEADER.pack(MAGIC, VERSION, flags, bits, 0, *sizes) + described + tabled + payload
    return content + struct.pack("<I", zlib.crc32(content))


def lossless(
    net: Net, *, coder: Coder = "arithmetic", bits: int = arithmetic.BITS, known_classes: record.KnownClasses | None = None
) -> bytes:
    """A net as a .sqz file that gives it back bit for bit.

    Arrays of few distinct values, as after weight sharing, go in levels and a codebook, the others as they are.

    Raises:
      UserError: no file can hold the net.
    """
    arrays = {path: np.asarray(leaf, np.float32) for path, leaf in paths(net.params, net.stats).items()}
    coded = {path: found if (found := find_shared(array)) else array for path, array in arrays.items()}
    return write(net, coded, coder=coder, bits=bits, known_classes=known_classes)


def read(data: bytes, known_classes: record.KnownClasses | None = None) -> Net:
    """The net in a .sqz file.

    Args:
      data: the file.
      known_classes: lists of class names, by name, as the writer had them.

    Raises:
      UserError: it is no such file, is damaged, or describes no net of this package.
    """
    try:
        return _read(data, known_classes or {})
    except UserError as e:
        raise UserError(f"not a .sqz file, or a damaged one: {e}") from e


def _read(data: bytes, known_classes: record.KnownClasses) -> Net:
    flags, bits, outlines, described, payload = _take_apart(data)
    described = record.unpack(described, known_classes, outlines)
    params, stats = _outline_of_net(described)
    wanted = {path: leaf.shape for path, leaf in paths(params, stats).items()}
    if wanted != {path: item.shape for path, item in outlines.items()}:
        raise UserError("its tensors are not those of the net in its record")
    items = list(outlines.values())
    tensors = huffman.decode(payload, items) if flags & HUFFMAN else arithmetic.decode(payload, items, bits)
    arrays = {path: tensor.values() if isinstance(tensor, Levels) else tensor.astype(np.float32) for path, tensor in zip(outlines, tensors)}
    return Net.from_record(described, **with_leaves({"params": params, "stats": stats}, arrays))


def _take_apart(data: bytes) -> tuple[int, int, dict[str, Outline], bytes, bytes]:
    """(flags, bits, outlines, record, payload), of lengths that agree with one another.

    Raises:
      UserError: they do not.
    """
    if len(data) < _HEADER.size + _CRC or not data.startswith(MAGIC):
        raise UserError("it does not begin like one")
    _, version, flags, bits, zero, length, count, total, described, tabled = _HEADER.unpack_from(data)
    if version != VERSION or flags & ~HUFFMAN or zero:
        raise UserError(f"it is of version {version} with flags {flags}, and this reads version {VERSION} with flags 0 and {HUFFMAN}")
    start = _HEADER.size + described + tabled
    if length != len(data) or start > length - _CRC:
        raise UserError(f"it has {len(data):,} bytes and should have {length:,}")
    if zlib.crc32(data[:-_CRC]) != int.from_bytes(data[-_CRC:], "little"):
        raise UserError("its check sum is not that of its content")
    if not flags & HUFFMAN and not arithmetic.FEWEST_BITS <= bits <= arithmetic.MOST_BITS:
        raise UserError(f"it needs 2^{bits} contexts")
    _check_total(total)
    outlines = table.unpack(data[_HEADER.size + described : start], count)
    if sum(item.size for item in outlines.values()) != total:
        raise UserError(f"its tensors do not have {total:,} weights in all")
    return flags, bits, outlines, data[_HEADER.size : _HEADER.size + described], data[start:-_CRC]


def _check_total(weights: int) -> None:
    if 4 * weights > LARGEST:
        raise UserError(f"{weights:,} weights are more than the {LARGEST // 2**20} MiB that a file may decode to")


def _outline_of_net(described: Mapping[str, Any]) -> tuple[Tree, Tree]:
    """`weight_shapes`, whatever a hostile record does to it."""
    try:
        return weight_shapes(described)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, IndexError, AssertionError) as e:
        raise UserError(f"its record describes no net: {str(e)[:80]!r}") from e


def paths(params: Tree, stats: Tree) -> dict[str, Any]:
    """The leaves of both trees by path, as params/fire2/squeeze/kernel, in the trees' order."""
    return leaves({"params": params, "stats": stats})
