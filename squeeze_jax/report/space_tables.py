"""Everything that is known of design spaces, as a record and as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_jax.report.axis_shares import LEAST_DESIGNS, axis_shares
from squeeze_jax.report.best_design import best_designs
from squeeze_jax.report.spaces import Space, describe_errors, differences
from squeeze_jax.report.tables import markdown
from squeeze_jax.study.columns import column
from squeeze_jax.study.trials import last_part

MOST_LIKELY = 5  # designs that are listed with their probability to be the best


def compare_spaces(spaces: Sequence[Space]) -> dict[str, Any]:
    """Returns everything that is known of some spaces, ready for JSON; see the functions above."""
    return {
        "metric": spaces[0].study.metric,
        "spaces": [
            {
                "workdir": space.name,
                **describe_errors(space.errors),
                "left_out": dict(space.left_out),
                "steps": sorted(space.steps),
                "axes": axis_shares(space),
                "best": (best_designs(space) or [])[:MOST_LIKELY] or None,
            }
            for space in spaces
        ],
        "differences": differences(spaces),
    }


def comparison_text(record: Mapping[str, Any]) -> str:
    """Returns what `compare_spaces` returned as tables."""
    metric = column(record["metric"])
    head = ["Space", "Designs", "Least error (%)", "Median error (%)", "Mean error (%)"]
    rows = [
        [
            each["workdir"],
            str(each["designs"]),
            f"{each['min_error']:.1f}",
            f"{each['median_error']:.1f} {_interval_text(each['median_interval'])}",
            f"{each['mean_error']:.1f} {_interval_text(each['mean_interval'])}",
        ]
        for each in record["spaces"]
    ]
    parts = [
        f"Error: 100 % − {metric.heading.lower()} of a design, the mean of its seeds that learned; "
        "95 % intervals by bootstrap of designs.",
        markdown([head, *rows]),
    ]
    for each in record["spaces"]:
        if each["left_out"]:
            counts = ", ".join(f"{count} {what}" for what, count in each["left_out"].items())
            parts.append(f"{each['workdir']}: left out {counts}.\n")
    if record["differences"]:
        head = ["Difference of mean errors", "Points", "p (Mann-Whitney)", "p (Kolmogorov-Smirnov)"]
        rows = [
            [
                f"{each['first']} − {each['second']}",
                f"{each['mean_difference']:+.1f} {_interval_text(each['interval'])}",
                _p_text(each["p_mann_whitney"]),
                _p_text(each["p_kolmogorov_smirnov"]),
            ]
            for each in record["differences"]
        ]
        parts.append(markdown([head, *rows]))
        if len(rows) > 1:
            parts.append(f"p-values are corrected for {len(rows)} comparisons (Holm).\n")
    for each in record["spaces"]:
        parts += [_axes_text(each), _best_text(each, metric.title)]
    return "\n".join(parts)


def _interval_text(interval: Sequence[float], digits: int = 1) -> str:
    return f"({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def _p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _axes_text(space: Mapping[str, Any]) -> str:
    if (axes := space["axes"]) is None:
        return (
            f"{space['workdir']}: fewer than {LEAST_DESIGNS} designs of different errors; they do "
            "not tell how much each axis matters.\n"
        )
    rows = [
        [last_part(key), f"{each['share']:.0f} {_interval_text(each['interval'], 0)}"]
        for key, each in axes["axes"].items()
    ]
    rows.append(["axes together", f"{axes['together']:.0f}"])
    trust = (
        f"a forest predicts designs that it has not seen with R² = {axes['r2']:.2f}"
        if axes["r2"] > 0
        else "a forest predicts designs that it has not seen no better than their mean does: the "
        "shares are noise"
    )
    table = markdown([["Axis", "Share of the variance (%)"], *rows])
    return f"{space['workdir']}, what each axis explains by itself ({trust}):\n\n{table}"


def _best_text(space: Mapping[str, Any], title: str) -> str:
    if space["best"] is None:
        return (
            f"{space['workdir']}: no design has two seeds, so nothing tells whether the best is "
            "luck.\n"
        )
    head = [
        "Design",
        "Seeds",
        f"{title}, mean",
        "Shrunk to the mean",
        "Probability that it is the best",
    ]
    rows = [
        [
            each["design"],
            str(each["seeds"]),
            f"{each['mean']:.1f}",
            f"{each['expected']:.1f}",
            f"{100 * each['probability']:.0f} %",
        ]
        for each in space["best"]
    ]
    return f"{space['workdir']}, the most likely best designs:\n\n{markdown([head, *rows])}"
