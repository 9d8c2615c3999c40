"""From a sweep's result files to its table, its figures and its report; reads files, never trains.

    draw(workdir)                  writes sweep.png, sweep.svg and report.html into it
    markdown(point_table(...))     the table of the design points, as experiments/*/README.md shows it
"""

from squeeze_jax.analysis.figures import accuracy_figure, training_figure
from squeeze_jax.analysis.report import draw
from squeeze_jax.analysis.tables import aggregate, markdown, point_table, read_study, read_trials

__all__ = ["accuracy_figure", "aggregate", "draw", "markdown", "point_table", "read_study", "read_trials", "training_figure"]
