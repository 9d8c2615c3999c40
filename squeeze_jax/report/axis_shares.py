"""What each swept axis matters: its share of the variance of a space's errors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squeeze_jax.report.spaces import Space, interval
from squeeze_jax.report.tables import Point, show

LEAST_DESIGNS = 10
# Of the forest: trees, refits of the bootstrap, and points of the space that an effect is averaged
# over.
TREES, REFITS, SAMPLES = 48, 40, 256


def axis_shares(space: Space, seed: int = 0) -> dict[str, Any] | None:
    """Returns the share of the errors' variance that each swept axis explains by itself.

    A random forest is fitted to the designs, and its variance over the space is divided (fANOVA,
    Hutter et al. 2014): the share of an axis is that of its mean effect, the others averaged over
    values drawn independently. What is left belongs to axes that act together. An axis that a
    design lacks (None) has a value of its own there. Intervals are by bootstrap of designs.

    Returns:
      axes: key -> {"share" (%), "interval"}; together (%): the rest; r2: how well the forest
      predicts designs that a tree has not seen (out of bag), at most 1. None where there are fewer
      than LEAST_DESIGNS designs, or no axis or error that differs.
    """
    keys = [key for key in space.study.swept if len({_value(p, key) for p in space.points}) > 1]
    errors = space.errors
    if len(errors) < LEAST_DESIGNS or not keys or np.ptp(errors) == 0:
        return None
    columns = {key: _encode([_get(point, key) for point in space.points]) for key in keys}
    shares, r2 = _divide_variance(columns, errors, seed, scored=True)
    random = np.random.default_rng(seed)
    refits = []
    for refit in range(REFITS):
        rows = random.integers(0, len(errors), len(errors))
        drawn = {key: values[rows] for key, values in columns.items()}
        refits.append(_divide_variance(drawn, errors[rows], seed + refit)[0])
    return {
        "axes": {
            key: {
                "share": 100 * shares[key],
                "interval": interval(100 * np.array([refit[key] for refit in refits])),
            }
            for key in sorted(keys, key=lambda key: -shares[key])
        },
        "together": 100 * max(0.0, 1 - sum(shares.values())),
        "r2": r2,
    }


def _divide_variance(
    columns: Mapping[str, np.ndarray], errors: np.ndarray, seed: int, scored: bool = False
) -> tuple[dict[str, float], float | None]:
    """Returns each axis's share of a forest's variance, and its out-of-bag R² where it is asked."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(TREES, oob_score=scored, random_state=seed)
    forest.fit(np.hstack([*columns.values()]), errors)
    random = np.random.default_rng(seed)
    count = len(errors)
    base = {key: each[random.integers(0, count, SAMPLES)] for key, each in columns.items()}
    total = forest.predict(np.hstack([*base.values()])).var()
    shares = {}
    for key, each in columns.items():
        values, counts = np.unique(each, axis=0, return_counts=True, equal_nan=True)
        held = [np.broadcast_to(value, (SAMPLES, each.shape[1])) for value in values]
        rows = [np.hstack([*(base | {key: each}).values()]) for each in held]
        effects = forest.predict(np.vstack(rows)).reshape(len(values), SAMPLES).mean(axis=1)
        mean = np.average(effects, weights=counts)
        variance = np.average((effects - mean) ** 2, weights=counts)
        shares[key] = float(variance / total) if total > 0 else 0.0
    return shares, float(forest.oob_score_) if scored else None


def _encode(values: Sequence[Any]) -> np.ndarray:
    """Returns an axis as columns of numbers [designs, columns]: itself, or one a category.

    A number that a design lacks is below all others.
    """
    known = [value for value in values if value is not None]
    if all(isinstance(value, int | float) for value in known):
        lacking = min(known) - 1.0 - (max(known) - min(known))
        return np.array([[lacking if value is None else float(value)] for value in values])
    names = [show(value) for value in values]
    return np.array([[float(name == each) for each in sorted(set(names))] for name in names])


def _get(point: Point, key: str) -> Any:
    return point.design.get(key)


def _value(point: Point, key: str) -> str:
    return show(_get(point, key))
