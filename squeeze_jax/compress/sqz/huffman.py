"""Codes levels and the gaps between them by Huffman codes, as in Deep Compression.

See arXiv 1510.00149. An entry is a non-zero weight, or a filler zero where a run of zeros exceeds
the largest gap. It has a level, and a gap: the number of zeros before it in the order [out, in,
height, width]. Each tensor has one Huffman code for levels and one for gaps. Both are canonical, so
that only the lengths of their words are stored.
"""

import heapq
import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from squeeze_jax.compress.machine_code import njit
from squeeze_jax.compress.sqz.quantized_tensor import (
    Codebook,
    QuantizedTensor,
    Tensor,
    TensorSpec,
    UniformScale,
    tensor_spec,
)
from squeeze_jax.errors import UserError

GAP_BITS = (4, 5, 8)
MOST_SYMBOLS = 65_536
# Most bits of a word. A word for n counted symbols is shorter than log n to the base of the golden
# ratio.
LONGEST = 56


def word_lengths(counts: np.ndarray) -> np.ndarray:
    """Returns the lengths of the words of a Huffman code, uint8 [symbols].

    A symbol that does not occur has length 0. A symbol that occurs alone has length 1.

    Args:
      counts: how often each symbol occurs, int [symbols].
    """
    lengths = np.zeros(len(counts), np.uint8)
    # (count, number, parts): a subtree has two parts, a symbol has None.
    heap: list[tuple[int, int, Any]] = [
        (int(counts[symbol]), int(symbol), None) for symbol in np.flatnonzero(counts)
    ]
    heapq.heapify(heap)
    number = len(counts)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (first[0] + second[0], number, (first, second)))
        number += 1
    stack = [(heap[0], 0)] if heap else []
    while stack:
        (_, symbol, parts), depth = stack.pop()
        if parts is None:
            lengths[symbol] = max(depth, 1)
        else:
            stack += [(part, depth + 1) for part in parts]
    return lengths


def assign_words(lengths: np.ndarray) -> np.ndarray:
    """Returns the words of the canonical code of these lengths, int64 [symbols].

    Words ascend by length, then by symbol.
    """
    code, last = 0, 0
    result = np.zeros(len(lengths), np.int64)
    for symbol in np.argsort(lengths, kind="stable"):
        if length := int(lengths[symbol]):
            code <<= length - last
            result[symbol], last = code, length
            code += 1
    return result


