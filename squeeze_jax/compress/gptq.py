"""One matrix of weights as integer levels of one step: error feedback (GPTQ, arXiv 2210.17323) with a price on the bits of each level.

Each weight takes the level that costs least in distortion plus `multiplier` times its bits, and the error it leaves is made up for, as
well as they can, by the weights not yet rounded. So the levels near zero, which cost little, are taken where they do no harm.
"""

from typing import NamedTuple

import numba
import numpy as np

from squeeze_jax.compress.sqz.quantized_tensor import LIMIT

_FINEST = 4_095  # magnitude of a level in the search for a step
_PASSES = 2  # the levels of one pass tell the next what each costs


class Rounded(NamedTuple):
    """Matrices [blocks, k, outputs] as levels of one step."""

    levels: np.ndarray  # int32
    step: float  # exact in float32
    distortion: float  # half the quadratic form, nats
    bits: float  # by the levels' entropy


class Problem(NamedTuple):
    """What is rounded and what errors cost, with the inputs of each block in the order in which they are rounded."""

    targets: np.ndarray  # float64 [blocks, k, outputs]
    factors: np.ndarray  # float64 [blocks, k, k]: upper Cholesky factor of the inverse Hessian
    importance: np.ndarray  # float64 [blocks, outputs]
    order: np.ndarray  # int [blocks, k]

    def undone(self, levels: np.ndarray) -> np.ndarray:
        """Levels in the order of the inputs as they were given."""
        result = np.empty_like(levels)
        np.put_along_axis(result, self.order[..., None], levels, axis=1)
        return result


def problem(targets: np.ndarray, hessians: np.ndarray, importance: np.ndarray) -> Problem:
    """Prepares matrices for rounding: an error e, as a column of a block, costs importance / 2 * e' hessian e.

    Args:
      targets: float64 [blocks, k, outputs].
      hessians: float64 [blocks, k, k], positive definite.
      importance: float64 [blocks, outputs], positive.
    """
    # The weights that matter most go first, while there are others to make up for them.
    order = np.argsort(-np.einsum("bkk->bk", hessians), axis=1, kind="stable")
    factors = np.stack(
        [np.linalg.cholesky(np.linalg.inv(h[np.ix_(o, o)])).T for h, o in zip(hessians, order)]
    )
    return Problem(
        np.take_along_axis(targets, order[..., None], axis=1), factors, importance, order
    )


def best_step(given: Problem, multiplier: float) -> Rounded:
    """The levels, and of the steps a factor of sqrt 2 apart the one, of least distortion + multiplier * bits.

    Args:
      given: the matrices.
      multiplier: nats a bit is worth, above 0.
    """
    # Where errors are spread evenly over a step, this one's last bit is worth what it costs.
    spread = np.exp(np.mean(-2 * np.log(np.einsum("bkk->bk", given.factors)))) * np.mean(
        given.importance
    )
    first = np.sqrt(multiplier * 6 / np.log(2) / spread)
    largest = np.abs(given.targets).max()
    tried = {}

    def cost(place: int) -> float:
        step = first * 2 ** (place / 2)
        if step * _FINEST < largest:
            return np.inf
        tried[place] = at_step(given, step, multiplier)
        return tried[place].distortion + multiplier * tried[place].bits

    coarsest = (
        2 * int(np.ceil(max(0.0, np.log2(largest / _FINEST / first)))) + 1 if largest > 0 else 0
    )
    place = 0 if np.isfinite(here := cost(0)) else coarsest
    here = here if place == 0 else cost(place)
    for direction in (1, -1):
        start = place
        while (there := cost(place + direction)) < here:
            place, here = place + direction, there
        if place != start:
            break
    return tried[place]


def at_step(given: Problem, step: float, multiplier: float = 0.0, limit: int = LIMIT) -> Rounded:
    """The levels of least distortion + multiplier * bits at one step.

    Args:
      given: the matrices.
      step: above 0.
      multiplier: nats a bit is worth.
      limit: largest magnitude of a level.
    """
    step = float(np.float32(step))
    limit = min(limit, 2 * int(np.abs(given.targets).max() / step) + 2)
    levels = np.clip(np.rint(given.targets / step), -limit, limit).astype(np.int32)
    distortion = 0.0
    for _ in range(_PASSES if multiplier else 1):
        prices = multiplier * _bits_of(levels, limit)
        distortion = 0.0
        for block, (target, factor, importance) in enumerate(
            zip(given.targets, given.factors, given.importance)
        ):
            distortion += _feed_back(
                target.copy(),
                np.ascontiguousarray(factor),
                importance,
                step,
                prices,
                limit,
                levels[block],
            )
    counts = np.bincount(levels.reshape(-1) + limit)
    counts = counts[counts > 0]
    return Rounded(
        given.undone(levels), step, distortion, float(counts @ np.log2(levels.size / counts))
    )


def _bits_of(levels: np.ndarray, limit: int) -> np.ndarray:
    """What each level -limit..limit costs under the histogram of these, made symmetric and smooth but for zero's: bits."""
    counts = np.bincount(levels.reshape(-1) + limit, minlength=2 * limit + 1).astype(float)
    counts = (counts + counts[::-1]) / 2
    zeros, counts[limit] = counts[limit], 0
    counts = np.convolve(counts, np.array([1, 2, 3, 2, 1]) / 9, "full")[2:-2] + 0.02
    counts[limit] = zeros + 0.02
    return np.log2(counts.sum() / counts)


@numba.njit(cache=True)
def _feed_back(weights, factor, importance, step, prices, limit, levels):
    """Fills in a block's levels and returns their distortion; the weights, float64 [k, outputs], are used up."""
    k, outputs = weights.shape
    errors = np.zeros((k, outputs))
    distortion = 0.0
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
            distortion += 0.5 * importance[o] * errors[j, o] * errors[j, o]
    return distortion
