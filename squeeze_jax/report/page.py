"""Writes the report of a sweep: one self-contained HTML file, and the figure as separate files."""

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from squeeze_jax.report import classes, figures, verdict
from squeeze_jax.report.tables import (
    Point,
    aggregate,
    cost_columns,
    describe,
    measure_names,
    pareto_front,
    point_table,
    show_interval,
)
from squeeze_jax.study.columns import column
from squeeze_jax.study.records import COLLAPSED, STOPPED, StudyRecord, TrialRecord
from squeeze_jax.study.workdir import Workdir

_CSS = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; }
h2 { margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #8884; }
th, td { text-align: left; white-space: nowrap; }
th { border-bottom-width: 2px; }
td:last-child { white-space: normal; }
.number { text-align: right; }
.diverged, .chance, .failed { background: #d55e0022; }
.pending { opacity: .6; }
figure { margin: 1rem 0; padding: .5rem; background: #fff; border-radius: 6px; }
figure svg { display: block; max-width: 100%; height: auto; margin: auto; }
dt { font-weight: 600; }
code, pre { font-size: 13px; overflow-wrap: anywhere; white-space: pre-wrap; }
"""

_CURVES = 500  # of training, at most; more cannot be told apart

_INTERVALS = (
    "Mean and 95 % confidence interval over the seeds that learned, by Student's t; of percentages "
    "on the logit scale, so that it stays within 0 and 100 %: 98.9 +0.6 −1.3. The interval of two "
    "seeds (n = 2) says little, and one seed has none. A seed that collapsed or failed is left out "
    "and counted."
)

_COSTS_HEADING = """<h2>What accuracy costs</h2>
<p>Joined: the Pareto front, the points that no other beats.</p>
"""


def draw(workdir: Path | str) -> list[Path]:
    """Writes sweep.png, sweep.svg and report.html from what the sweep has finished so far.

    Args:
      workdir: folder of the study.

    Returns:
      The paths of the files.

    Raises:
      UserError: the folder is no workdir, or is damaged.
    """
    folder = Workdir(workdir)
    study, trials = folder.read_record(), folder.read_trials()
    points = aggregate(trials)
    accuracy = figures.accuracy_figure(study, points)
    picture = figures.svg(accuracy)
    costs = figures.pareto_figure(study, points)
    names = [trial.name for trial in trials]
    followed = names[:: max(1, -(-len(names) // _CURVES))]
    drawings = [
        _embed(picture.decode(), "sweep", f"{column(study.metric).title} against {study.label}"),
        _embed(figures.svg(costs).decode(), "costs", f"{column(study.metric).title} against cost")
        if costs
        else "",
        _embed(
            figures.svg(figures.training_figure(study, folder.read_curves(followed))).decode(),
            "training",
            "Training loss and held-out accuracy against the epoch",
        )
        + (f"<p>{len(followed)} of {len(names)} trials.</p>" if len(followed) < len(names) else ""),
    ]
    best = best_point(study, points)
    learned = [trial.name for trial in best.trials if trial.status == "ok"] if best else []
    by_class = [record for name in learned if (record := folder.read_classes(name))]
    files = {
        "sweep.png": figures.png(accuracy),
        "sweep.svg": picture,
        "report.html": _render(
            study, trials, points, _class_section(best, by_class), *drawings
        ).encode(),
    }
    return [folder.write_report(name, content) for name, content in files.items()]


def _render(
    study: StudyRecord,
    trials: Sequence[TrialRecord],
    points: Sequence[Point],
    by_class: str,
    picture: str,
    costs: str,
    training: str,
) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in study.versions.items())
    how = {
        "Command": study.command,
        "Preset": study.preset,
        "Commit": study.commit,
        "Versions": versions,
        "Device": study.device,
        "Started": study.started,
    }
    table = _add_fronts(point_table(study, points), study, points)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(study.name)} · {escape(study.preset)}</title>
<style>{_CSS}</style>
</head>
<body>
<h1>{escape(study.name)} · {escape(study.preset)}</h1>
<p>{escape(summary(study, points))}</p>
{_verdict_section(study, points)}
{picture}
<h2>Design points</h2>
<p>{escape(_INTERVALS)}</p>
{_render_table(table, [""] * len(points))}
{_difference_section(study, points)}
{_COSTS_HEADING + costs if costs else ""}
{by_class}
<h2>Training</h2>
{training}
<h2>Trials</h2>
{_render_table(_trial_table(trials), [trial.status for trial in trials])}
<h2>How it was run</h2>
<dl>
{"".join(f"<dt>{name}</dt><dd><code>{escape(str(text))}</code></dd>" for name, text in how.items())}
</dl>
<details>
<summary>Config</summary>
<pre>{escape(json.dumps(study.config, indent=2))}</pre>
</details>
</body>
</html>
"""


def best_point(study: StudyRecord, points: Sequence[Point]) -> Point | None:
    """Returns the point with the highest mean of the study's metric; None if none has learned."""
    learned = [
        (interval.mean, point) for point in points if (interval := point.interval(study.metric))
    ]
    return max(learned, key=lambda pair: pair[0])[1] if learned else None


def _class_section(best: Point | None, records: Sequence[classes.Record]) -> str:
    """Returns the evaluation of a point by class; "" where no seed of it has one.

    Args:
      best: the point.
      records: of its seeds, see `Workdir.read_classes`.
    """
    if best is None or not records:
        return ""
    record = classes.pool(records)
    seeds = f"{len(records)} seed{'s' if len(records) > 1 else ''}"
    words = (
        f"{describe(best.design) or 'The net'}, {seeds} together. Expected calibration error: "
        f"{record['calibration_error']:.1f} % (15 bins of confidence; mean over the seeds)."
    )
    if len(record["classes"]) <= classes.MATRIX_CLASSES and record["confusion"]:
        words += " A row is a class, a column an answer, in % of the class's images."
        tables = classes.confusion_html(record)
    else:
        tables = "\n".join(
            _render_table(table, [""] * (len(table) - 1))
            for table in (classes.worst_classes(record), classes.commonest_confusions(record))
            if len(table) > 1
        )
    return f"<h2>The best point, class by class</h2>\n<p>{escape(words)}</p>\n{tables}"


def _verdict_section(study: StudyRecord, points: Sequence[Point]) -> str:
    """Returns the verdict on the study's claim; "" where it states none."""
    if (found := verdict.judge(study, points)) is None:
        return ""
    table = verdict.verdict_table(study.metric, found)
    rows = _render_table(table, [""] * (len(table) - 1)) if found.comparisons else ""
    return f"<p>{escape(verdict.verdict_sentence(found))}</p>\n{rows}"


def _difference_section(study: StudyRecord, points: Sequence[Point]) -> str:
    """Returns the differences of neighbours along x; "" where no two have pairs of seeds."""
    pairs = [each for each in verdict.neighbours(study, points) if len(each.differences) > 1]
    if not pairs:
        return ""
    table = verdict.difference_table(study.metric, pairs)
    words = (
        "Differences of neighbours, paired by seed: mean, 95 % interval and p-value of Student's "
        f"paired t test, corrected for {len(pairs)} comparisons (Holm)."
    )
    return f"<p>{words}</p>\n{_render_table(table, [''] * len(pairs))}"


def summary(study: StudyRecord, points: Sequence[Point]) -> str:
    """Returns two sentences: the best design point, and how many trials finished."""
    counts = {
        "finished": ("ok", *COLLAPSED),
        "collapsed": COLLAPSED,
        "stopped early": (STOPPED,),
        "failed": ("failed",),
        "pending": ("pending",),
    }
    total = {
        name: sum(point.count(*statuses) for point in points) for name, statuses in counts.items()
    }
    others = "".join(f", {total[name]} {name}" for name in [*counts][1:] if total[name])
    planned = sum(len(point.trials) for point in points)
    state = f"{total['finished']} of {planned} trials finished{others}."
    if (best := best_point(study, points)) is None:
        return state
    learned = [point for point in points if point.interval(study.metric)]
    seeds = best.count("ok")
    result = (
        f"{column(study.metric).title} {show_interval(study.metric, best.interval(study.metric))}"
    )
    which = (
        f"Best of {len(learned)} design points: {describe(best.design)}"
        if len(learned) > 1
        else describe(best.design) or study.name
    )
    left_out = f" ({best.left_out} left out)" if best.left_out else ""
    return f"{which}, {result} over {seeds} seed{'s' if seeds > 1 else ''}{left_out}. {state}"


def _add_fronts(
    table: list[list[str]], study: StudyRecord, points: Sequence[Point]
) -> list[list[str]]:
    """Returns a table with a further column: the Pareto fronts that a point is on."""
    fronts = {
        cost: pareto_front(points, cost, study.metric)
        for cost in cost_columns(points, study.metric)
    }
    if not fronts:
        return table
    marks = [
        ", ".join(column(cost).heading.lower() for cost in fronts if point in fronts[cost])
        for point in points
    ]
    return [row + [mark] for row, mark in zip(table, ["Pareto front of", *marks], strict=True)]


def _trial_table(trials: Sequence[TrialRecord]) -> list[list[str]]:
    names = measure_names(trials)
    head = [column(name).title for name in ("trial", "status", *names, "reason")]
    return [head] + [
        [
            trial.name,
            trial.status,
            *(column(name).show(trial.measures.get(name)) for name in names),
            trial.reason,
        ]
        for trial in trials
    ]


def _render_table(table: Sequence[Sequence[str]], classes: Iterable[str]) -> str:
    """Returns an HTML table; columns of numbers are aligned to the right.

    Args:
      table: the row of headings, and the rows of cells.
      classes: CSS class of each row of cells.
    """
    head, *rows = table
    columns = [column[1:] for column in zip(*table, strict=True)]
    sides = [
        "number"
        if all(cell[:1].isdigit() or cell in ("", "–") for cell in column) and any(column)
        else ""
        for column in columns
    ]

    def tag(name: str, kind: str, content: str) -> str:
        return (
            f'<{name} class="{kind}">{content}</{name}>' if kind else f"<{name}>{content}</{name}>"
        )

    def line(name: str, row: Sequence[str], kind: str) -> str:
        return (
            tag(
                "tr",
                kind,
                "".join(
                    tag(name, side, escape(cell)) for side, cell in zip(sides, row, strict=True)
                ),
            )
            + "\n"
        )

    body = "".join(line("td", row, name) for row, name in zip(rows, classes, strict=True))
    head_row = line("th", head, "")
    rows_html = f"<thead>{head_row}</thead>\n<tbody>{body}</tbody>"
    return f'<div class="wide"><table>\n{rows_html}\n</table></div>'


def _embed(svg: str, prefix: str, label: str) -> str:
    """Returns an SVG file as an HTML figure, without its prologue.

    Args:
      svg: content of the file.
      prefix: added to all ids, since those of different figures coincide.
      label: text for screen readers.
    """
    drawing = re.sub(
        r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg[svg.index("<svg") + len("<svg") :]
    )
    return f'<figure><svg role="img" aria-label="{escape(label)}"{drawing}</figure>'
