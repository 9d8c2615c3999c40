"""Quantizes matrices of weights by rate-distortion optimal GPTQ (arXiv 2210.17323).

Each weight takes the level that minimises its distortion plus `multiplier` times its bits. The
weights that are not quantized yet compensate for its error. Levels near zero cost few bits and are
chosen where they add little distortion. Sweeps of coordinate descent follow, in which a weight
takes the best level beside all others.
"""

from typing import NamedTuple

import numpy as np

from squeeze_jax.compress.machine_code import njit
from squeeze_jax.compress.sqz.quantized_tensor import LIMIT

_FINEST = 4_095  # largest magnitude of a level in the search for a step
_PASSES = 2  # each pass takes the prices of levels from the previous one's histogram
_SWEEPS = 3  # of coordinate descent, at most: fewer if one changes at most this part of the levels
_SETTLED = 0.002


class Rounded(NamedTuple):
    """Holds quantized matrices [blocks, k, outputs], multiples of one step."""

    levels: np.ndarray  # int32
    step: float  # exact in float32
    distortion: float  # nats
    bits: float  # entropy of the levels, times their number

    def cost(self, multiplier: float) -> float:
        """Returns distortion + multiplier * bits, nats."""
        return self.distortion + multiplier * self.bits


class Problem(NamedTuple):
    """Holds matrices to quantize and the cost of errors; inputs are in the order of processing."""

    targets: np.ndarray  # float64 [blocks, k, outputs]
    hessians: np.ndarray  # float64 [blocks, k, k]
    factors: np.ndarray  # float64 [blocks, k, k]: upper Cholesky factor of the inverse Hessian
    importance: np.ndarray  # float64 [blocks, outputs]
    order: np.ndarray  # int [blocks, k]: the original index of each input

    def apply_order(self, levels: np.ndarray) -> np.ndarray:
        """Returns levels in their original order with the inputs in the order of processing."""
        return np.take_along_axis(levels, self.order[..., None], axis=1)

    def restore_order(self, levels: np.ndarray) -> np.ndarray:
        """Returns the levels with the inputs in their original order."""
        result = np.empty_like(levels)
        np.put_along_axis(result, self.order[..., None], levels, axis=1)
        return result


def make_problem(targets: np.ndarray, hessians: np.ndarray, importance: np.ndarray) -> Problem:
    """Prepares matrices for quantization.

    An error e of a column of a block costs importance / 2 * e' hessian e nats.

    Args:
      targets: the matrices, float64 [blocks, k, outputs].
      hessians: float64 [blocks, k, k], positive definite.
      importance: float64 [blocks, outputs], positive.
    """
    # The most sensitive inputs go first, while most others are left to compensate for their errors.
    order = np.argsort(-np.einsum("bkk->bk", hessians), axis=1, kind="stable")
    hessians = np.stack([h[np.ix_(o, o)] for h, o in zip(hessians, order, strict=True)])
    factors = np.stack([np.linalg.cholesky(np.linalg.inv(h)).T for h in hessians])
    return Problem(
        np.take_along_axis(targets, order[..., None], axis=1), hessians, factors, importance, order
    )


def search_step(given: Problem, multiplier: float) -> Rounded:
    """Quantizes with the step that minimises distortion + multiplier * bits.

    Candidate steps differ by factors of sqrt(2).

    Args:
      given: the matrices.
      multiplier: price of a bit, nats, above 0.
    """
    # The search starts at the step that would be optimal for errors uniform over a step.
    spread = np.exp(np.mean(-2 * np.log(np.einsum("bkk->bk", given.factors)))) * np.mean(
        given.importance
    )
    first = np.sqrt(multiplier * 6 / np.log(2) / spread)
    largest = np.abs(given.targets).max()
    first = min(first, 2 * largest or 1.0)  # all levels are zero there, whatever the errors cost
    tried = {}

    def cost(index: int) -> float:
        step = first * 2 ** (index / 2)
        if step * _FINEST < largest:
            return np.inf
        tried[index] = quantize_at(given, step, multiplier)
        return tried[index].cost(multiplier)

    coarsest = (
        2 * int(np.ceil(max(0.0, np.log2(largest / _FINEST / first)))) + 1 if largest > 0 else 0
    )
    index = 0 if np.isfinite(here := cost(0)) else coarsest
    here = here if index == 0 else cost(index)
    for direction in (1, -1):
        start = index
        while (there := cost(index + direction)) < here:
            index, here = index + direction, there
        if index != start:
            break
    return tried[index]


def quantize_at(
    given: Problem, step: float, multiplier: float = 0.0, limit: int = LIMIT
) -> Rounded:
    """Quantizes with a given step, minimising distortion + multiplier * bits.

    Args:
      given: the matrices.
      step: above 0; rounded to float32.
      multiplier: price of a bit, nats.
      limit: largest magnitude of a level.
    """
    step = float(np.float32(step))
    limit = min(limit, 2 * int(np.abs(given.targets).max() / step) + 2)
    levels = np.clip(np.rint(given.targets / step), -limit, limit).astype(np.int32)
    for _ in range(_PASSES if multiplier else 1):
        prices = multiplier * count_bits(levels, limit)
        for block, (target, factor, importance) in enumerate(
            zip(given.targets, given.factors, given.importance, strict=True)
        ):
            _feed_back(
                target.copy(),
                np.ascontiguousarray(factor),
                importance,
                step,
                prices,
                limit,
                levels[block],
            )
    return descend(given, levels, step, multiplier, limit)


