"""Writes the report of a sweep: one self-contained HTML file, and the figure as separate files."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from squeeze_jax.report import classes, figures, verdict
from squeeze_jax.report.html_tables import Table, render_table, table_data
from squeeze_jax.report.page_data import entries, to_script, tooltip_columns
from squeeze_jax.report.page_figures import embed, mark_data
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
from squeeze_jax.study.columns import column, merit
from squeeze_jax.study.records import COLLAPSED, STOPPED, StudyRecord, TrialRecord
from squeeze_jax.study.workdir import Workdir

_CURVES = 500  # of training, at most; more cannot be told apart

_LINES = 1_000_000  # of all trials' metrics, so that many long curves are read in seconds

_INTERVALS = (
    "Mean and 95 % confidence interval over the seeds that learned, by Student's t; of percentages "
    "on the logit scale, so that it stays within 0 and 100 %: 98.9 +0.6 −1.3. The interval of two "
    "seeds (n = 2) says little, and one seed has none. A seed that collapsed or failed is left out "
    "and counted."
)

_COSTS_HEADING = """<h2>What does accuracy cost?</h2>
<p>Joined: the Pareto front, the points that no other beats.</p>"""


def draw(workdir: Path | str, reload_after: int | None = None) -> list[Path]:
    """Writes sweep.png, sweep.svg and report.html from what the sweep has finished so far.

    Args:
      workdir: folder of the study.
      reload_after: after how many seconds the page reloads itself, while it is drawn again and
        again; None: it does not.

    Returns:
      The paths of the files.

    Raises:
      UserError: the folder is no workdir, or is damaged.
    """
    folder = Workdir(workdir)
    study, trials = folder.read_record(), folder.read_trials()
    points = aggregate(trials)
    curves = folder.read_curves(
        [trial.name for trial in trials], max(20, _LINES // max(1, len(trials)))
    )
    names = list(curves)
    followed = names[:: max(1, -(-len(names) // _CURVES))]
    metric = column(study.metric).title
    drawn = {
        "sweep": (figures.accuracy_figure(study, points), f"{metric} against {study.label}"),
        "costs": (figures.pareto_figure(study, points), f"{metric} against cost"),
        "training": (
            figures.training_figure(study, {name: curves[name] for name in followed}),
            "Training loss and held-out accuracy against the epoch",
        ),
    }
    known = {name: (figure, label) for name, (figure, label) in drawn.items() if figure}
    accuracy, _ = known["sweep"]
    files = {"sweep.png": figures.png(accuracy), "sweep.svg": figures.svg(accuracy)}
    accuracy.suptitle("")  # the page has the question above
    embedded = {name: embed(figure, name, label) for name, (figure, label) in known.items()}
    if len(followed) < len(names):
        embedded["training"] += f"<p>{len(followed):,} of {len(names):,} trials.</p>"
    indices = {trial.name: i for i, trial in enumerate(trials)}
    marks = {name: mark_data(figure, points, indices) for name, (figure, _) in known.items()}
    tables = _tables(study, points, trials)
    data = {
        "workdir": str(folder.path),
        "marks": marks,
        "tables": {name: table_data(table, kinds) for name, (table, kinds) in tables.items()},
        "tip": tooltip_columns(study, points, tables["points"][0][0]),
        "entries": entries(study, points, trials, curves, folder.read_file_names(trials)),
    }
    best = best_point(study, points)
    learned = [trial.name for trial in best.trials if trial.status == "ok"] if best else []
    by_class = [record for name in learned if (record := folder.read_classes(name))]
    html = _page(
        study,
        body=[
            *_opening(study, points, embedded["sweep"]),
            *_design_points(study, points, tables["points"]),
            *([_COSTS_HEADING, embedded["costs"]] if "costs" in embedded else []),
            _class_section(best, by_class),
            "<h2>How did training go?</h2>",
            embedded["training"],
            "<h2>Trials</h2>",
            _table_link(folder),
            render_table(*tables["trials"], name="trials"),
            '<section id="entry" hidden></section>',
            *_how_it_was_run(study),
        ],
        data=data,
        reload_after=reload_after,
    )
    files["report.html"] = html.encode()
    return [folder.write_report(name, content) for name, content in files.items()]


def _page(
    study: StudyRecord, body: Sequence[str], data: Mapping[str, Any], reload_after: int | None
) -> str:
    """Returns the HTML file: what it shows, its data, its style and its script."""
    css, script = (
        resources.files("squeeze_jax.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    # A name that passes for HTML after all still runs nothing.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    reload = (
        f'<meta http-equiv="refresh" content="{reload_after}">\n'
        if reload_after is not None
        else ""
    )
    content = "\n".join(part for part in body if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
{reload}<title>{escape(study.name)} · {escape(study.preset)}</title>
<style>{css}</style>
</head>
<body>
{content}
<script type="text/plain" id="data">{to_script(data)}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def _opening(study: StudyRecord, points: Sequence[Point], picture: str) -> list[str]:
    """Returns the question, what came out in short, and the figure."""
    which = f"{escape(study.name)} · {escape(study.preset)}"
    return [
        f"<h1>{escape(study.title)}</h1>",
        f'<p class="muted">{which}</p>' if study.question else "",
        f"<p>{escape(summary(study, points))}</p>",
        _verdict_section(study, points),
        picture,
    ]


def _design_points(
    study: StudyRecord, points: Sequence[Point], table: tuple[Table, Sequence[str]]
) -> list[str]:
    """Returns the section of the design points: their table, and differences of neighbours."""
    return [
        "<h2>Design points</h2>",
        f"<p>{escape(_INTERVALS)}</p>",
        render_table(*table, name="points"),
        _difference_section(study, points),
    ]


def _how_it_was_run(study: StudyRecord) -> list[str]:
    """Returns the section of command, versions, machine and config."""
    how = {
        "Command": study.command,
        "Preset": study.preset,
        "Commit": study.commit,
        "Versions": ", ".join(f"{name} {version}" for name, version in study.versions.items()),
        "Device": study.device,
        "Started": study.started,
    }
    terms = [
        f"<dt>{name}</dt><dd><code>{escape(str(text))}</code></dd>" for name, text in how.items()
    ]
    config = escape(json.dumps(study.config, indent=2))
    return [
        "<h2>How it was run</h2>",
        f"<dl>\n{''.join(terms)}\n</dl>",
        f"<details>\n<summary>Config</summary>\n<pre>{config}</pre>\n</details>",
    ]


def _tables(
    study: StudyRecord, points: Sequence[Point], trials: Sequence[TrialRecord]
) -> dict[str, tuple[Table, Sequence[str]]]:
    """Returns the tables that the script knows, each with the CSS class of every row."""
    return {
        "points": (_add_fronts(point_table(study, points), study, points), [""] * len(points)),
        "trials": (_trial_table(trials), [trial.status for trial in trials]),
    }


def _table_link(folder: Workdir) -> str:
    """Returns a link that saves sweep.csv, from the page itself."""
    if not folder.table.exists():
        return ""
    content = quote(folder.table.read_bytes(), safe=",=:;/+-._~()")
    return (
        f'<p><a download="sweep.csv" href="data:text/csv;charset=utf-8,{content}">sweep.csv</a></p>'
    )


def best_point(study: StudyRecord, points: Sequence[Point]) -> Point | None:
    """Returns the point with the best mean of the study's metric; None if none has learned."""
    learned = [
        (merit(study.metric, interval.mean), point)
        for point in points
        if (interval := point.interval(study.metric))
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
            render_table(table)
            for table in (classes.worst_classes(record), classes.commonest_confusions(record))
            if len(table) > 1
        )
    return f"<h2>The best point, class by class</h2>\n<p>{escape(words)}</p>\n{tables}"


def _verdict_section(study: StudyRecord, points: Sequence[Point]) -> str:
    """Returns the verdict on the study's claim; "" where it states none."""
    if (found := verdict.judge(study, points)) is None:
        return ""
    table = verdict.verdict_table(study.metric, found)
    rows = render_table(table) if found.comparisons else ""
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
    return f"<p>{words}</p>\n{render_table(table)}"


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
    order = {"result": 0, "run": 1, "design": 2, "label": 3}
    names = sorted(measure_names(trials), key=lambda name: order[column(name).kind])
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
