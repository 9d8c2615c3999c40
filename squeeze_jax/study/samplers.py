"""How designs are drawn from a space. A sampler is a class here and a line in SAMPLERS."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from squeeze_jax.errors import UserError
from squeeze_jax.study.space import Choice, Design, Space, design_at


class Sampler(Protocol):
    """Proposes designs one by one; the same ones for the same seed and the same answers."""

    learns: bool  # whether a proposal depends on what the designs before it were worth

    def ask(self) -> Design:
        """Returns a design."""
        ...

    def tell(self, design: Design, values: Sequence[float] | None) -> None:
        """Takes what a design is worth.

        Args:
          design: one that was asked for, or not.
          values: the study's metric, and the costs of `SearchConfig.objectives`; None where it
            failed.
        """
        ...

    def refuse(self, design: Design) -> None:
        """Takes that a design is over the budget, or was proposed before."""
        ...


class Points:
    """Takes the points of a sequence in the unit cube."""

    learns = False

    def __init__(self, space: Space, points: Iterator[np.ndarray]):
        """Takes a space and points [number of axes] without end."""
        self._space, self._points = space, points

    def ask(self) -> Design:
        """Returns the design at the next point."""
        return design_at(self._space, list(next(self._points)))

    def tell(self, design: Design, values: Sequence[float] | None) -> None:
        """Learns nothing."""

    def refuse(self, design: Design) -> None:
        """Learns nothing."""


def _random(axes: int, count: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    while True:
        yield generator.random(axes)


def _latin_hypercube(axes: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the points of one hypercube of `count` points after another."""
    from scipy.stats import qmc  # takes half a second

    sampler = qmc.LatinHypercube(axes, rng=np.random.default_rng(seed))
    while True:
        yield from sampler.random(count)


def _sobol(axes: int, count: int, seed: int) -> Iterator[np.ndarray]:
    from scipy.stats import qmc

    sampler = qmc.Sobol(axes, rng=np.random.default_rng(seed))
    while True:
        yield sampler.random(1)[0]


class Optuna:
    """Takes what a sampler of Optuna proposes (Akiba et al. 2019, arXiv 1907.10902)."""

    learns = True

    def __init__(self, space: Space, name: str, seed: int, directions: Sequence[str]):
        """Begins an Optuna study in memory.

        Args:
          space: to draw from.
          name: "TPESampler" or "NSGAIISampler".
          seed: of the sampler.
          directions: "maximize" or "minimize" for each value of a design.

        Raises:
          UserError: Optuna is not installed.
        """
        try:
            import optuna
        except ImportError as e:
            raise UserError(
                "this search.sampler needs Optuna: pip install 'squeeze_jax[optuna]'"
            ) from e
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space = optuna, space
        self._study = optuna.create_study(
            sampler=getattr(optuna.samplers, name)(seed=seed),
            directions=[optuna.study.StudyDirection[each.upper()] for each in directions],
        )
        self._asked: dict[str, list[Any]] = {}  # a design may be proposed more than once

    def ask(self) -> Design:
        """Returns the sampler's next proposal."""
        trial = self._study.ask()
        design: Design = {}
        for key, axis in self._space.items():
            if axis.when is not None and not axis.when(design):
                continue
            if isinstance(axis, Choice):
                index = trial.suggest_categorical(key, list(range(len(axis.values))))
                design[key] = axis.values[index]
            else:
                number = trial.suggest_float(key, axis.low, axis.high, log=axis.log)
                design[key] = axis.nearest(number)
        self._asked.setdefault(repr(design), []).append(trial)
        return design

    def tell(self, design: Design, values: Sequence[float] | None) -> None:
        """Hands a design's values on."""
        trial = self._trial(design)
        if values is None:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        else:
            trial.set_constraint("budget", -1.0)
            self._study.tell(trial, list(values))

    def refuse(self, design: Design) -> None:
        """Marks a design as one that the search has no use for."""
        trial = self._trial(design)
        trial.set_constraint("budget", 1.0)
        self._study.tell(trial, [0.0] * len(self._study.directions))

    def _trial(self, design: Design) -> Any:
        """Returns Optuna's trial of a design, which may not have been asked for."""
        if not self._asked.get(repr(design)):
            self._study.enqueue_trial(
                {
                    key: axis.values.index(design[key]) if isinstance(axis, Choice) else design[key]
                    for key, axis in self._space.items()
                    if key in design
                }
            )
            design = self.ask()
        return self._asked[repr(design)].pop()


def _points(
    sequence: Callable[[int, int, int], Iterator[np.ndarray]],
) -> Callable[[Space, int, int, Sequence[str]], Sampler]:
    return lambda space, count, seed, directions: Points(space, sequence(len(space), count, seed))


def _optuna(name: str) -> Callable[[Space, int, int, Sequence[str]], Sampler]:
    return lambda space, count, seed, directions: Optuna(space, name, seed, directions)


# By name: a space, the number of designs, a seed, the directions of a design's values -> a sampler.
SAMPLERS: dict[str, Callable[[Space, int, int, Sequence[str]], Sampler]] = {
    "random": _points(_random),
    "latin_hypercube": _points(_latin_hypercube),
    "sobol": _points(_sobol),
    "tpe": _optuna("TPESampler"),
    "nsga2": _optuna("NSGAIISampler"),
}
