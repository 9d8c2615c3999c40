"""Codes binary decisions by context mixing and arithmetic coding, in integer arithmetic.

One function encodes and decodes. The probability of a decision is mixed as in the PAQ family (M.
Mahoney, lpaq1; "Adaptive Weighing of Context Models for Lossless Data Compression", 2005): each
context keeps an adaptive probability, whose logit is an input of gated linear mixers that learn
online. A final stage, an adaptive probability map, corrects the mix. Logits are in 1/256,
probabilities in 1/65536. The arithmetic coder is the carry-less 32-bit coder of the same programs.
c/sqz.c repeats every operation; a change here changes the format.
"""

from typing import NamedTuple

import numpy as np

from squeeze_jax.compress.machine_code import njit

INPUTS = 14  # inputs of a mixer: input 0 is a given logit, each other one has a table of contexts
SETS = 3  # sets of mixers: a small context selects one of each; their logits are averaged
CHOICES = 512  # mixers in a set
REFINED = 96  # contexts of the final stage, each a curve through 33 points
VALUE_BITS = 12  # log2 of the contexts in each table for floating-point numbers

# Indices into `Model.coder`.
LOW, HIGH, CODE, POSITION, FAILED, DECODING, BITS = range(7)

# Learning constants, chosen on the released Deep-Compressed SqueezeNet.
_RATE = 13  # a mixer's step is error * input / 2^13
_REFINING = 6
_LEARNED = 1000  # decisions after which a context's rate no longer falls
_WEIGHT, _PRIOR_WEIGHT = 104_858, 419_430  # initial weights of a mixer, in 1/2^20


class Model(NamedTuple):
    """Holds the state of a coder, as a tuple that numba can unpack."""

    coder: np.ndarray  # int64 [7]
    data: np.ndarray  # uint8, the code that is written or read
    # uint32: 22 bits of probability and 10 of count; 13 tables of 2^BITS, then 13 of 2^VALUE_BITS.
    states: np.ndarray
    slots: np.ndarray  # int64 [INPUTS]: indices of the current decision's states
    bases: np.ndarray  # int64 [INPUTS]: contexts of the current symbol
    inputs: np.ndarray  # int64 [INPUTS]
    weights: np.ndarray  # int32 [SETS, CHOICES, INPUTS]
    chosen: np.ndarray  # int64 [SETS]
    refined: np.ndarray  # int32 [REFINED * 33]
    squash: np.ndarray  # int32 [4096]
    stretch: np.ndarray  # int32 [4096]
    rates: np.ndarray  # int32 [1024]
    trust: np.ndarray  # int32 [1024]


