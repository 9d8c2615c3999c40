"""Shows the design points of a study in a terminal."""

from squeeze_jax.report.layer_table import text_table
from squeeze_jax.report.tables import aggregate, describe, show_interval
from squeeze_jax.study.columns import column
from squeeze_jax.study.workdir import Workdir

_ROWS = 40


def points_text(workdir: Workdir, width: int = 80) -> str:
    """Returns a table of the design points: design, metric with interval, seeds, parameters.

    Args:
      workdir: of the study; its sweep.csv is read.
      width: of the terminal, in letters. Long designs are cut.

    Raises:
      UserError: the folder is no workdir, or is damaged.
    """
    study, points = workdir.read_record(), aggregate(workdir.read_trials())
    head = ["Design", column(study.metric).title, "Seeds", column("params").title]
    cells = [
        [
            show_interval(study.metric, point.interval(study.metric)),
            f"{point.count('ok')} of {len(point.trials)}",
            column("params").show(point.constant("params")),
        ]
        for point in points[:_ROWS]
    ]
    columns = zip(head[1:], *cells, strict=True)
    others = sum(2 + max(map(len, each)) for each in columns)
    room = max(12, width - others)
    names = [_cut(describe(point.design) or study.name, room) for point in points]
    rows = [head, *([name, *row] for name, row in zip(names, cells, strict=False))]
    text = text_table(rows, numeric=(1, 2, 3), has_total=False)
    if (more := len(points) - _ROWS) > 0:
        text += f"\n… and {more:,} more design points in report.html"
    if any(point.count("ok") > 1 for point in points):
        text += "\nintervals: 95 %, of means over seeds"
    return text


def _cut(text: str, room: int) -> str:
    """Returns a text of at most `room` letters: its end tells designs apart."""
    return text if len(text) <= room else f"…{text[1 - room :]}"
