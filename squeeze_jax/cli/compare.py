"""The command that tells what design spaces are worth, side by side."""

import argparse
import json
import sys

from squeeze_jax.cli.checks import COUNT, check_figure, check_ranges
from squeeze_jax.storage import as_path

NAME = "compare"
HELP = "compare design spaces: error distributions, what each axis matters, the best design"
GROUP = "study"
EXAMPLE = "squeeze-jax compare runs/sr_sweep-digits runs/pct3x3_sweep-digits --figure edf.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "workdir", type=as_path, nargs="+", help="of a study, such as runs/sr_sweep-digits"
    )
    parser.add_argument("--max-macs", type=int, help="leaves out designs of more MACs")
    parser.add_argument("--max-params", type=int, help="leaves out designs of more parameters")
    parser.add_argument(
        "--steps",
        type=int,
        help="compare the nets after so many steps, a rung of stopping.rungs (default: their end)",
    )
    parser.add_argument(
        "--min-designs",
        type=int,
        default=5,
        metavar="N",
        help="finished designs that each space must have (default 5)",
    )
    parser.add_argument(
        "--figure",
        type=as_path,
        metavar="FILE",
        help="also draw the error distribution functions, as .png or .svg",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """Prints the comparison, and draws the distributions."""
    from squeeze_jax.report import space_tables, spaces
    from squeeze_jax.study.workdir import Workdir

    check_ranges(arguments, max_macs=COUNT, max_params=COUNT, min_designs=COUNT, steps=COUNT)
    if arguments.figure:
        check_figure("--figure", arguments.figure)
    limits = {"macs": arguments.max_macs, "params": arguments.max_params}
    known = [
        spaces.read_space(Workdir(path), limits, arguments.steps) for path in arguments.workdir
    ]
    spaces.check_comparable(known, arguments.min_designs)
    record = space_tables.compare_spaces(known)
    as_json = arguments.format == "json"
    print(json.dumps(record) if as_json else space_tables.comparison_text(record))
    if arguments.figure:
        from squeeze_jax.report import figures

        figures.write(arguments.figure, figures.distribution_figure(known))
        print(arguments.figure, file=sys.stderr)
    return 0
