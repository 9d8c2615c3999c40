"""Which designs of a space a study trains: drawn until enough of them are within the budget.

A sampler that learns proposes `batch` designs at a time; the next batch is drawn once all trials of
the batches before have ended. search.json in the workdir keeps every draw, so that a launch that
continues draws what an uninterrupted one would.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from squeeze_jax.config_parsing import Range
from squeeze_jax.errors import UserError
from squeeze_jax.study.columns import column, direction
from squeeze_jax.study.samplers import SAMPLERS, Sampler
from squeeze_jax.study.space import Design, Space

KEPT, OVER_BUDGET, REPEATED = "kept", "over the budget", "repeated"
_PATIENCE = 1000  # draws in a row that may be refused
# After so many a sampler that learns is helped by a random design: it may see no other way out.
_ESCAPE = 20


@dataclass(frozen=True)
class SearchConfig:
    """The keys of the search section of a study that has a space."""

    designs: Annotated[int, Range(at_least=1, at_most=10**5)] = 64
    sampler: str = "sobol"  # a key of SAMPLERS
    seed: Annotated[int, Range(at_least=0, below=2**32)] = 0  # of the sampler
    batch: Annotated[int, Range(at_least=1)] = 8  # designs at a time, of a sampler that learns
    # Costs that nsga2 lowers while it raises the study's metric: columns such as "macs".
    objectives: tuple[str, ...] = ()

    def sampler_for(self, space: Space, metric: str) -> Sampler:
        """Returns the sampler of a space, which proposes designs of a better metric.

        Raises:
          UserError: there is no such sampler, or it cannot have these objectives.
        """
        if self.sampler not in SAMPLERS:
            raise UserError(f"search.sampler is one of {', '.join(SAMPLERS)}; got {self.sampler!r}")
        if self.objectives and self.sampler != "nsga2":
            raise UserError(f"search.objectives are of nsga2; {self.sampler} takes the metric only")
        measured = [name for name in self.objectives if column(name).kind != "design"]
        if measured:
            raise UserError(
                f"search.objectives are costs known before training; {measured[0]} is none"
            )
        directions = [direction(metric), *("minimize" for _ in self.objectives)]
        return SAMPLERS[self.sampler](space, self.designs, self.seed, directions)


@dataclass(frozen=True)
class Draw:
    """A design that was drawn, and what became of it: KEPT, OVER_BUDGET or REPEATED."""

    design: Design
    verdict: str


# What designs are worth, in their order, see Sampler.tell; None while a trial of one is pending.
Worth = Callable[[Sequence[Design]], Sequence[Sequence[float] | None] | None]


def draw(
    space: Space,
    metric: str,
    search: SearchConfig,
    known: Iterable[Draw],
    fits: Callable[[Design], bool],
    worth: Worth,
) -> list[Draw]:
    """Returns the draws of a search, as far as it can go now.

    Args:
      space: to draw from.
      metric: what designs are worth, a column.
      search: how many, and how.
      known: the draws of earlier launches, which stay as they are.
      fits: whether a design is within the budget.
      worth: what designs were worth.

    Raises:
      UserError: the sampler finds no other design within the budget.
    """
    sampler = search.sampler_for(space, metric)
    anywhere = SAMPLERS["random"](space, search.designs, search.seed, ())
    before, draws = iter(known), []
    kept: list[Design] = []
    told = refused = 0
    while len(kept) < search.designs:
        if sampler.learns and len(kept) - told == search.batch:
            if (values := worth(kept[told:])) is None:
                break
            for design, value in zip(kept[told:], values, strict=True):
                sampler.tell(design, value)
            told = len(kept)
        design = sampler.ask()
        if sampler.learns and refused % _ESCAPE == _ESCAPE - 1:
            sampler.refuse(design)
            design = anywhere.ask()
        if (again := next(before, None)) is None:
            verdict = REPEATED if design in kept else KEPT if fits(design) else OVER_BUDGET
        else:
            if again.design != design:  # another version of the sampler, or a trial run anew
                sampler.tell(design, None)
            design, verdict = again.design, again.verdict
        draws.append(Draw(design, verdict))
        if verdict == KEPT:
            kept.append(design)
            refused = 0
            continue
        sampler.refuse(design)
        refused += 1
        if refused == _PATIENCE:
            raise UserError(
                f"{len(kept)} of {search.designs} designs found: the last {_PATIENCE:,} draws "
                "were over the budget or repeated; widen space() or the budget, or lower "
                "search.designs"
            )
    return draws


def kept_designs(draws: Iterable[Draw]) -> list[Design]:
    """Returns the designs that are trained."""
    return [each.design for each in draws if each.verdict == KEPT]


def describe(draws: Sequence[Draw]) -> str:
    """Returns in words how many designs were drawn and refused; "" where none was refused."""
    counts = {
        verdict: sum(each.verdict == verdict for each in draws)
        for verdict in (OVER_BUDGET, REPEATED)
    }
    refused = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"{len(kept_designs(draws))} designs of {len(draws)} drawn: {refused}" if refused else ""


def to_record(draws: Sequence[Draw], signature: Mapping[str, Any]) -> dict[str, Any]:
    """Returns draws as search.json holds them.

    Args:
      draws: of a search.
      signature: what they depend on, see `signature`.
    """
    return {
        "signature": signature,
        "draws": [{"design": each.design, "verdict": each.verdict} for each in draws],
    }


def from_record(record: Mapping[str, Any] | None, signature: Mapping[str, Any]) -> list[Draw]:
    """Returns the draws of a search.json; none where they are of another search."""
    if record is None or record["signature"] != signature:
        return []
    return [Draw(_as_design(each["design"]), each["verdict"]) for each in record["draws"]]


def signature(search: SearchConfig, space: Space, budget: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the draws of a search depend on, as JSON.

    More designs go on with the same draws, but not in a Latin hypercube, which is made of them.
    """
    return {
        "sampler": search.sampler,
        "seed": search.seed,
        "designs": search.designs if search.sampler == "latin_hypercube" else None,
        "batch": search.batch,
        "objectives": list(search.objectives),
        "axes": {key: repr(axis) for key, axis in space.items()},
        "budget": dict(budget),
    }


def _as_design(record: Mapping[str, Any]) -> Design:
    """Returns a design as it was before JSON, which has no tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in record.items()}