def pack(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    """Returns the symbols' words one after another, high bits first.

    Args:
      symbols: int [n].
      lengths: lengths of the words, uint8 [symbols], as `word_lengths` returns them.
    """
    each = lengths[symbols].astype(np.int64)
    starts = np.cumsum(each) - each
    # The number of bits of the word that follow each bit.
    below = np.repeat(starts + each - 1, each) - np.arange(int(each.sum()))
    return np.packbits(
        (np.repeat(assign_words(lengths)[symbols], each) >> below & 1).astype(np.uint8)
    ).tobytes()


def unpack(data: bytes, count: int, lengths: np.ndarray) -> np.ndarray:
    """Returns `count` symbols, int64, from the bytes that `pack` returned.

    Raises:
      UserError: the lengths are not those of a Huffman code, or the bytes do not hold exactly
        `count` words.
    """
    used = lengths[lengths > 0].astype(np.int64)
    if count and (
        not len(used) or used.max() > LONGEST or sum(2.0**-used) != (0.5 if len(used) == 1 else 1.0)
    ):
        raise UserError("the lengths of its words are not those of a Huffman code")
    if count > 8 * len(data):
        raise UserError(f"it has fewer bits than its {count:,} symbols")
    order = np.argsort(lengths, kind="stable")[np.count_nonzero(lengths == 0) :]
    symbols = np.zeros(count, np.int64)
    read = _read_words(
        np.frombuffer(data, np.uint8).copy(),
        np.bincount(used, minlength=LONGEST + 1),
        order,
        symbols,
    )
    if read < 0 or (read + 7) // 8 != len(data):
        raise UserError("its words do not end where its bytes do")
    return symbols


@njit
def _read_words(data, per_length, order, symbols):
    """Writes the symbols and returns the number of bits read, or -1 for bits that are no word."""
    position, total = 0, 8 * len(data)
    for i in range(len(symbols)):
        word, first, before, length = 0, 0, 0, 0
        while True:
            if position == total or length + 1 == len(per_length):
                return -1
            word = word * 2 + ((np.int64(data[position >> 3]) >> (7 - (position & 7))) & 1)
            position += 1
            length += 1
            first *= 2
            if word - first < per_length[length]:
                symbols[i] = order[before + word - first]
                break
            first += per_length[length]
            before += per_length[length]
    return position


class Entries(NamedTuple):
    """Holds the entries of a tensor."""

    codes: np.ndarray  # int64 [entries]: levels; 0 for fillers
    gaps: np.ndarray  # int64 [entries]: the number of zeros before each entry


def make_entries(levels: np.ndarray, gap_bits: int) -> Entries:
    """Returns the entries of levels, int32 in Flax's layout, for gaps of `gap_bits` bits."""
    flat = _to_published_order(levels).reshape(-1)
    positions = np.flatnonzero(flat)
    skipped = np.diff(positions, prepend=-1) - 1
    # A filler covers 2^bits positions: the zeros before it and its own.
    fillers = skipped >> gap_bits
    last = np.cumsum(fillers + 1) - 1
    codes = np.zeros(int((fillers + 1).sum()), np.int64)
    gaps = np.full(len(codes), 2**gap_bits - 1)
    codes[last] = flat[positions]
    gaps[last] = skipped & (2**gap_bits - 1)
    return Entries(codes, gaps)


def _to_published_order(levels: np.ndarray) -> np.ndarray:
    """Transposes [..., in, out] to [out, in, ...]."""
    return np.moveaxis(levels, (-1, -2), (0, 1)) if levels.ndim >= 2 else levels


def _to_levels(shape: tuple[int, ...], stored: Entries) -> np.ndarray:
    """Returns the levels that these entries encode.

    Raises:
      UserError: an entry lies outside the tensor.
    """
    flat = np.zeros(math.prod(shape), np.int32)
    positions = np.cumsum(stored.gaps + 1) - 1
    if len(positions) and positions[-1] >= len(flat):
        raise UserError("an entry lies outside its tensor")
    flat[positions] = stored.codes
    if len(shape) < 2:
        return flat.reshape(shape)
    return np.ascontiguousarray(
        np.moveaxis(flat.reshape(shape[-1], shape[-2], *shape[:-2]), (0, 1), (-1, -2))
    )


def encode(
    tensors: Sequence[Tensor], gap_bits: int | None = None
) -> tuple[list[TensorSpec], bytes]:
    """Returns the specs that `decode` needs, and the code.

    Args:
      tensors: the tensors, in the order in which they are decoded.
      gap_bits: bits of a gap, one of `GAP_BITS`; None chooses for each tensor what is smallest.

    Raises:
      UserError: a tensor cannot be stored in a file, or has too many levels for a Huffman code.
    """
    specs = [tensor_spec(tensor) for tensor in tensors]
    parts = []
    for tensor, spec in zip(tensors, specs, strict=True):
        if not isinstance(tensor, QuantizedTensor):
            parts.append(tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
            continue
        if spec.below + spec.above >= MOST_SYMBOLS:
            raise UserError(
                f"a Huffman code holds {MOST_SYMBOLS:,} levels, and a tensor has "
                f"{spec.below + spec.above + 1:,}; use the arithmetic coder"
            )
        if isinstance(tensor.dequantiser, Codebook):
            parts.append(np.delete(tensor.dequantiser.codebook, spec.below).astype("<f4").tobytes())
        parts.append(
            min(
                (
                    _encode_levels(tensor.levels, spec, bits)
                    for bits in ([gap_bits] if gap_bits else GAP_BITS)
                ),
                key=len,
            )
        )
    return specs, b"".join(parts)


def _encode_levels(levels: np.ndarray, spec: TensorSpec, gap_bits: int) -> bytes:
    """Returns the code of a tensor's levels.

    It holds the gap bits (one byte), the number of entries, the levels and the gaps. Levels and
    gaps are each the deflated lengths of the words and the packed words, preceded by their sizes in
    bytes.
    """
    stored = make_entries(levels, gap_bits)
    parts = [bytes([gap_bits]), len(stored.codes).to_bytes(4, "little")]
    for symbols, alphabet in (
        (stored.codes + spec.below, spec.below + spec.above + 1),
        (stored.gaps, 2**gap_bits),
    ):
        lengths = word_lengths(np.bincount(symbols, minlength=alphabet))
        for part in (zlib.compress(lengths.tobytes(), 9), pack(symbols, lengths)):
            parts += [len(part).to_bytes(4, "little"), part]
    return b"".join(parts)


class _Reader:
    """Reads a payload from front to back; raises UserError where it ends early."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise UserError("it ends early")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        return int.from_bytes(self.take(4), "little")


def decode(payload: bytes, specs: Sequence[TensorSpec]) -> list[Tensor]:
    """Returns the tensors of a code.

    Raises:
      UserError: the code is damaged, or does not end where the tensors do.
    """
    reader, tensors = _Reader(payload), []
    for spec in specs:
        if spec.kind.startswith("float"):
            dtype = np.dtype(spec.kind).newbyteorder("<")
            tensors.append(
                np.frombuffer(reader.take(spec.size * dtype.itemsize), dtype)
                .astype(spec.kind)
                .reshape(spec.shape)
            )
            continue
        dequantiser = UniformScale(spec.step)
        if spec.kind == "codebook":
            book = np.frombuffer(reader.take(4 * (spec.below + spec.above)), "<f4").astype(
                np.float32
            )
            dequantiser = Codebook(np.insert(book, spec.below, np.float32(0)))
        tensor = QuantizedTensor(_decode_levels(reader, spec), dequantiser)
        tensor.check()
        tensors.append(tensor)
    if reader.at != len(payload):
        raise UserError("its code does not end where its tensors do")
    return tensors


def _decode_levels(reader: _Reader, spec: TensorSpec) -> np.ndarray:
    gap_bits, count = reader.take(1)[0], reader.number()
    if gap_bits not in GAP_BITS or count > spec.size or spec.below + spec.above >= MOST_SYMBOLS:
        raise UserError("it has gaps of an unknown width, or more entries than weights")
    fields = []
    for alphabet in (spec.below + spec.above + 1, 2**gap_bits):
        inflate = zlib.decompressobj()
        try:
            lengths = inflate.decompress(reader.take(reader.number()), alphabet + 1)
        except zlib.error as e:
            raise UserError(f"the lengths of its words are damaged: {e}") from e
        if len(lengths) != alphabet or not inflate.eof or inflate.unused_data:
            raise UserError(f"it does not have the lengths of {alphabet:,} words")
        fields.append(unpack(reader.take(reader.number()), count, np.frombuffer(lengths, np.uint8)))
    return _to_levels(spec.shape, Entries((fields[0] - spec.below).astype(np.int32), fields[1]))
