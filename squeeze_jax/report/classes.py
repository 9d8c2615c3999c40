"""Shows an evaluation by class: accuracies, the confusion matrix, and the worst of many classes.

A record is what `train.evaluation.by_class` returns: calibration_error, classes and confusion.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from squeeze_jax.errors import list_names
from squeeze_jax.report.layer_table import text_table

MATRIX_CLASSES = 20  # so many are shown as a matrix
WORST = 10  # classes that are shown where there are many
HEADINGS = ("Class", "Images", "Top-1 (%)", "Most often taken for")

Record = Mapping[str, Any]


def pool(records: Sequence[Record]) -> dict[str, Any]:
    """Returns the evaluations of several seeds as one.

    Images are added up; the calibration error is the mean, since over- and underconfident seeds
    would cancel.
    """
    classes = []
    for same in zip(*(record["classes"] for record in records), strict=True):
        images = sum(each["images"] for each in same)
        right = sum(each["images"] * (each["top1"] or 0) for each in same)
        top1 = right / images if images else None
        classes.append({"name": same[0]["name"], "images": images, "top1": top1})
    confusion = None
    if all(record["confusion"] is not None for record in records):
        counts: Counter[tuple[int, int]] = Counter()
        for record in records:
            for label, answer, images in record["confusion"]:
                counts[label, answer] += images
        confusion = [[*pair, images] for pair, images in sorted(counts.items())]
    error = statistics.fmean(record["calibration_error"] for record in records)
    return {"calibration_error": error, "classes": classes, "confusion": confusion}


def worst_classes(record: Record, count: int = WORST) -> list[list[str]]:
    """Returns a table of the classes of lowest accuracy: HEADINGS, then a row a class.

    Classes without images are left out.
    """
    taken_for: dict[int, list[tuple[int, int]]] = {}
    for label, answer, images in _mistakes(record):
        taken_for.setdefault(label, []).append((answer, images))
    known = [
        (each["top1"], label)
        for label, each in enumerate(record["classes"])
        if each["top1"] is not None
    ]
    rows = [
        [
            _name(record, label),
            f"{record['classes'][label]['images']:,}",
            f"{top1:.1f}",
            ", ".join(f"{_name(record, answer)} ({n:,})" for answer, n in taken_for[label][:1])
            if label in taken_for
            else "",
        ]
        for top1, label in sorted(known)[:count]
    ]
    return [list(HEADINGS), *rows]


def commonest_confusions(record: Record, count: int = WORST) -> list[list[str]]:
    """Returns a table of the commonest mistakes: headings, then class, answer and images."""
    rows = [
        [_name(record, label), _name(record, answer), f"{images:,}"]
        for label, answer, images in _mistakes(record)[:count]
    ]
    return [["Class", "Taken for", "Images"], *rows]


def classes_text(record: Record) -> str:
    """Returns the calibration error, the worst classes and the commonest confusions as text."""
    head, *rows = worst_classes(record)
    images = sum(each["images"] for each in record["classes"])
    right = sum(each["images"] * (each["top1"] or 0) for each in record["classes"])
    known = sum(each["top1"] is not None for each in record["classes"])
    if known > len(rows):
        head[0] = f"Worst {len(rows)} of {known:,} classes"
    table = [head, *rows, ["all", f"{images:,}", f"{right / images:.1f}", ""]]
    lines = [
        f"expected calibration error {record['calibration_error']:.2f} %",
        "",
        text_table(table, numeric=(1, 2)),
    ]
    if pairs := commonest_confusions(record, 5)[1:]:
        words = "; ".join(f"{name} as {answer} ({images})" for name, answer, images in pairs)
        lines += ["", f"commonest confusions: {words}"]
    return "\n".join(lines)


def confusion_html(record: Record) -> str:
    """Returns the confusion matrix in % of each class's images, as an HTML table with colours."""
    classes = record["classes"]
    shares = {
        (label, answer): images / classes[label]["images"]
        for label, answer, images in record["confusion"]
    }
    names = [escape(_name(record, label)) for label in range(len(classes))]
    head = "".join(f'<th class="number">{name}</th>' for name in names)
    rows = []
    for label, each in enumerate(classes):
        top1 = "–" if each["top1"] is None else f"{each['top1']:.1f}"
        cells = "".join(
            _cell(shares.get((label, answer), 0.0), label == answer)
            for answer in range(len(classes))
        )
        rows.append(
            f'<tr><th>{names[label]}</th><td class="number">{each["images"]:,}</td>'
            f'<td class="number">{top1}</td>{cells}</tr>\n'
        )
    first, *numbers = (escape(heading) for heading in HEADINGS[:3])
    head = f"<th>{first}</th>" + "".join(f'<th class="number">{x}</th>' for x in numbers) + head
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody>\n</table></div>"
    )


def _cell(share: float, is_right: bool) -> str:
    """Returns a cell of the matrix: blue on the diagonal, orange beside it."""
    if not share:
        return "<td></td>"
    # The root makes a mistake of a few per cent visible.
    colour, alpha = ("0, 114, 178", share) if is_right else ("213, 94, 0", share**0.5)
    style = f"background: rgba({colour}, {0.6 * alpha:.2f})"
    return f'<td class="number" style="{style}">{100 * share:.1f}</td>'


def _mistakes(record: Record) -> list[tuple[int, int, int]]:
    """Returns the pairs of label and another answer that occur, the commonest first."""
    pairs = [tuple(pair) for pair in record["confusion"] or () if pair[0] != pair[1]]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))


def _name(record: Record, label: int) -> str:
    """Returns the name of a class, which may come from a file, so that it can be printed."""
    return list_names([record["classes"][label]["name"]])
