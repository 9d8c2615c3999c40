"""Puts figures into the page: their colours follow its scheme, and their points can be named."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from squeeze_jax.report.figures import StudyFigure, svg
from squeeze_jax.report.tables import Point

# Matplotlib's neutral colours -> the page's; page.css says what these are.
_NEUTRAL = {
    "#000000": "currentColor",
    "#ffffff": "var(--background)",
    "#ebebeb": "var(--grid)",
    "#595959": "var(--muted)",
}


def embed(figure: StudyFigure, name: str, label: str) -> str:
    """Returns a figure as HTML: an SVG without its prologue.

    Args:
      figure: it is drawn, after which its `positions` are those in the SVG.
      name: of the figure in the page's data. It is added to all ids, since those of different
        figures coincide.
      label: text for screen readers.
    """
    text = svg(figure).decode()
    drawing = text[text.index("<svg") + len("<svg") :]
    drawing = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    drawing = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", _follow_scheme, drawing)
    return (
        f'<figure data-name="{name}"><svg role="img" aria-label="{escape(label)}"{drawing}</figure>'
    )


def _follow_scheme(match: re.Match[str]) -> str:
    """Returns a colour of the page for one of Matplotlib; hues are lighter on a dark ground."""
    kind, colour = match.groups()
    lifted = f"color-mix(in oklab, {colour}, white var(--lift))"
    return f"{kind}: {_NEUTRAL.get(colour, lifted)}"


def mark_data(figure: StudyFigure, points: Sequence[Point], trials: Mapping[str, int]) -> list[int]:
    """Returns where a figure shows what, for the page's script: x, y, which, x, y, which, ...

    Args:
      figure: as it was drawn last.
      points: the design points.
      trials: name of a trial -> its index.

    Returns:
      x and y in 1/10,000 of width and height from the upper left corner; which: the index of a
      design point, or -1 - the index of a trial.
    """
    indices = {id(point): i for i, point in enumerate(points)}
    flat = []
    for x, y, shown in figure.positions():
        which = -1 - trials[shown] if isinstance(shown, str) else indices[id(shown)]
        flat += [round(10_000 * x), round(10_000 * y), which]
    return flat
