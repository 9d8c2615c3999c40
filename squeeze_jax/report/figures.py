"""Draws the figures of a sweep.

They show accuracy against a metaparameter, accuracy against each cost, and the training curves. A
roofline shows the layers of a network on an accelerator.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import nan
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

from squeeze_jax.files import write_atomically
from squeeze_jax.report.spaces import Space, band, distribution
from squeeze_jax.report.statistics import Interval
from squeeze_jax.report.tables import (
    Point,
    aggregate,
    cost_columns,
    describe,
    pareto_front,
    show,
)
from squeeze_jax.study.columns import all_columns, column
from squeeze_jax.study.records import COLLAPSED, StudyRecord

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "0.92",
    "legend.frameon": False,
    "text.parse_math": False,  # a "$" in a study's label is a dollar sign
    "svg.hashsalt": "squeeze_jax",  # equal figures give equal bytes
}
# Okabe and Ito's colours, safe for colour-blind readers, but for the yellow: too light for a line.
_CATEGORICAL = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_NEUTRAL = "0.35"
_NAMED_LAYERS = 8  # of a roofline
_SEED = {"marker": "o", "markersize": 5, "markeredgewidth": 0, "alpha": 0.35}
_MEAN = {"marker": "o", "markersize": 4, "linewidth": 1.4, "elinewidth": 1.2, "capsize": 3}
_COLLAPSED = {"marker": "x", "markersize": 6, "markeredgewidth": 1.6}


def accuracy_figure(study: StudyRecord, points: Sequence[Point]) -> Figure:
    """Draws the study's metric against its x axis.

    Shows the means with 95 % intervals, each seed, the published curve, and the size of the nets on
    the upper axis.
    """
    if not any(point.values(study.metric, "ok", *COLLAPSED) for point in points):
        return _draw_message(study, "no finished trial yet")
    published = study.paper.points if study.paper else ()
    lines = _group_lines(study, points)
    colours = _choose_colours(len(lines), ordered=False)
    with matplotlib.rc_context(_STYLE):
        figure = _make_figure(study, (6.4, 4.4))
        axes = figure.subplots()
        places, numeric = _place(
            [*(_x_value(study, point) for point in points), *(x for x, _ in published)]
        )
        # On a numeric axis points are at their values. In a category the lines are side by side.
        series = len(lines) + bool(published)
        shifts = [
            0.0 if numeric else min(0.12, 0.8 / series) * (i - (series - 1) / 2)
            for i in range(series)
        ]
        style = "-" if numeric else ""
        for line, colour, shift in zip(lines.values(), colours, shifts[: len(lines)], strict=True):
            at = [(places[show(_x_value(study, point))] + shift, point) for point in line]
            _draw_line(axes, study.metric, sorted(at, key=lambda pair: pair[0]), colour, style)
        if published:
            at = sorted((places[show(x)] + shifts[-1], y) for x, y in published)
            axes.plot(*zip(*at, strict=True), color=_NEUTRAL, label="paper", **_paper_look(numeric))
        axes.set(xlabel=study.label, ylabel=column(study.metric).title)
        _limit_percentage(axes, study.metric)
        _add_legend(figure, _legend_entries(study, points, lines, colours, numeric))
        _set_ticks(study, points, figure, axes, places, numeric)
    return figure


def training_figure(
    study: StudyRecord, curves_of: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Figure:
    """Draws training loss and held-out top-1 over epochs.

    Args:
      study: the study.
      curves_of: records of steps by trial name, as `Workdir.read_curves` returns them.

    Returns:
      A figure with a line for each trial and a colour for each design point.
    """
    points = aggregate(study.trials)
    curves = [[curves_of.get(trial.name, []) for trial in point.trials] for point in points]
    if not any(curve for group in curves for curve in group):
        return _draw_message(study, "no training record yet")
    names = [describe(point.design) or study.name for point in points]
    ordered = len(points[0].design) == 1 and _place([_x_value(study, point) for point in points])[1]
    colours = _choose_colours(len(points), ordered)
    with matplotlib.rc_context(_STYLE):
        figure = _make_figure(study, (8.4, 3.4))
        axes = figure.subplots(1, 2)
        for group, colour in zip(curves, colours, strict=True):
            for curve in group:
                for panel, name in zip(axes, ("loss", "top1"), strict=True):
                    at = [
                        (entry["epoch"], entry[name])
                        for entry in curve
                        if "epoch" in entry and name in entry
                    ]
                    if at:
                        panel.plot(
                            *zip(*at, strict=True),
                            color=colour,
                            linewidth=1,
                            alpha=0.8,
                            marker="." if len(at) == 1 else "",
                        )
        axes[0].set_yscale("log", nonpositive="mask")
        _label_log(axes[0].yaxis)
        axes[0].set(xlabel="Epoch", ylabel="Training loss")
        axes[1].set(xlabel="Epoch", ylabel=f"Held-out {column('top1').title.lower()}")
        _limit_percentage(axes[1], "top1")
        _add_legend(
            figure,
            [
                Line2D([], [], color=colour, label=name)
                for colour, name in zip(colours, names, strict=True)
            ],
        )
    return figure


def pareto_figure(study: StudyRecord, points: Sequence[Point]) -> Figure | None:
    """Draws accuracy against each cost that differs between points, with its Pareto front.

    Returns None if no cost differs.
    """
    costs = cost_columns(points, study.metric)
    if not costs:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = _make_figure(study, (4.2 * len(costs[:2]), 3.4 * -(-len(costs) // 2)))
        panels = list(figure.subplots(-(-len(costs) // 2), len(costs[:2]), squeeze=False).flat)
        for panel in panels[len(costs) :]:
            panel.set_visible(False)
        for panel, cost in zip(panels[: len(costs)], costs, strict=True):
            at = [
                (interval.mean, accuracy.mean, interval.errors)
                for point in points
                if (accuracy := point.interval(study.metric)) and (interval := point.interval(cost))
            ]
            xs, ys, errors = zip(*at, strict=True)
            # Compressed bytes differ between seeds; the intervals of other costs have no width.
            panel.errorbar(
                xs,
                ys,
                xerr=[*zip(*errors, strict=True)],
                linestyle="",
                color=_NEUTRAL,
                label="points",
                **_SEED,
            )
            front = pareto_front(points, cost, study.metric)
            best = [
                (point.representative(cost), accuracy.mean)
                for point in front
                if (accuracy := point.interval(study.metric))
            ]
            panel.plot(
                *zip(*best, strict=True),
                color=_CATEGORICAL[0],
                linewidth=1.4,
                marker="o",
                markersize=5,
                label="front",
            )
            for point, position in zip(front, best, strict=True):
                name = _cut(", ".join(map(show, point.design.values())) or study.name, 40)
                panel.annotate(
                    name, position, textcoords="offset points", xytext=(4, -10), fontsize=7
                )
            panel.set(xlabel=column(cost).title, ylabel=column(study.metric).title)
            panel.xaxis.set_major_formatter(EngFormatter())
            panel.margins(x=0.12, y=0.12)
    return figure


def roofline_figure(name: str, record: Mapping[str, Any]) -> Figure:
    """Draws each layer's rate against its arithmetic intensity, with the roofs of DRAM and array.

    A layer whose zero weights are skipped may be above the array's roof. The layers that take the
    most cycles have their names beside them.

    Args:
      name: name of the network.
      record: what `layer_table.hardware_record` returned.
    """
    machine = record["accelerator"]
    pes, bandwidth = machine["rows"] * machine["columns"], machine["dram_bytes_per_cycle"]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        size = f"{machine['rows']}x{machine['columns']}, {machine['buffer_bytes'] // 1024} KB"
        title = f"{name} on {size}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        axes = figure.subplots()
        flows = dict.fromkeys(layer["dataflow"] for layer in record["layers"])
        for flow, colour in zip(flows, _CATEGORICAL, strict=False):
            at = [
                (layer["macs_per_dram_byte"], layer["macs_per_cycle"])
                for layer in record["layers"]
                if layer["dataflow"] == flow
            ]
            axes.plot(
                *zip(*at, strict=True),
                linestyle="",
                color=colour,
                label={"ws": "weight stationary", "os": "output stationary"}[flow],
                **_SEED,
            )
        intensities = [layer["macs_per_dram_byte"] for layer in record["layers"]]
        roof = [min(intensities) / 2, pes / bandwidth, 2 * max(*intensities, pes / bandwidth)]
        axes.plot(
            roof,
            [min(pes, bandwidth * x) for x in roof],
            color=_NEUTRAL,
            linewidth=1.4,
        )
        roofs = (
            (
                1.3 * roof[0],
                1.3 * bandwidth * roof[0],
                f"DRAM: {bandwidth:g} bytes a cycle",
                "left",
                (10, -3),
            ),
            (roof[-1], pes, f"array: {pes:,} MACs a cycle", "right", (0, 4)),
        )
        for x, y, text, side, offset in roofs:
            axes.annotate(
                text,
                (x, y),
                textcoords="offset points",
                xytext=offset,
                ha=side,
                color=_NEUTRAL,
                fontsize=7,
            )
        named: list[tuple[float, float]] = []
        for layer in sorted(record["layers"], key=lambda layer: -layer["cycles"])[:_NAMED_LAYERS]:
            at = layer["macs_per_dram_byte"], layer["macs_per_cycle"]
            if any(
                abs(math.log(at[0] / x)) < 0.5 and abs(math.log(at[1] / y)) < 0.08 for x, y in named
            ):
                continue  # its name would lie on another one
            named.append(at)
            axes.annotate(
                layer["name"],
                at,
                textcoords="offset points",
                xytext=(4, -3),
                fontsize=6,
            )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="MACs per byte of DRAM traffic (named: slow layers)",
            ylabel="MACs per cycle, skipped zeros included",
        )
        _label_log(axes.xaxis)
        _label_log(axes.yaxis)
        axes.legend(loc="lower right")
    return figure


def distribution_figure(spaces: Sequence[Space]) -> Figure:
    """Draws the error distribution functions of design spaces, with 95 % bands over designs."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        ends = [end for space in spaces for end in (space.errors.min(), space.errors.max())]
        margin = 0.05 * (max(ends) - min(ends)) or 1.0
        grid = np.linspace(max(0.0, min(ends) - margin), min(100.0, max(ends) + margin), 500)
        colours = _choose_colours(len(spaces), ordered=False)
        for space, colour in zip(spaces, colours, strict=True):
            label = f"{_cut(space.name, 60)} ({len(space.points)} designs)"
            shares = 100 * distribution(space.errors, grid)
            axes.step(grid, shares, where="post", color=colour, label=label)
            low, high = band(space.errors, grid)
            shade = {"step": "post", "color": colour, "alpha": 0.15, "linewidth": 0}
            axes.fill_between(grid, 100 * low, 100 * high, **shade)
        metric = column(spaces[0].study.metric)
        axes.set(xlabel=f"{metric.heading} error ({metric.unit})", ylabel="Designs (%)")
        axes.set_ylim(0, 102)
        figure.legend(loc="outside lower center")
    return figure


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG file."""
    return _save(figure, "png", dpi=180, metadata={"Software": None})


def svg(figure: Figure) -> bytes:
    """Returns a figure as an SVG file without a date, so that equal figures give equal bytes."""
    return _save(
        figure, "svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )


def write(path: Path, figure: Figure) -> None:
    """Writes a figure as a PNG or SVG file, by the path's suffix.

    Raises:
      WriteError: it cannot be written.
    """
    write_atomically(path, {".png": png, ".svg": svg}[path.suffix](figure))


def _save(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _make_figure(study: StudyRecord, size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(
        f"{study.name} · {study.preset}", x=0.01, ha="left", fontsize=10, fontweight="bold"
    )
    return figure


def _draw_message(study: StudyRecord, text: str) -> Figure:
    """Returns a figure that holds only a text."""
    with matplotlib.rc_context(_STYLE):
        figure = _make_figure(study, (6.4, 2))
        figure.text(0.5, 0.45, text, ha="center", va="center", color=_NEUTRAL, fontsize=12)
    return figure


def _x_value(study: StudyRecord, point: Point) -> Any:
    """Returns a point's value on the x axis; the study's name if it sweeps only seeds."""
    return point.design.get(study.x, study.name)


def _place(values: Iterable[Any]) -> tuple[dict[str, float], bool]:
    """Returns each value's position on the axis by label, and whether the axis is numeric."""
    distinct = {show(value): value for value in values}
    numeric = all(
        isinstance(value, int | float) and not isinstance(value, bool)
        for value in distinct.values()
    )
    if numeric:
        return dict(
            sorted(
                ((label, float(value)) for label, value in distinct.items()),
                key=lambda pair: pair[1],
            )
        ), True
    return {label: float(i) for i, label in enumerate(distinct)}, False


