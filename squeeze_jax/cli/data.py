"""The command that tells how a folder of images is read."""

import argparse
import statistics
from collections.abc import Sequence

from squeeze_jax.storage import as_path

NAME = "data"
HELP = "tell how a folder of images is read: classes, splits, sizes, duplicates, what is left out"
GROUP = "inspect"
EXAMPLE = "squeeze-jax data my_images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from squeeze_jax.data import folder

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{str(folder.__doc__).partition(chr(10) * 2)[2]}\n{parser.epilog}"
    parser.add_argument("folder", type=as_path, metavar="FOLDER")
    parser.add_argument(
        "--holdout",
        type=float,
        default=0.2,
        help="the fraction held out without val and test, as data.holdout (default 0.2)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints what training would find in the folder."""
    from squeeze_jax.data.folder import scan
    from squeeze_jax.data.survey import survey
    from squeeze_jax.data.unreadable import describe
    from squeeze_jax.errors import UserError
    from squeeze_jax.network.labels import check_class_names
    from squeeze_jax.report.layer_table import text_table

    folder = scan(arguments.folder)
    lines = []
    try:
        check_class_names(str(folder.root), folder.class_names)
        splits = folder.roles(arguments.holdout)
    except UserError as e:
        splits = folder.splits
        lines.append(f"cannot be trained on: {e}")
    counts = {
        name: [len(classes.get(name, ())) for classes in splits.values()]
        for name in folder.class_names
    }
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    print(f"{folder.root}: {len(folder.class_names)} classes, {sum(total)} images")
    headings = folder.splits if len(folder.splits) == len(splits) else ("train", "held out")
    rows = [
        [name if name.isprintable() else ascii(name), *map(str, row)]
        for name, row in [*counts.items(), ("all", total)]
    ]
    print(text_table([["class", *headings], *rows], numeric=range(1, 1 + len(splits))))
    lines += [f"{split}: {folder.folders[split]}" for split in folder.splits]
    if len(splits) == 3:
        lines.append("designs are chosen by val; test is reported apart")
    found = survey(folder, splits)
    if found.sizes:
        widths, heights = zip(*found.sizes, strict=True)
        lines.append(f"pixels: {_spread(widths)} wide, {_spread(heights)} high")
    for groups, what in ((found.across_splits, "splits"), (found.across_classes, "classes")):
        if groups:
            example = " = ".join(map(str, groups[0]))
            lines.append(f"equal files in several {what}: {len(groups)} (first: {example})")
    lines += folder.notes()
    if found.unreadable:
        skips = ", or skips them with --config.data.skip_unreadable=True"
        lines.append(
            f"cannot be read: {describe(found.unreadable)}; launch refuses them"
            + ("" if found.lost else skips)
        )
    if found.lost:
        lines.append(f"cannot be trained on: {found.lost}")
    print("\n".join(lines))
    return 0


def _spread(values: Sequence[int]) -> str:
    """Returns "64 to 4000 (median 72)", or the value that all have."""
    if min(values) == max(values):
        return str(values[0])
    return f"{min(values)} to {max(values)} (median {statistics.median_low(values)})"