def descend(
    given: Problem, levels: np.ndarray, step: float, multiplier: float, limit: int
) -> Rounded:
    """Improves levels by coordinate descent on distortion + multiplier * bits.

    Args:
      given: the matrices.
      levels: int32 [blocks, k, outputs], in the order of processing.
      step: exact in float32.
      multiplier: price of a bit, nats.
      limit: largest magnitude of a level.
    """
    rows = np.ascontiguousarray(levels.transpose(0, 2, 1))
    errors = rows * step - given.targets.transpose(0, 2, 1)
    gradients = errors @ given.hessians
    for _ in range(_SWEEPS):
        prices = multiplier * count_bits(rows, limit)
        changed = sum(
            _descend(*block, step, prices, limit)
            for block in zip(rows, errors, gradients, given.hessians, given.importance, strict=True)
        )
        if changed <= _SETTLED * rows.size:
            break
    costs = np.einsum("bok,bok->bo", errors, errors @ given.hessians)
    counts = np.bincount(rows.reshape(-1) + limit)
    counts = counts[counts > 0]
    return Rounded(
        given.restore_order(rows.transpose(0, 2, 1)),
        step,
        0.5 * float((given.importance * costs).sum()),
        float(counts @ np.log2(rows.size / counts)),
    )


def count_bits(levels: np.ndarray, limit: int) -> np.ndarray:
    """Returns the bits of each level from -limit to limit, float64 [2 * limit + 1].

    They are the negative log2 of the histogram of `levels`, which is made symmetric and smoothed,
    except at zero.
    """
    counts = np.bincount(levels.reshape(-1) + limit, minlength=2 * limit + 1).astype(float)
    counts = (counts + counts[::-1]) / 2
    zeros, counts[limit] = counts[limit], 0
    counts = np.convolve(counts, np.array([1, 2, 3, 2, 1]) / 9, "full")[2:-2] + 0.02
    counts[limit] = zeros + 0.02
    return np.log2(counts.sum() / counts)


@njit
def _feed_back(weights, factor, importance, step, prices, limit, levels):
    """Writes a block's levels, int32 [k, outputs].

    Overwrites the weights, float64 [k, outputs]. `factor` is float64 [k, k], `importance` float64
    [outputs], and `prices` holds the price of each level from -limit to limit, nats.
    """
    k, outputs = weights.shape
    errors = np.zeros((k, outputs))
    for j in range(k):
        for i in range(j):
            share = factor[i, j]
            if share != 0.0:
                for o in range(outputs):
                    weights[j, o] -= errors[i, o] * share
        scale = factor[j, j]
        for o in range(outputs):
            weight = weights[j, o]
            nearest = min(max(np.int64(np.rint(weight / step)), -limit), limit)
            best, least = 0, np.inf
            for candidate in (nearest, nearest - 1 if nearest > 0 else nearest + 1, 0):
                if abs(candidate) > limit:
                    continue
                error = (weight - candidate * step) / scale
                cost = 0.5 * importance[o] * error * error + prices[candidate + limit]
                if cost < least:
                    best, least = candidate, cost
            levels[j, o] = best
            errors[j, o] = (weight - best * step) / scale


@njit
def _descend(levels, errors, gradients, hessian, importance, step, prices, limit):
    """Gives each weight of a block the level of least cost beside the others, and counts changes.

    Overwrites the levels, int32 [outputs, k], their errors (level * step - target) and the errors
    times the Hessian, both float64 [outputs, k]. `hessian` is float64 [k, k], `importance` float64
    [outputs], and `prices` as for `_feed_back`.
    """
    outputs, k = levels.shape
    changed = 0
    for o in range(outputs):
        for i in range(k):
            curvature, here = hessian[i, i], levels[o, i]
            wanted = here - gradients[o, i] / curvature / step
            nearest = min(max(np.int64(np.rint(wanted)), -limit), limit)
            scale = 0.5 * importance[o] * curvature * step * step
            # A change must pay, or rounding would move weights to and fro.
            best, least = here, (scale * (wanted - here) ** 2 + prices[here + limit]) * (1 - 1e-9)
            for candidate in (nearest, nearest - 1 if nearest > 0 else nearest + 1, 0):
                if abs(candidate) > limit:
                    continue
                cost = scale * (wanted - candidate) ** 2 + prices[candidate + limit]
                if cost < least:
                    best, least = candidate, cost
            if best != here:
                change = (best - here) * step
                levels[o, i] = best
                errors[o, i] += change
                for j in range(k):
                    gradients[o, j] += hessian[i, j] * change
                changed += 1
    return changed
