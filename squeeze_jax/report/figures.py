"""Draws the figures of a sweep.

They show accuracy against a metaparameter, accuracy against each cost, and the training curves. A
roofline shows the layers of a network on an accelerator.
"""

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from squeeze_jax.files import write_atomically
from squeeze_jax.report.spaces import Space, band, distribution
from squeeze_jax.report.statistics import Interval
from squeeze_jax.report.tables import (
    Point,
    aggregate,
    cost_columns,
    describe,
    group_lines,
    pareto_front,
    show,
)
from squeeze_jax.study.columns import all_columns, column
from squeeze_jax.study.curves import thin
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
_SEED: dict[str, Any] = {"marker": "o", "markersize": 5, "markeredgewidth": 0, "alpha": 0.35}
_CLOUD: dict[str, Any] = {"marker": "o", "markersize": 2, "markeredgewidth": 0, "alpha": 0.3}
_MEAN: dict[str, Any] = {
    "marker": "o",
    "markersize": 4,
    "linewidth": 1.4,
    "elinewidth": 1.2,
    "capsize": 3,
}
_NAMED_LAYERS = 8  # of a roofline
_COLLAPSED = {"marker": "x", "markersize": 6, "markeredgewidth": 1.6}

_NAMED = 24  # lines that a legend names; more cannot be told apart
_TICKS = 60  # labels that are tried on an axis
_FRONT_NAMES = 10  # points of a Pareto front that are named in the figure
_VECTORS = 1500  # marks that an SVG holds as shapes; more are an image
# Marks of a training curve that can be pointed at.
_CURVE_MARKS = 40
_SCALES = {1e9: ("G", "billions"), 1e6: ("M", "millions"), 1e3: ("k", "thousands")}


