"""Splits tensors into binary decisions and chooses the contexts of each decision.

A level is coded as four parts: whether it is zero; its sign; its bit length less one, in unary; and
its bits below the leading one, high bits first. Decisions that the largest level of its sign
determines are skipped. Each context keeps one probability for each node of this decision tree.
"""

import numpy as np

from squeeze_jax.compress.machine_code import njit
from squeeze_jax.compress.sqz.mixing import (
    BITS,
    CHOICES,
    FAILED,
    INPUTS,
    VALUE_BITS,
    code,
    select_slots,
    size_class,
)

# Constants that are arguments are of np.int64: for each literal, Numba would compile the function
# once more, which took most of the ten seconds before the first file was open.
_0, _1, _2 = np.int64(0), np.int64(1), np.int64(2)
_ALL, _VALUE_BITS, _REFINING = np.int64(INPUTS), np.int64(VALUE_BITS), np.int64(95)
_NODES = 1 << 14  # bound on the nodes of a level's decision tree; contexts are multiplied by it
_ZERO, _SIGN, _LENGTH, _BELOW = _1, _2, 4096, 8192  # first nodes of the four parts
_BIAS = np.int64(256)  # a constant input
# Inputs for nearly random decisions, from the third bit below the leading one on.
_FEW = np.int64(6)


@njit
def _signed_class(value):
    return 64 + size_class(value) if value >= 0 else 64 - size_class(value)


@njit
def _sign(value):
    return 1 if value == 0 else (2 if value > 0 else 0)


@njit
def _set_bases(m, contexts):
    for i in range(INPUTS - 1):
        m.bases[i + 1] = contexts[i] * _NODES + i


