"""Places buffers of known size and lifetime in one block of memory."""

from collections.abc import Sequence
from typing import NamedTuple

ALIGNMENT = 4  # bytes


class Buffer(NamedTuple):
    """A buffer that is needed from step `first` to step `last`, both included."""

    size: int  # bytes
    first: int
    last: int


class Arena(NamedTuple):
    """Holds the offset of each buffer, and the bytes of them all."""

    offsets: tuple[int, ...]
    size: int


def place(buffers: Sequence[Buffer]) -> Arena:
    """Returns offsets at which no two buffers share a byte while both are needed.

    Buffers are placed one after another as low as they fit: the largest first, the longest-lived
    first, or by the bytes that are needed beside them. The smallest arena is taken.

    Args:
      buffers: in any order; those of no bytes are placed at 0.
    """
    load = {step: _live(buffers, step) for buffer in buffers for step in buffer[1:]}
    orders = (
        lambda i: (-buffers[i].size, buffers[i].first),
        lambda i: (buffers[i].first - buffers[i].last, -buffers[i].size),
        lambda i: (-max(load[buffers[i].first], load[buffers[i].last]), -buffers[i].size),
        lambda i: (buffers[i].first, -buffers[i].size),
    )
    arenas = [place_in_order(buffers, sorted(range(len(buffers)), key=key)) for key in orders]
    return min(arenas, key=lambda arena: arena.size)


def least_bytes(buffers: Sequence[Buffer]) -> int:
    """Returns the bytes needed at the fullest step, which no arena can be smaller than."""
    return max((_live(buffers, buffer.first) for buffer in buffers), default=0)


def _live(buffers: Sequence[Buffer], step: int) -> int:
    return sum(_aligned(size) for size, first, last in buffers if first <= step <= last)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def place_in_order(buffers: Sequence[Buffer], order: Sequence[int]) -> Arena:
    """Places one buffer after another, each into the lowest gap between those that are there.

    Only those that are needed at the same time are in its way. `order` has the buffers' indices.
    """
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for index in order:
        size, first, last = buffers[index]
        beside = sorted(
            (offsets[i], offsets[i] + _aligned(buffers[i].size))
            for i in placed
            if buffers[i].first <= last and first <= buffers[i].last
        )
        offset = 0
        for start, end in beside:
            if start - offset >= size:
                break
            offset = max(offset, end)
        offsets[index] = offset
        if size:
            placed.append(index)
    ends = (offset + _aligned(b.size) for offset, b in zip(offsets, buffers, strict=True))
    return Arena(tuple(offsets), max(ends, default=0))
