"""Renders tables as HTML, and as the JSON from which the page's script makes their rows."""

from collections.abc import Sequence
from html import escape
from typing import Any

Table = Sequence[Sequence[str]]

_ROWS = 200  # of a large table that are HTML; the script shows the others


def render_table(table: Table, statuses: Sequence[str] = (), name: str = "") -> str:
    """Returns an HTML table; columns of numbers are aligned to the right.

    Args:
      table: the row of headings, and the rows of cells.
      statuses: CSS class of each row of cells; none by default.
      name: of the table in the page's data, from which the script makes its rows. Without one, the
        script only sorts them.
    """
    head, *rows = table
    sides = ["number" if is_number else "" for is_number in _numeric(table)]
    classes = [*statuses] or [""] * len(rows)
    if name:
        rows, classes = rows[:_ROWS], classes[:_ROWS]
    body = "".join(_row("td", row, sides, kind) for row, kind in zip(rows, classes, strict=True))
    left = len(table) - 1 - len(rows)
    words = f"The first {len(rows):,} of {len(rows) + left:,} rows; JavaScript shows all."
    more = f"<noscript><p>{words}</p></noscript>" if left else ""
    mark = f' data-name="{name}"' if name else ""
    return (
        f'<div class="wide{" tall" if name else ""}"><table class="data"{mark}>\n'
        f"<thead>{_row('th', head, sides, '')}</thead>\n<tbody>{body}</tbody>\n"
        f"</table></div>{more}"
    )


def table_data(table: Table, statuses: Sequence[str] = ()) -> dict[str, Any]:
    """Returns a table for the page's script: headings, rows, which columns hold numbers."""
    head, *rows = table
    return {
        "head": list(head),
        "numeric": _numeric(table),
        "rows": [list(row) for row in rows],
        "statuses": list(statuses),
    }


def _numeric(table: Table) -> list[bool]:
    """Returns of each column whether it holds numbers alone, or dashes."""
    columns = [column[1:] for column in zip(*table, strict=True)]
    return [
        all(cell.lstrip("+-−")[:1].isdigit() or cell in ("", "–") for cell in column)
        and any(column)
        for column in columns
    ]


def _row(tag: str, cells: Sequence[str], sides: Sequence[str], kind: str) -> str:
    content = "".join(
        f"<{tag}{_class(side)}>{escape(cell)}</{tag}>"
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr{_class(kind)}>{content}</tr>\n"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