def _group_lines(study: StudyRecord, points: Sequence[Point]) -> dict[str, list[Point]]:
    """Returns the lines by label: each has the points that differ only in x."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        others = {key: value for key, value in point.design.items() if key != study.x}
        lines.setdefault(describe(others), []).append(point)
    return lines


def _choose_colours(n: int, ordered: bool) -> list[Any]:
    """Returns `n` colours: a ramp for many or ordered lines, distinct hues otherwise."""
    if not ordered and n <= len(_CATEGORICAL):
        return list(_CATEGORICAL[:n])
    ramp = matplotlib.colormaps["viridis"]
    # The last tenth of the ramp is too light on white.
    return [ramp(0.9 * i / max(n - 1, 1)) for i in range(n)]


def _draw_line(
    axes: Axes, metric: str, at: Sequence[tuple[float, Point]], colour: Any, style: str
) -> None:
    """Draws one line: each seed, the means with their intervals, and the collapsed seeds."""
    seeds = [(x, y) for x, point in at for y in point.values(metric, "ok")]
    collapsed = [(x, y) for x, point in at for y in point.values(metric, *COLLAPSED)]
    if seeds:
        axes.plot(*zip(*seeds, strict=True), linestyle="", color=colour, label="seeds", **_SEED)
        # NaN interrupts the line at a point where no seed learned.
        intervals = [point.interval(metric) or Interval(nan) for _, point in at]
        errors = [*zip(*(interval.errors for interval in intervals), strict=True)]
        xs, means = [x for x, _ in at], [interval.mean for interval in intervals]
        axes.errorbar(xs, means, yerr=errors, color=colour, linestyle=style, label="means", **_MEAN)
    if collapsed:
        axes.plot(
            *zip(*collapsed, strict=True),
            linestyle="",
            color=colour,
            label="collapsed",
            **_COLLAPSED,
        )


def _paper_look(numeric: bool) -> dict[str, Any]:
    """Returns the style of published points, which are joined only on a numeric axis."""
    return {
        "marker": "D",
        "markersize": 4,
        "markerfacecolor": "white",
        "linestyle": "--" if numeric else "",
        "linewidth": 1.2,
    }


def _legend_entries(
    study: StudyRecord,
    points: Sequence[Point],
    lines: Iterable[str],
    colours: Sequence[Any],
    numeric: bool,
) -> list[Line2D]:
    """Returns the entries of the legend: the marks, the lines, and the published curve."""
    names = list(lines)
    colour = colours[0] if len(names) == 1 else _NEUTRAL
    mean = {"marker": "o", "markersize": 4, "linestyle": "-" if numeric else ""}
    if all(point.count("ok") < 2 for point in points):
        handles = [Line2D([], [], color=colour, label="one seed", **mean)]
    else:
        few = "; of n = 2 it says little" if any(point.count("ok") == 2 for point in points) else ""
        handles = [
            Line2D([], [], color=colour, label=f"mean, 95 % interval{few}", **mean),
            Line2D([], [], color=colour, linestyle="", label="one seed", **_SEED),
        ]
    if any(point.values(study.metric, *COLLAPSED) for point in points):
        handles.append(
            Line2D(
                [],
                [],
                color=colour,
                linestyle="",
                label="collapsed seed, not averaged",
                **_COLLAPSED,
            )
        )
    if len(names) > 1:
        handles += [
            Line2D([], [], color=hue, label=name, **mean)
            for hue, name in zip(colours, names, strict=True)
        ]
    if study.paper:
        handles.append(
            Line2D([], [], color=_NEUTRAL, label=study.paper.source, **_paper_look(numeric))
        )
    return handles


def _add_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Adds a legend below the axes, in as many columns as fit, and makes the figure higher."""
    room = 13 * figure.get_figwidth()  # 13 characters an inch
    for handle in handles:
        handle.set_label(_cut(str(handle.get_label()), int(room) - 7))
    columns = max(
        1, min(4, int(room / (7 + max(len(str(handle.get_label())) for handle in handles))))
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(handles) // columns))


def _cut(text: str, room: int) -> str:
    """Returns a text that has at most `room` letters."""
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _set_ticks(
    study: StudyRecord,
    points: Sequence[Point],
    figure: Figure,
    axes: Axes,
    places: dict[str, float],
    numeric: bool,
) -> None:
    """Sets a tick at each design point, its x below and its size above, where labels have room."""
    ours = {places[show(_x_value(study, point))] for point in points}
    ticks = list(places.values()), [_cut(position, 40) for position in places]
    axes.set_xticks(*ticks)
    if not numeric:
        axes.set_xlim(-0.5, len(places) - 0.5)
    upper = axes.secondary_xaxis("top")
    size = _size_column(points, study.metric)
    upper.set_xlabel(column(size).title)
    upper.set_xticks(
        sorted(ours),
        [_show_size(study, points, places, position, size) for position in sorted(ours)],
    )
    figure.draw_without_rendering()  # labels have no width before
    if numeric:
        _thin_ticks(axes.xaxis)
    elif _overlaps(axes.xaxis):
        # Categories need all of their labels, so these are rotated.
        axes.set_xticks(*ticks, rotation=30, ha="right", rotation_mode="anchor")
    _thin_ticks(upper.xaxis)


def _size_column(points: Sequence[Point], metric: str) -> str:
    """Returns the first measure of a net's size that differs between points, or the first one."""
    sizes = [
        name
        for name, entry in all_columns().items()
        if entry.is_cost and entry.unit in ("MiB", "bytes")
    ]
    return next((name for name in cost_columns(points, metric) if name in sizes), sizes[0])


def _show_size(
    study: StudyRecord,
    points: Iterable[Point],
    places: dict[str, float],
    position: float,
    size: str,
) -> str:
    """Returns the size of the nets at a position of the axis: one number, or a range."""
    here = [
        point.representative(size)
        for point in points
        if places[show(_x_value(study, point))] == position
    ]
    known = sorted(value for value in here if value is not None)
    ends = dict.fromkeys(column(size).show(value) for value in (known[:1] + known[-1:]))
    return "–".join(ends)


def _limit_percentage(axes: Axes, metric: str) -> None:
    """Limits the axis of a percentage to 0 … 100 %, with a margin of 2 %."""
    axes.margins(y=0.08)
    if column(metric).unit == "%":
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2), min(high, 102))


def _label_log(axis: Axis) -> None:
    """Labels a logarithmic axis at 1, 2, 5, 10, ... with plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _overlaps(axis: XAxis) -> bool:
    boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
    return any(right.x0 < left.x1 for left, right in pairwise(boxes))


def _thin_ticks(axis: XAxis) -> None:
    """Removes each tick whose label would touch the one before it."""
    kept, end = [], float("-inf")
    for location, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True):
        box = label.get_window_extent()
        if box.x0 > end + 8 or not label.get_text():
            kept.append((location, label.get_text()))
            end = max(end, box.x1)
    axis.set_ticks(*map(list, zip(*kept, strict=True)))