class StudyFigure(Figure):
    """A figure that knows where it shows design points, and trials by name."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._marks: list[tuple[Axes, list[tuple[float, float]], list[Point | str]]] = []

    def mark(self, axes: Axes, at: Sequence[tuple[float, float, Point | str]]) -> None:
        """Notes what is shown at places (x, y) of axes, in the units of the data."""
        if at:
            self._marks.append((axes, [(x, y) for x, y, _ in at], [shown for *_, shown in at]))

    def positions(self) -> list[tuple[float, float, Point | str]]:
        """Returns what is shown where, as the figure was last drawn.

        Positions are in fractions of the figure's width and height, from its upper left corner.
        """
        places = []
        for axes, at, shown in self._marks:
            to_figure = axes.transData + self.transFigure.inverted()
            for (x, y), each in zip(to_figure.transform(np.array(at)), shown, strict=True):
                if np.isfinite((x, y)).all():
                    places.append((float(x), 1 - float(y), each))
        return places


class Scale(NamedTuple):
    """How numbers of a column are shown on an axis: divided by a power of 1,000.

    Attributes:
      divisor: of the numbers.
      title: the column's heading with the unit: "RAM (kB)".
    """

    divisor: float
    title: str

    def show(self, value: float, _position: int | None = None) -> str:
        """Returns a number of the column as the text of a tick."""
        return f"{value / self.divisor:.4g}"


def choose_scale(name: str, largest: float) -> Scale:
    """Returns the scale of an axis that shows a column up to a value.

    Bytes are shown in kB, MB or GB, of which 1 kB is 1,000 bytes; counts in thousands and more.
    MiB, seconds and percentages are shown as they are.
    """
    entry = column(name)
    if entry.unit not in ("bytes", "MACs", ""):
        return Scale(1, entry.title)
    for divisor, (letter, word) in _SCALES.items():
        if largest >= divisor:
            unit = f"{letter}B" if entry.unit == "bytes" else f"{word} of {entry.unit}"
            return Scale(divisor, f"{entry.heading} ({unit if entry.unit else word})")
    return Scale(1, entry.title)


def accuracy_figure(study: StudyRecord, points: Sequence[Point]) -> StudyFigure:
    """Draws the study's metric against its x axis.

    Shows the means with 95 % intervals, each seed, the published curve, and the size of the nets on
    the upper axis. The x axis may be a cost of the design points (`report.x="macs"`).
    """
    if is_of_cost := column(study.x).kind == "design":
        points = [point for point in points if point.constant(study.x) is not None]
    if not any(point.values(study.metric, "ok", *COLLAPSED) for point in points):
        return _draw_message(study, "no finished trial yet")
    published = study.paper.points if study.paper else ()
    lines = group_lines(study, points)
    is_cloud = is_of_cost or len(lines) > _NAMED
    if is_cloud:
        lines = {"": list(points)}
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
        style = "-" if numeric and not is_cloud else ""
        for line, colour, shift in zip(lines.values(), colours, shifts[: len(lines)], strict=True):
            at = [(places[show(_x_value(study, point))] + shift, point) for point in line]
            at = sorted(at, key=lambda pair: pair[0])
            _draw_line(axes, study.metric, at, colour, style)
            _mark_line(figure, axes, study.metric, at)
        if published:
            at = sorted((places[show(x)] + shifts[-1], y) for x, y in published)
            axes.plot(*zip(*at, strict=True), color=_NEUTRAL, label="paper", **_paper_look(numeric))
        axes.set(xlabel=study.label, ylabel=column(study.metric).title)
        _limit_percentage(axes, study.metric)
        joined = numeric and not is_cloud
        _add_legend(figure, _legend_entries(study, points, lines, colours, joined))
        if is_of_cost:
            _set_cost_axis(axes, study.x, max(places.values()))
        else:
            _set_ticks(study, points, figure, axes, places, numeric)
    return figure


def training_figure(
    study: StudyRecord, curves_of: Mapping[str, Sequence[Mapping[str, Any]]]
) -> StudyFigure:
    """Draws training loss and held-out top-1 over epochs.

    Args:
      study: the study.
      curves_of: records of steps by trial name, as `Workdir.read_curves` returns them.

    Returns:
      A figure with a line for each trial and a colour for each design point.
    """
    points = aggregate(study.trials)
    curves = [
        [(trial.name, curves_of.get(trial.name, [])) for trial in point.trials] for point in points
    ]
    if not any(curve for group in curves for _, curve in group):
        return _draw_message(study, "no training record yet")
    names = [describe(point.design) or study.name for point in points]
    is_one_axis = len(group_lines(study, points)) == 1
    ordered = is_one_axis and _place([_x_value(study, point) for point in points])[1]
    colours = _choose_colours(len(points), ordered)
    with matplotlib.rc_context(_STYLE):
        figure = StudyFigure(figsize=(8.4, 3.2), layout="constrained")
        axes = figure.subplots(1, 2)
        for group, colour in zip(curves, colours, strict=True):
            for trial, curve in group:
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
                        figure.mark(panel, [(x, y, trial) for x, y in thin(at, _CURVE_MARKS)])
        axes[0].set_yscale("log", nonpositive="mask")
        _label_log(axes[0].yaxis)
        axes[0].set(xlabel="Epoch", ylabel="Training loss")
        axes[1].set(xlabel="Epoch", ylabel=f"Held-out {column('top1').title.lower()}")
        _limit_percentage(axes[1], "top1")
        if len(names) > _NAMED:
            names = [f"a trial each; a colour for each of {len(names):,} design points"]
        _add_legend(
            figure,
            [
                Line2D([], [], color=colour, label=name)
                for colour, name in zip(colours, names, strict=False)
            ],
        )
    return figure


def pareto_figure(study: StudyRecord, points: Sequence[Point]) -> StudyFigure | None:
    """Draws accuracy against each cost that differs between points, with its Pareto front.

    Returns None if no cost differs.
    """
    costs = cost_columns(points, study.metric)
    if not costs:
        return None
    with matplotlib.rc_context(_STYLE):
        size = (4.2 * len(costs[:2]), 3.2 * -(-len(costs) // 2))
        figure = StudyFigure(figsize=size, layout="constrained")
        panels = list(figure.subplots(-(-len(costs) // 2), len(costs[:2]), squeeze=False).flat)
        for panel in panels[len(costs) :]:
            panel.set_visible(False)
        for panel, cost in zip(panels[: len(costs)], costs, strict=True):
            largest = _draw_costs(figure, panel, study.metric, cost, points)
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
            has_room = len(front) <= _FRONT_NAMES and len(points) <= 10 * _FRONT_NAMES
            named = zip(front, best, strict=True) if has_room else ()
            for point, position in named:
                name = _cut(", ".join(map(show, point.design.values())) or study.name, 40)
                panel.annotate(
                    name, position, textcoords="offset points", xytext=(4, -10), fontsize=7
                )
            scale = choose_scale(cost, largest)
            panel.set(xlabel=scale.title, ylabel=column(study.metric).title)
            panel.xaxis.set_major_formatter(FuncFormatter(scale.show))
            panel.margins(x=0.12, y=0.12)
    return figure


def _draw_costs(
    figure: StudyFigure, panel: Axes, metric: str, cost: str, points: Sequence[Point]
) -> float:
    """Draws accuracy against a cost, with the intervals of both; returns the largest cost.

    A cost of the design has no interval, and a measured one has, such as compressed bytes.
    """
    learned = [
        (interval, accuracy, point)
        for point in points
        if (accuracy := point.interval(metric)) and (interval := point.interval(cost))
    ]
    at = [(interval.mean, accuracy.mean, point) for interval, accuracy, point in learned]
    xs, ys, _ = zip(*at, strict=True)
    # A single seed has no interval.
    x_errors = np.nan_to_num([interval.errors for interval, _, _ in learned]).transpose()
    y_errors = np.nan_to_num([accuracy.errors for _, accuracy, _ in learned]).transpose()
    bars = panel.errorbar(
        xs,
        ys,
        xerr=x_errors,
        yerr=y_errors,
        linestyle="",
        color=_NEUTRAL,
        elinewidth=1,
        zorder=1.5,  # below the front
        label="points",
        **(_CLOUD if len(at) > _VECTORS else {**_SEED, "alpha": 0.6}),
    )
    for artist in bars.get_children():
        artist.set_rasterized(len(at) > _VECTORS)
    figure.mark(panel, at)
    return max(map(abs, xs))


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


def _make_figure(study: StudyRecord, size: tuple[float, float]) -> StudyFigure:
    """Returns a figure with the study's question as its title."""
    figure = StudyFigure(figsize=size, layout="constrained")
    title = textwrap.fill(_cut(study.title, 200), int(12 * size[0]))  # 12 characters an inch
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _draw_message(study: StudyRecord, text: str) -> StudyFigure:
    """Returns a figure that holds only a text."""
    with matplotlib.rc_context(_STYLE):
        figure = _make_figure(study, (6.4, 2))
        figure.text(0.5, 0.45, text, ha="center", va="center", color=_NEUTRAL, fontsize=12)
    return figure


