"""The .sqz file: a net in few bytes, for this package and for a device that has no more than c/sqz.c.

All numbers are little-endian. 32 bytes: the magic, version, flags, log2 of the arithmetic coder's contexts, a zero; then as uint32 the
file's length, the number of tensors, the weights of all of them, the record's length, the table's length, the base. The record, the
table and the payload follow, and the CRC-32 of everything before it. Version 2 has two flags: 1, the payload is Huffman codes instead of
one arithmetic code; 2, the file is an update of another net, its base, and holds this one's CRC-32 (0 in other files): that of its
decoded weights as float32, in the order of its tensors. A reader refuses flags that it does not know.
"""

import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np

from squeeze_jax.compress.sqz import arithmetic, huffman
from squeeze_jax.compress.sqz import delta as update
from squeeze_jax.compress.sqz import header as record
from squeeze_jax.compress.sqz import tensor_table as table
from squeeze_jax.compress.sqz.quantized_tensor import (
    QuantizedTensor,
    Tensor,
    TensorSpec,
    estimate_bits,
    find_codebook,
    find_uniform_scale,
)
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Tree, leaves_by_path, replace_leaves, weight_shapes

MAGIC = b"\x8fSQZ"
VERSION = 2
HUFFMAN, UPDATE = 1, 2  # flags
LARGEST = 256 * 2**20  # bytes of decoded weights, as float32

_HEADER = struct.Struct("<4s4B6I")
_CRC = 4

Coder = Literal["arithmetic", "huffman"]


def write(
    net: Network,
    coded: Mapping[str, Tensor],
    *,
    coder: Coder = "arithmetic",
    bits: int = arithmetic.BITS,
    known_classes: record.KnownClasses | None = None,
    base: Network | None = None,
    added: Collection[str] = (),
) -> bytes:
    """A net as a .sqz file.

    Args:
      net: whose record the file carries.
      coded: every weight and statistic, by its path as `paths` has it: in levels, or as it is in float32 or float16.
      coder: of the payload.
      bits: log2 of the contexts that the arithmetic decoder has memory for, 52 * 2^bits bytes; 10 to 18.
      known_classes: lists of class names that readers have too, by name; they cost next to nothing.
      base: another net, which readers must have too; the file is an update of it.
      added: paths of the levels in `coded` that are added to the base's weights of the same path. Where they are all 0 the weights stay,
        and cost nothing.

    Raises:
      UserError: `coded` is not all of the net's arrays, no file can hold them, or the base has none that they could be added to.
    """
    shapes = {path: np.shape(leaf) for path, leaf in paths(net.params, net.stats).items()}
    found = {
        path: tensor.levels.shape if isinstance(tensor, QuantizedTensor) else tensor.shape
        for path, tensor in coded.items()
    }
    if found != shapes:
        wrong = sorted(
            path for path in shapes.keys() | found.keys() if shapes.get(path) != found.get(path)
        )
        raise UserError(
            f"{len(wrong)} arrays are missing, left over or of another shape than the net's: {', '.join(wrong[:3])}"
        )
    if not arithmetic.FEWEST_BITS <= bits <= arithmetic.MOST_BITS:
        raise UserError(
            f"contexts come in 2^{arithmetic.FEWEST_BITS} to 2^{arithmetic.MOST_BITS}, not 2^{bits}"
        )
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    _check_total(total)
    old = _as_base(base)
    for path in added:
        if (
            path not in shapes
            or not isinstance(coded[path], QuantizedTensor)
            or old.place(path, shapes[path]) is None
        ):
            raise UserError(
                f"the base has nothing that {path} could be added to, or it is not in levels"
            )
    tensors = {
        path: coded[path] for path in shapes if path not in added or coded[path].levels.any()
    }
    if coder == "huffman":
        flags, bits = HUFFMAN, 0
        outlines, payload = huffman.encode(list(tensors.values()))
    else:
        flags = 0
        outlines, payload = arithmetic.encode(list(tensors.values()), bits)
    described = record.pack(net.metadata(), known_classes or {})
    entries = update.entries(shapes, dict(zip(tensors, outlines)), old, added)
    tabled = table.pack(entries)
    length = _HEADER.size + len(described) + len(tabled) + len(payload) + _CRC
    sizes = (length, len(entries), total, len(described), len(tabled))
    flags |= UPDATE * (base is not None)
    content = (
        _HEADER.pack(MAGIC, VERSION, flags, bits, 0, *sizes, old.crc if base is not None else 0)
        + described
        + tabled
        + payload
    )
    return content + struct.pack("<I", zlib.crc32(content))


def lossless(
    net: Network,
    *,
    coder: Coder = "arithmetic",
    bits: int = arithmetic.BITS,
    known_classes: record.KnownClasses | None = None,
    base: Network | None = None,
) -> bytes:
    """A net as a .sqz file that gives it back bit for bit.

    Arrays of few distinct values, as after weight sharing, go in levels and a codebook, multiples of one step, as in a net that was read
    from a lossy file, in levels alone, and the others as they are, in float16 where that holds them; in an update, what differs from the
    base in few distinct values goes as the difference where that is smaller.

    Args:
      net: the net.
      coder: as `write` takes it, and so are all others.

    Raises:
      UserError: no file can hold the net.
    """
    old = _as_base(base)
    coded, added = {}, set()
    for path, leaf in paths(net.params, net.stats).items():
        array = np.asarray(leaf, np.float32)
        coded[path] = _as_it_is(array)
        if old.place(path, array.shape) is None:
            continue
        difference = update.find_difference(old.values(old.outlines[path]), array)
        if difference and estimate_bits(difference) <= estimate_bits(coded[path]):
            coded[path] = difference
            added.add(path)
    return write(
        net, coded, coder=coder, bits=bits, known_classes=known_classes, base=base, added=added
    )


