"""Codes int8 weights so that a microcontroller decodes them with one table while it computes.

The code is rANS (Duda, arXiv 1311.2540) of 32-bit states and a table of frequencies of 2^BITS in
sum: `engine_decode` in convert/c_engine/sources/engine.c reads it, a few weights at a time. The
codes of a network share tables where that is smaller.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from squeeze_jax.compress.machine_code import njit
from squeeze_jax.errors import UserError

BITS = 12  # log2 of the sum of a table's frequencies
LEAST = 1 << 23  # the least state between symbols
TABLE_ENTRY = 2  # bytes of an entry in a table


class Table(NamedTuple):
    """Gives the interval of each symbol; symbol i stands for the weight first + i."""

    first: int
    starts: np.ndarray  # uint16 [symbols + 1], from 0 to 2^BITS

    @property
    def size(self) -> int:
        """Returns the bytes of the table."""
        return TABLE_ENTRY * len(self.starts)


def make_tables(arrays: Sequence[np.ndarray]) -> tuple[list[Table], list[int]]:
    """Returns tables for arrays of weights, and the number of each array's table.

    Two tables become one as long as their codes grow by less than a table takes.

    Args:
      arrays: int8 [...], none empty.
    """
    counts = [
        np.bincount(array.reshape(-1).astype(np.int64) + 128, minlength=256) for array in arrays
    ]
    members = [[number] for number in range(len(arrays))]
    costs = [_cost(count) for count in counts]
    gains = {
        (i, j): costs[i] + costs[j] - _cost(counts[i] + counts[j])
        for i in range(len(counts))
        for j in range(i)
    }
    while gains:
        (i, j), gain = max(gains.items(), key=lambda item: item[1])
        if gain <= 0:
            break
        counts[j] = counts[j] + counts[i]
        members[j] += members[i]
        members[i], costs[j] = [], _cost(counts[j])
        gains = {pair: value for pair, value in gains.items() if i not in pair and j not in pair}
        for k, others in enumerate(members):
            if k != j and others:
                gains[max(j, k), min(j, k)] = costs[j] + costs[k] - _cost(counts[j] + counts[k])
    kept = [group for group in range(len(members)) if members[group]]
    choice = {member: number for number, group in enumerate(kept) for member in members[group]}
    return [_make_table(counts[group]) for group in kept], [choice[i] for i in range(len(arrays))]


def _cost(counts: np.ndarray) -> float:
    """Returns the bytes of a code of symbols that occur so often, and of its table."""
    used = np.flatnonzero(counts)
    seen = counts[used]
    bits = float((seen * np.log2(seen.sum() / seen)).sum())
    return bits / 8 + TABLE_ENTRY * (used[-1] - used[0] + 2)


def _make_table(counts: np.ndarray) -> Table:
    """Returns the table of symbols that occur so often; those between that do not have no room."""
    used = np.flatnonzero(counts)
    first, seen = int(used[0]), counts[used[0] : used[-1] + 1]
    total = 1 << BITS
    exact = seen * (total / seen.sum())
    frequencies = np.where(seen > 0, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
    # What is left goes where a slot saves the most bits; what is missing comes from where it costs
    # the least.
    while (rest := total - int(frequencies.sum())) != 0:
        step = 1 if rest > 0 else -1
        possible = (seen > 0) & (frequencies + step >= 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            change = np.where(possible, seen * np.log2((frequencies + step) / frequencies), -np.inf)
        frequencies[np.argmax(change)] += step
    return Table(first - 128, np.append(0, np.cumsum(frequencies)).astype(np.uint16))


def encode(weights: np.ndarray, table: Table) -> bytes:
    """Returns the code of weights int8 [...].

    Raises:
      UserError: the table has no room for one of them.
    """
    symbols = weights.reshape(-1).astype(np.int64) - table.first
    starts = table.starts.astype(np.int64)
    frequencies = np.diff(starts)
    inside = (symbols >= 0) & (symbols < len(frequencies))
    if not inside.all() or not frequencies[symbols].all():
        raise UserError("the table of the code lacks a weight")
    return _encode(symbols, starts, frequencies).tobytes()


@njit
def _encode(symbols: np.ndarray, starts: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    out = np.empty(2 * len(symbols) + 4, np.uint8)  # a symbol takes BITS bits at most
    position, state = len(out), LEAST
    for i in range(len(symbols) - 1, -1, -1):
        frequency = frequencies[symbols[i]]
        while state >= (LEAST >> BITS << 8) * frequency:
            position -= 1
            out[position] = state & 255
            state >>= 8
        state = (state // frequency << BITS) + state % frequency + starts[symbols[i]]
    for _ in range(4):
        position -= 1
        out[position] = state & 255
        state >>= 8
    return out[position:]


def decode(code: bytes, table: Table, count: int) -> np.ndarray:
    """Returns the weights of a code, int8 [count], as `engine_decode` does.

    Whatever the bytes are, it returns weights of the table.
    """
    data = np.frombuffer(code, np.uint8)
    return _decode(data, table.starts.astype(np.int64), table.first, count)


@njit
def _decode(data: np.ndarray, starts: np.ndarray, first: int, count: int) -> np.ndarray:
    out = np.empty(count, np.int8)
    position, state = 0, 0
    for _ in range(4):
        state = (state << 8) | (data[position] if position < len(data) else 0)
        position += 1
    for i in range(count):
        slot = state & ((1 << BITS) - 1)
        symbol = np.searchsorted(starts[1:-1], slot, side="right")
        state = (starts[symbol + 1] - starts[symbol]) * (state >> BITS) + slot - starts[symbol]
        for _ in range(4):
            if state < LEAST:
                state = (state << 8) | (data[position] if position < len(data) else 0)
                position += 1
        out[i] = first + symbol
    return out