def _x_value(study: StudyRecord, point: Point) -> Any:
    """Returns a point's value on the x axis, a swept key or a cost.

    The study's name if it sweeps only seeds.
    """
    if column(study.x).kind == "design":
        return point.constant(study.x)
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
    image = len(seeds) > _VECTORS
    if seeds:
        axes.plot(
            *zip(*seeds, strict=True),
            linestyle="",
            color=colour,
            label="seeds",
            rasterized=image,
            **(_CLOUD if image else _SEED),
        )
        # NaN interrupts the line at a point where no seed learned.
        intervals = [point.interval(metric) or Interval(nan) for _, point in at]
        errors = [*zip(*(interval.errors for interval in intervals), strict=True)]
        xs, means = [x for x, _ in at], [interval.mean for interval in intervals]
        bars = axes.errorbar(
            xs,
            means,
            yerr=errors,
            color=colour,
            linestyle=style,
            label="means",
            **(_CLOUD if image else _MEAN),
        )
        for artist in bars.get_children():
            artist.set_rasterized(image)
    if collapsed:
        axes.plot(
            *zip(*collapsed, strict=True),
            linestyle="",
            color=colour,
            label="collapsed",
            **_COLLAPSED,
        )


def _mark_line(
    figure: StudyFigure, axes: Axes, metric: str, at: Sequence[tuple[float, Point]]
) -> None:
    """Notes where a line shows its means and its seeds."""
    means = [(x, interval.mean, p) for x, p in at if (interval := p.interval(metric))]
    seeds = [
        (x, value, trial.name)
        for x, point in at
        for trial in point.trials
        if trial.status in ("ok", *COLLAPSED) and (value := trial.measures.get(metric)) is not None
    ]
    figure.mark(axes, [*means, *seeds])


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
    shown = dict(thin(list(places.items()), _TICKS))
    ticks = list(shown.values()), [_cut(position, 40) for position in shown]
    axes.set_xticks(*ticks)
    if not numeric:
        axes.set_xlim(-0.5, len(places) - 0.5)
    upper = axes.secondary_xaxis("top")
    name = _size_column(points, study.metric)
    sizes: dict[float, list[float]] = {}
    for point in points:
        known = sizes.setdefault(places[show(_x_value(study, point))], [])
        known += [size] if (size := point.representative(name)) is not None else []
    scale = choose_scale(name, max((size for known in sizes.values() for size in known), default=0))
    upper.set_xlabel(scale.title)
    ours = thin(sorted(sizes), _TICKS)
    upper.set_xticks(ours, [_show_range(scale, sizes[position]) for position in ours])
    figure.draw_without_rendering()  # labels have no width before
    if numeric:
        _thin_ticks(axes.xaxis)
    elif _overlaps(axes.xaxis):
        # Categories need all of their labels, so these are rotated.
        axes.set_xticks(*ticks, rotation=30, ha="right", rotation_mode="anchor")
    _thin_ticks(upper.xaxis)


def _set_cost_axis(axes: Axes, cost: str, largest: float) -> None:
    """Labels the x axis with a cost of the design points."""
    scale = choose_scale(cost, largest)
    axes.set_xlabel(scale.title)
    axes.xaxis.set_major_formatter(FuncFormatter(scale.show))


def _size_column(points: Sequence[Point], metric: str) -> str:
    """Returns the first measure of a net's size that differs between points, or the first one."""
    sizes = [
        name
        for name, entry in all_columns().items()
        if entry.is_cost and entry.unit in ("MiB", "bytes")
    ]
    return next((name for name in cost_columns(points, metric) if name in sizes), sizes[0])


def _show_range(scale: Scale, sizes: Sequence[float]) -> str:
    """Returns sizes of nets as text: one number, or a range."""
    ends = (min(sizes), max(sizes)) if sizes else ()
    return "–".join(dict.fromkeys(f"{end / scale.divisor:.3g}" for end in ends))


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