def _tabulate_logistic() -> tuple[np.ndarray, np.ndarray]:
    """Tabulates the logistic function and its inverse; the integers are the same on all machines.

    Returns:
      (squash, stretch): the function at the logits -2048..2047 in 1/256, and its inverse at 4,096
      probabilities.
    """
    squash = np.zeros(4096, np.int32)
    power = 2**32  # a power of e^(-1/256), in 1/2^32
    for k in range(2048):
        squash[2048 + k] = min(65535, 2**48 // (2**32 + power))
        squash[2048 - k] = 65536 - squash[2048 + k]
        power = power * 4_278_222_805 >> 32
    squash[0] = squash[1]
    # The inverse is the first logit whose probability reaches the middle of a step.
    stretch = np.searchsorted(squash, np.arange(4096) * 16 + 8).astype(np.int32) - 2048
    return squash, np.minimum(stretch, 2047)


_SQUASH, _STRETCH = _tabulate_logistic()
# After n decisions the learning rate is 1 / (n + 1.6), and the trust in an input n / (n + 0.5).
_RATES = np.array([65536 * 5 // (5 * min(n, _LEARNED) + 8) for n in range(1024)], np.int32)
_TRUST = np.array([512 * n // (2 * n + 1) for n in range(1024)], np.int32)


def make_model(data: np.ndarray, bits: int, decoding: bool) -> Model:
    """Returns the initial state of a coder.

    Args:
      data: the code to read, or an array to write to, uint8 [bytes].
      bits: log2 of the contexts in each table for levels; takes 52 * 2^bits bytes of memory.
      decoding: whether the coder decodes.
    """
    tables = INPUTS - 1
    weights = np.full((SETS, CHOICES, INPUTS), _WEIGHT, np.int32)
    weights[:, :, 0] = _PRIOR_WEIGHT
    coder = np.array([0, 0xFFFFFFFF, 0, 0, 0, decoding, bits], np.int64)
    if decoding:
        coder[CODE] = int.from_bytes(bytes(data[:4]).ljust(4, b"\0"), "big")
        coder[POSITION] = 4
    return Model(
        coder=coder,
        data=data,
        states=np.full(tables * (2**bits + 2**VALUE_BITS), 2**31, np.uint32),
        slots=np.zeros(INPUTS, np.int64),
        bases=np.zeros(INPUTS, np.int64),
        inputs=np.zeros(INPUTS, np.int64),
        weights=weights,
        chosen=np.zeros(SETS, np.int64),
        refined=np.tile(_SQUASH[np.minimum(np.arange(33) * 128, 4095)], REFINED),
        squash=_SQUASH,
        stretch=_STRETCH,
        rates=_RATES,
        trust=_TRUST,
    )


@njit
def select_slots(m, first, bits, count, node):
    """Selects the states of inputs 1..count-1, by the contexts m.bases and a decision's node."""
    for i in range(1, count):
        m.slots[i] = (
            first
            + ((i - 1) << bits)
            + ((((m.bases[i] + node) * 0x2F0B4C47) & 0xFFFFFFFF) >> (32 - bits))
        )


@njit
def _code_interval(m, p, bit):
    """Codes a bit that is 1 with probability p / 65536, and returns it."""
    coder = m.coder
    low, high = coder[LOW], coder[HIGH]
    middle = low + (((high - low) * p) >> 16)
    if coder[DECODING]:
        bit = np.int64(coder[CODE] <= middle)
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) & 0xFF000000 == 0:
        at = coder[POSITION]
        coder[POSITION] = at + 1
        if coder[DECODING]:
            # The encoder drops the last three bytes of the code; a code that needs more is damaged.
            coder[CODE] = ((coder[CODE] << 8) & 0xFFFFFFFF) | (
                np.int64(m.data[at]) if at < len(m.data) else 0
            )
            if at >= len(m.data) + 3:
                coder[FAILED] = 1
        elif at < len(m.data):
            m.data[at] = high >> 24
        else:
            coder[FAILED] = 1
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
    coder[LOW], coder[HIGH] = low, high
    return bit


@njit
def code(m, count, prior, refining, bit):
    """Codes one decision, learns from it and returns it.

    Args:
      m: the model, with the states in m.slots and the mixers in m.chosen.
      count: number of active inputs.
      prior: input 0, a logit in 1/256.
      refining: context of the final stage.
      bit: the decision; ignored when decoding.
    """
    inputs, slots, states = m.inputs, m.slots, m.states
    inputs[0] = prior
    for i in range(1, count):
        state = np.int64(states[slots[i]])
        inputs[i] = (np.int64(m.stretch[state >> 20]) * m.trust[state & 1023]) >> 8
    total = 0
    dots = (0, 0, 0)
    for s in range(SETS):
        weights = m.weights[s, m.chosen[s]]
        dot = 0
        for i in range(count):
            dot += np.int64(weights[i]) * inputs[i]
        dot = min(max(dot >> 20, -2047), 2047)
        total += dot
        dots = (dots[1], dots[2], dot)
    logit = (total + 3 * 2048) // SETS - 2048
    at = (logit + 2048) * 32
    curve = refining * 33 + (at >> 12)
    part = at & 4095
    refined = (
        np.int64(m.refined[curve]) * (4096 - part) + np.int64(m.refined[curve + 1]) * part
    ) >> 12
    p = min(max((3 * np.int64(m.squash[logit + 2048]) + refined) >> 2, 1), 65535)

    bit = _code_interval(m, p, bit)

    for s in range(SETS):
        weights = m.weights[s, m.chosen[s]]
        error = (bit << 16) - np.int64(m.squash[dots[s] + 2048])
        for i in range(count):
            weight = weights[i] + ((inputs[i] * error + (1 << (_RATE - 1))) >> _RATE)
            weights[i] = min(max(weight, -(1 << 30)), 1 << 30)
    if part >= 2048:
        curve += 1
    m.refined[curve] += ((bit << 16) - np.int64(m.refined[curve])) >> _REFINING
    for i in range(1, count):
        state = np.int64(states[slots[i]])
        seen = state & 1023
        p22 = state >> 10
        p22 += (((bit << 22) - p22) * m.rates[seen]) >> 16
        p22 = min(max(p22, 1), (1 << 22) - 1)
        states[slots[i]] = (p22 << 10) | min(seen + 1, _LEARNED)
    return bit


@njit
def size_class(value):
    """Returns the class of a magnitude, at most 63.

    An octave has two classes: 0, 1, 2, 3, 4-5, 6-7, 8-11, ...
    """
    value = abs(value)
    if value < 4:
        return value
    octave = 0
    while value >= 4:
        value >>= 1
        octave += 1
    return min(2 + 2 * octave + (value & 1), 63)