@njit
def _split_logit(m, edges, low, middle, high):
    """Returns the logit of a level being in middle..high, given that it is in low..high.

    All values in the cells of these levels count as equally likely.
    """
    if len(edges) == 0:
        upper, whole = high - middle + 1, high - low + 1
    else:
        upper, whole = edges[high] - edges[middle - 1], edges[high] - edges[low - 1]
    return np.int64(m.stretch[upper * 4094 // max(whole, 1) + 1])


@njit
def _code_magnitude(m, magnitude, negative, edges, largest, row_class, column_class):
    """Codes a magnitude 1..largest under m.bases; `edges` holds the edges of its sign's cells."""
    bits = m.coder[BITS]
    k = 0
    if magnitude > 1:
        while magnitude >> (k + 1):
            k += 1
    length = 0
    while (2 << length) <= largest:
        low, middle = 1 << length, 2 << length
        logit = _split_logit(m, edges, low, middle, largest)
        select_slots(m, _0, bits, _ALL, _LENGTH + length)
        m.bases[1] = 3
        select_slots(
            m, _0, bits, _2, _LENGTH + length * 64 + ((logit + 2048) >> 6) + 2048 * negative
        )
        m.chosen[0] = 2 + length
        m.chosen[1] = 100 + row_class
        m.chosen[2] = 300 + column_class
        if not code(m, _ALL, logit, 2 + length, np.int64(length < k)):
            break
        length += 1
    node = 1
    for depth in range(length):
        left = length - 1 - depth
        bit = (magnitude >> left) & 1
        low = node << (left + 1)
        middle, high = low + (1 << left), min(low + (2 << left) - 1, largest)
        if middle > largest:
            node *= 2
            continue
        logit = _split_logit(m, edges, low, middle, high)
        count = _ALL if depth < 2 else _FEW
        select_slots(
            m,
            _0,
            bits,
            count,
            _BELOW + 256 * length + node if depth < 8 else _BELOW + 256 * 25 + depth,
        )
        m.bases[1] = 3
        select_slots(
            m, _0, bits, _2, _BELOW + depth * 256 + ((logit + 2048) >> 4) + _NODES * (left + 1)
        )
        m.chosen[0] = 40 + 8 * length + min(depth, 7)
        m.chosen[1] = 164 + row_class
        m.chosen[2] = 364 + column_class
        node = node * 2 + code(m, count, logit, 64 + depth, bit)
    return node


@njit
def code_levels(m, levels, sizes, strides, width, below, above, positive_edges, negative_edges):
    """Encodes a tensor's levels, or decodes them into `levels`.

    Args:
      m: the model.
      levels: int32 [weights], in memory order.
      sizes: numbers of outer channels, inner channels and kernel taps.
      strides: their strides in `levels`.
      width: width of the kernel, taps.
      below: largest magnitude of a negative level.
      above: largest positive level.
      positive_edges: `find_edges` of the positive levels; empty if all cells are equally wide.
      negative_edges: `find_edges` of the negative levels, or empty.
    """
    outer, inner, taps = sizes
    outer_stride, inner_stride, tap_stride = strides
    bits = m.coder[BITS]
    # The statistics of cell widths, in the first table, carry over between tensors; others do not.
    m.states[1 << bits : (INPUTS - 1) << bits] = np.uint32(1 << 31)
    row_count, row_sum = np.zeros(outer, np.int64), np.zeros(outer, np.int64)
    column_count, column_sum = np.zeros(inner, np.int64), np.zeros(inner, np.int64)
    for a in range(outer):
        for b in range(inner):
            kernel_count, kernel_sum, kernel_mask = _0, _0, _0
            for t in range(taps):
                at = a * outer_stride + b * inner_stride + t * tap_stride
                # Levels of the same tap in preceding channels, and of neighbouring taps.
                left, left2 = np.int64(0), np.int64(0)
                up, up2, corner = np.int64(0), np.int64(0), np.int64(0)
                west, north, northwest = np.int64(0), np.int64(0), np.int64(0)
                if b > 0:
                    left = np.int64(levels[at - inner_stride])
                    left2 = np.int64(levels[at - 2 * inner_stride]) if b > 1 else left2
                    corner = np.int64(levels[at - inner_stride - outer_stride]) if a > 0 else corner
                if a > 0:
                    up = np.int64(levels[at - outer_stride])
                    up2 = np.int64(levels[at - 2 * outer_stride]) if a > 1 else up2
                if t % width > 0:
                    west = np.int64(levels[at - tap_stride])
                    northwest = (
                        np.int64(levels[at - (width + 1) * tap_stride]) if t >= width else northwest
                    )
                if t >= width:
                    north = np.int64(levels[at - width * tap_stride])
                row_seen, column_seen = b * taps + t, a * taps + t
                row_density = row_count[a] * 32 // (row_seen + 1)
                column_density = column_count[b] * 32 // (column_seen + 1)
                row_class = size_class(row_sum[a] * 4 // (row_count[a] + 1))
                column_class = size_class(column_sum[b] * 4 // (column_count[b] + 1))
                row_age, column_age = size_class(row_seen), size_class(column_seen)
                around = (
                    (left != 0)
                    | ((up != 0) << 1)
                    | ((left2 != 0) << 2)
                    | ((up2 != 0) << 3)
                    | ((corner != 0) << 4)
                )
                beside = (west != 0) | ((north != 0) << 1)
                _set_bases(
                    m,
                    (
                        row_density * 64 + row_age,
                        t,
                        a,
                        b,
                        b * taps + t,
                        a * taps + t,
                        row_density * 40 + column_density,
                        around * 4 + beside,
                        (min(t, 15) * 32 + min(kernel_count, 15)) * 2 + (west != 0),
                        kernel_mask,
                        size_class(left) * 64 + size_class(up),
                        row_class * 64 + column_class,
                        (row_density >> 1) * 32 + (column_density >> 1),
                    ),
                )
                select_slots(m, _0, bits, _ALL, _ZERO)
                m.chosen[0] = 0
                m.chosen[1] = 1 + (row_density >> 2) * 9 + (column_density >> 2)
                m.chosen[2] = min(row_age, 15) * 16 + min(column_age, 15)
                nonzero = code(m, _ALL, _BIAS, _0, np.int64(levels[at] != 0))
                if m.coder[FAILED]:
                    return
                if not nonzero:
                    levels[at] = 0
                    kernel_mask = (kernel_mask * 2) & 0xFFFF
                    continue

                value = np.int64(levels[at])
                gradient = west + north - northwest
                negative = np.int64(above == 0)
                if above > 0 and below > 0:
                    channels, neighbours = (
                        _sign(left) + 3 * _sign(up),
                        _sign(west) + 3 * _sign(north) + 9 * _sign(northwest),
                    )
                    _set_bases(
                        m,
                        (
                            t,
                            _0,
                            a,
                            b,
                            b * taps + t,
                            a * taps + t,
                            channels,
                            neighbours,
                            _signed_class(west) * 128 + _signed_class(north),
                            _signed_class(left) * 128 + _signed_class(up),
                            _signed_class(gradient),
                            channels * 27 + neighbours,
                            _signed_class(left),
                        ),
                    )
                    select_slots(m, _0, bits, _ALL, _SIGN)
                    m.chosen[0] = 1
                    m.chosen[1] = 0
                    m.chosen[2] = 256 + min(t, 7)
                    negative = code(m, _ALL, _BIAS, _1, np.int64(value < 0))

                total = abs(left) + abs(up) + abs(left2) + abs(up2) + 2 * abs(west) + 2 * abs(north)
                usual = row_sum[a] * 2 // (row_count[a] + 1) + column_sum[b] * 2 // (
                    column_count[b] + 1
                )
                _set_bases(
                    m,
                    (
                        _0,
                        _0,
                        negative,
                        row_class * 2 + negative,
                        column_class * 2 + negative,
                        (row_class * 64 + column_class) * 2 + negative,
                        size_class(left) * 64 + size_class(up),
                        size_class(west) * 64 + size_class(north),
                        size_class(kernel_sum * 4 // (kernel_count + 1)) * 16 + min(t, 15),
                        a,
                        b,
                        _signed_class(gradient) * 2 + negative,
                        size_class(total) * 64 + size_class(usual),
                    ),
                )
                largest = below if negative else above
                edges = negative_edges if negative else positive_edges
                magnitude = _code_magnitude(
                    m, abs(value), negative, edges, largest, row_class, column_class
                )
                levels[at] = -magnitude if negative else magnitude
                row_count[a] += 1
                row_sum[a] += magnitude
                column_count[b] += 1
                column_sum[b] += magnitude
                kernel_count += 1
                kernel_sum += magnitude
                kernel_mask = (kernel_mask * 2 + 1) & 0xFFFF


@njit
def _code_bits(m, value, width, shown, number, phase, first, second):
    """Codes a number of `width` bits, high bits first.

    The contexts of the first `shown` bits include the bits before them; the others are coded by
    their place alone.
    """
    table = (INPUTS - 1) << m.coder[BITS]
    node = np.int64(1)
    for place in range(width):
        bit = (value >> (width - 1 - place)) & 1
        if place < shown:
            count, at = 6, node
        else:
            count, at = 2, (1 << 13) + place
        m.bases[1] = (phase * 2) << 14
        m.bases[2] = ((phase * 64 + number) * 2 + 1) << 14
        m.bases[3] = (phase * 4096 + first) << 14
        m.bases[4] = (phase * 4096 + second) << 14
        m.bases[5] = ((phase * 4096 + first) * 64 + second) << 14
        select_slots(m, table, _VALUE_BITS, count, at)
        m.chosen[0] = 256 + phase * 34 + place
        m.chosen[1] = 240
        m.chosen[2] = CHOICES - 1 - phase
        node = node * 2 + code(m, count, _BIAS, _REFINING, bit)
        if m.coder[FAILED]:
            return np.int64(0)
    return node - (np.int64(1) << width)


@njit
def code_values(m, values, width, columns, number):
    """Encodes floating-point numbers, or decodes them into `values`.

    A number is coded as whether any of its bits is set, and then its bits.

    Args:
      m: the model.
      values: the bits of each number, int64 [values].
      width: bits of a number, 32 or 16.
      columns: columns of the row-major matrix of the numbers.
      number: index of the tensor in the file.
    """
    head = 9 if width == 32 else 6  # bits of sign and exponent
    before, before2 = np.int64(0), np.int64(0)  # exponents of the last non-zero numbers
    here = np.int64(0)  # bit mask: which of the last 12 numbers are 0
    for i in range(len(values)):
        above = np.int64(0)  # bit mask: which of the 6 numbers above are not 0
        for k in range(1, min(6, i // columns) + 1):
            above = above * 2 + (values[i - k * columns] != 0)
        some = _code_bits(m, np.int64(values[i] != 0), _1, _1, number, np.int64(4), here, above)
        if some:
            values[i] = _code_bits(
                m, values[i], width, head + 2, number, width >> 5, before, before2
            )
            before2 = before
            before = (values[i] >> (width - head)) & ((1 << (head - 1)) - 1)
        else:
            values[i] = 0
        if m.coder[FAILED]:
            return
        here = (here * 2 + 1 - some) & 4095


@njit
def code_codebook(m, values, number):
    """Encodes one side of a codebook, outwards from zero, or decodes it into `values`.

    Args:
      m: the model.
      values: the bits of the float32 magnitudes, int64 [values], ascending.
      number: index of the tensor in the file.
    """
    value = np.int64(0)
    gap, gap_length, exponent = np.int64(0), np.int64(0), np.int64(0)
    for i in range(len(values)):
        # Gaps are similar: expect the previous one, in units in the last place of this value.
        expected = size_class(gap >> min((value >> 23) - exponent, 31)) if i > 1 else 60 + i
        step = values[i] - value
        length = 0
        while step >> (length + 1) > 0:
            length += 1
        length = _code_bits(m, length, np.int64(5), np.int64(5), number, _2, expected, gap_length)
        step = (np.int64(1) << length) + _code_bits(
            m, step, length, np.int64(3), number, np.int64(3), length, expected
        )
        if m.coder[FAILED] or value + step > 0x7F7FFFFF:
            m.coder[FAILED] = 1
            return
        exponent = (value + (step >> 1)) >> 23
        value += step
        gap, gap_length = step, length
        values[i] = value


def find_edges(values: np.ndarray) -> np.ndarray:
    """Returns the edges of a codebook's cells, half way between neighbouring values.

    Args:
      values: the bits of one side's float32 magnitudes, int64 [values], ascending.

    Returns:
      int64 [values + 1], in units of 2^-20 times the largest value's power of 2.
    """
    if not len(values):
        return np.zeros(1, np.int64)
    exponents = np.maximum(values >> 23, 1)
    mantissas = (values & 0x7FFFFF) + ((values >> 23 > 0).astype(np.int64) << 23)
    fixed = mantissas >> np.minimum(exponents[-1:] - exponents + 3, 31)
    ends = np.zeros(len(values) + 1, np.int64)
    ends[:-1] = (fixed + np.append(0, fixed[:-1])) >> 1
    ends[-1:] = 2 * fixed[-1:] - ends[-2:-1]
    return ends
