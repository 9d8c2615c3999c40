"""The x axis of a study: swept keys that move together are one axis."""

from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_jax.study.columns import COLUMNS

Designs = Sequence[Mapping[str, Any]]  # swept key -> value of each design


def find_axis(x: str, designs: Designs) -> str:
    """Returns what the x axis shows: a swept key, or a cost of the designs.

    Args:
      x: the key or the column that the config names; "" where it names none.
      designs: of the trials.

    Returns:
      `x` if it is swept or a cost; otherwise the first swept key if all of them move together;
      otherwise `x`.
    """
    keys = list(designs[0]) if designs else []
    if x in (*keys, *COLUMNS) or not keys or keys_moving_with(keys[0], designs) != set(keys):
        return x
    return keys[0]


def keys_moving_with(x: str, designs: Designs) -> set[str]:
    """Returns the keys of which each value goes with one value of `x`, `x` among them.

    Numbers also rise or fall together: those of designs drawn at random are all different.
    """
    if not designs or x not in designs[0]:
        return set()
    return {key for key in designs[0] if _pairs_up([(each[x], each[key]) for each in designs])}


def _pairs_up(pairs: Sequence[tuple[Any, Any]]) -> bool:
    """Returns whether each first value goes with one second value, and the other way round."""
    seen = {(repr(first), repr(second)): (first, second) for first, second in pairs}
    firsts, seconds = ({pair[i] for pair in seen} for i in (0, 1))
    if not len(firsts) == len(seconds) == len(seen):
        return False
    if not all(isinstance(value, int | float) for pair in seen.values() for value in pair):
        return True
    in_order = [second for _, second in sorted(seen.values())]
    return in_order in (sorted(in_order), sorted(in_order, reverse=True))
