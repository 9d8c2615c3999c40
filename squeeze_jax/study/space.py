"""A design space: the values that config keys may take, by key.

A config file has `space(config)` in place of `sweep(config)`:

    def space(config):
        return {
            "model.bypass": Choice("none", "complex"),
            "model.base_e": Uniform(16, 64, step=8),
            "train.learning_rate": Uniform(0.005, 0.05, log=True),
            "model.freq": Choice(1, 2, when=lambda design: design["model.bypass"] != "none"),
        }
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from squeeze_jax.errors import UserError

Design = dict[str, Any]  # dotted key -> value
Condition = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, init=False)
class Choice:
    """One of some values.

    Attributes:
      values: what the key may be.
      when: whether a design that has the axes before this one has this axis too.
    """

    values: tuple[Any, ...]
    when: Condition | None = field(repr=False)

    def __init__(self, *values: Any, when: Condition | None = None):
        """Names the values."""
        if not values:
            raise UserError("a Choice of no values")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "when", when)

    def value(self, quantile: float) -> Any:
        """Returns the value at a quantile in [0, 1)."""
        return self.values[min(int(quantile * len(self.values)), len(self.values) - 1)]


@dataclass(frozen=True)
class Uniform:
    """A number from `low` to `high`; an int where these and the step are ints.

    Attributes:
      low: smallest value.
      high: largest value.
      step: distance of neighbouring values from `low` on; 1 between ints, none between floats.
      log: whether the logarithm is uniform.
      when: whether a design that has the axes before this one has this axis too.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    when: Condition | None = field(default=None, repr=False)

    def __post_init__(self):
        """Rejects an empty range.

        Raises:
          UserError: naming it.
        """
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"{self}: low is below high")
        if self.log and self.low <= 0:
            raise UserError(f"{self}: low is above 0 on a logarithmic axis")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise UserError(f"{self}: step is above 0 and at most high - low")

    @property
    def _spacing(self) -> float | None:
        is_integral = isinstance(self.low, int) and isinstance(self.high, int)
        return self.step or (1 if is_integral else None)

    def value(self, quantile: float) -> float:
        """Returns the value at a quantile in [0, 1)."""
        if self.log:
            return self.nearest(self.low * (self.high / self.low) ** quantile)
        if self._spacing is None:
            return self.nearest(self.low + quantile * (self.high - self.low))
        return self._at(int(quantile * (self._last + 1)))

    def nearest(self, value: float) -> float:
        """Returns the closest value of the axis; of floats without a step to three digits."""
        if (spacing := self._spacing) is None:
            return min(max(float(f"{value:.3g}"), self.low), self.high)
        return self._at(round((value - self.low) / spacing))

    @property
    def _last(self) -> int:
        """Returns the number of the largest value, the smallest being number 0."""
        return int((self.high - self.low) / (self._spacing or 1) + 1e-9)

    def _at(self, number: int) -> float:
        spacing = self._spacing or 1
        value = self.low + min(max(number, 0), self._last) * spacing
        # 0.1 + 2 * 0.1 is 0.3
        return value if isinstance(value, int) else float(f"{value:.12g}")


Axis = Choice | Uniform
Space = Mapping[str, Axis]


def check_space(space: Any) -> Space:
    """Returns what a config file's space() returned.

    Raises:
      UserError: it is no mapping of config keys to axes.
    """
    is_space = isinstance(space, Mapping) and all(
        isinstance(key, str) and isinstance(axis, Axis) for key, axis in space.items()
    )
    if not is_space or not space:
        raise UserError(
            "space() returns a dict of dotted keys and their axes, such as "
            f'{{"model.base_e": Uniform(16, 64, step=8)}}; got {space!r}'
        )
    return space


def design_at(space: Space, quantiles: Sequence[float]) -> Design:
    """Returns the design at a point of the unit cube, which has one dimension an axis.

    An axis whose condition does not hold is left out; its key then has the config's value.
    """
    design: Design = {}
    for (key, axis), quantile in zip(space.items(), quantiles, strict=True):
        if axis.when is None or axis.when(design):
            design[key] = axis.value(float(quantile))
    return design