def _as_it_is(array: np.ndarray) -> Tensor:
    """A float32 array in the cheapest of the forms that give it back bit for bit."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    same = half.astype(np.float32).tobytes() == array.tobytes()
    return min(
        [
            array,
            *([half] if same else []),
            *filter(None, (find_codebook(array), find_uniform_scale(array))),
        ],
        key=estimate_bits,
    )


def read(
    data: bytes, known_classes: record.KnownClasses | None = None, base: Network | None = None
) -> Network:
    """The net in a .sqz file.

    Args:
      data: the file.
      known_classes: lists of class names, by name, as the writer had them.
      base: the net that the file is an update of, if it is one; other files do without.

    Raises:
      UserError: it is no such file, is damaged, describes no net of this package, or is an update of another net than the base.
    """
    with _refused():
        content = _take_apart(data)
    if not content.flags & UPDATE:
        base = None
    elif base is None:
        raise UserError(
            "it is an update, which takes the net that it was made for: decompress it with --base first"
        )
    old = _as_base(base)
    if base is not None and old.crc != content.base:
        raise UserError("it is an update of another net than this base")
    with _refused():
        return _read(content, known_classes or {}, old)


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except UserError as e:
        raise UserError(f"not a .sqz file, or a damaged one: {e}") from e


class _Content(NamedTuple):
    """The parts of a file, of lengths that agree with one another."""

    flags: int
    bits: int
    base: int  # CRC-32
    table: dict[str, TensorSpec]
    record: bytes
    payload: bytes


def _read(content: _Content, known_classes: record.KnownClasses, base: update.Base) -> Network:
    own = {path: item for path, item in content.table.items() if item.kind != "kept"}
    described = record.unpack(content.record, known_classes, base.outlines | own)
    params, stats = _outline_of_net(described)
    outlines = update.laid_out(
        {path: leaf.shape for path, leaf in paths(params, stats).items()}, content.table, base
    )
    items = list(own.values())
    decoded = (
        huffman.decode(content.payload, items)
        if content.flags & HUFFMAN
        else arithmetic.decode(content.payload, items, content.bits)
    )
    tensors = dict(zip(own, decoded))
    arrays = {path: _weights(item, tensors.get(path), base) for path, item in outlines.items()}
    return Network.from_metadata(
        described, **replace_leaves({"params": params, "stats": stats}, arrays)
    )


def _weights(item: TensorSpec, tensor: Tensor | None, base: update.Base) -> np.ndarray:
    """A tensor's weights, float32, of what the file and the base have of it."""
    if tensor is None:
        return base.values(item).copy()
    if item.base is not None:
        return update.added(base.values(item), tensor)
    return tensor.values() if isinstance(tensor, QuantizedTensor) else tensor.astype(np.float32)


def _take_apart(data: bytes) -> _Content:
    """The parts of a file.

    Raises:
      UserError: its lengths do not agree, or it is damaged.
    """
    if len(data) < _HEADER.size + _CRC or not data.startswith(MAGIC):
        raise UserError("it does not begin like one")
    _, version, flags, bits, zero, length, count, total, described, tabled, base = (
        _HEADER.unpack_from(data)
    )
    if version != VERSION or flags & ~(HUFFMAN | UPDATE) or zero or (base and not flags & UPDATE):
        raise UserError(
            f"it is of version {version} with flags {flags}, and this reads version {VERSION} with flags 0 to 3"
        )
    start = _HEADER.size + described + tabled
    if length != len(data) or start > length - _CRC:
        raise UserError(f"it has {len(data):,} bytes and should have {length:,}")
    if zlib.crc32(data[:-_CRC]) != int.from_bytes(data[-_CRC:], "little"):
        raise UserError("its check sum is not that of its content")
    if not flags & HUFFMAN and not arithmetic.FEWEST_BITS <= bits <= arithmetic.MOST_BITS:
        raise UserError(f"it needs 2^{bits} contexts")
    _check_total(total)
    outlines = table.unpack(data[_HEADER.size + described : start], count, bool(flags & UPDATE))
    if sum(item.size for item in outlines.values()) != total:
        raise UserError(f"its tensors do not have {total:,} weights in all")
    return _Content(
        flags,
        bits,
        base,
        outlines,
        data[_HEADER.size : _HEADER.size + described],
        data[start:-_CRC],
    )


def _as_base(net: Network | None) -> update.Base:
    """Of no net: one that has nothing."""
    base = update.Base.of({} if net is None else paths(net.params, net.stats))
    _check_total(len(base.weights))
    return base


def _check_total(weights: int) -> None:
    if 4 * weights > LARGEST:
        raise UserError(
            f"{weights:,} weights are more than the {LARGEST // 2**20} MiB that a file may decode to"
        )


def _outline_of_net(described: Mapping[str, Any]) -> tuple[Tree, Tree]:
    """`weight_shapes`, whatever a hostile record does to it."""
    try:
        return weight_shapes(described)
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        IndexError,
        AssertionError,
    ) as e:
        raise UserError(f"its record describes no net: {str(e)[:80]!r}") from e


def paths(params: Tree, stats: Tree) -> dict[str, Any]:
    """The leaves_by_path of both trees by path, as params/fire2/squeeze/kernel, in the trees' order."""
    return leaves_by_path({"params": params, "stats": stats})
