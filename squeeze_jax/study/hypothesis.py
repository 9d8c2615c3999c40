"""What a study claims of its x axis, as its config's `report.claim` states it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from squeeze_jax.config_parsing import Range, convert
from squeeze_jax.errors import UserError

_MARGIN = Range(at_least=0)
# kind -> the keys that it needs, and those that it may have
_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "rises": (set(), set()),
    "saturates": ({"at"}, {"margin"}),
    "best": ({"value"}, set()),
    "beats": ({"values"}, set()),
}


@dataclass(frozen=True)
class Hypothesis:
    """A claim that the seeds can support or contradict; `report.verdict` tests it.

    Attributes:
      kind: "rises": the metric is higher at each next x. "saturates": it is higher at one x than at
        the lowest, and at no higher x by more than a margin. "best": one x has the highest.
        "beats": each value of x is better than the next in a list.
      values: of x: where it saturates; the best; or the list.
      margin: the gain that is none, in units of the metric.
    """

    kind: str
    values: tuple[Any, ...] = ()
    margin: float = 0.0

    @classmethod
    def parse(cls, claim: Mapping[str, Any]) -> "Hypothesis | None":
        """Returns the hypothesis of a `report.claim` such as {"kind": "saturates", "at": 0.75}.

        None where it is empty.

        Raises:
          UserError: an unknown kind, or keys that are not its own.
        """
        if not claim:
            return None
        kind, given = claim.get("kind"), set(claim) - {"kind"}
        if kind not in _KEYS:
            raise UserError(f"report.claim.kind is one of {', '.join(_KEYS)}; got {kind!r}")
        needed, optional = _KEYS[kind]
        if not needed <= given <= needed | optional:
            keys = ", ".join(sorted(needed)) or "no other key"
            more = f", perhaps {', '.join(sorted(optional))}" if optional else ""
            got = ", ".join(sorted(given)) or "none"
            raise UserError(f"report.claim of the kind {kind} has {keys}{more}; got {got}")
        margin = convert(claim.get("margin", 0.0), float, "report.claim.margin")
        _MARGIN.check("report.claim.margin", margin)
        values = claim.get("values", ())
        if kind == "beats":
            values = convert(values, tuple[Any, ...], "report.claim.values")
            if len(values) < 2:
                raise UserError(f"report.claim.values are two or more values of x; got {values!r}")
        else:
            values = tuple(claim[key] for key in needed)
        return cls(kind, values, margin)
