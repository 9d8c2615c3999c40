"""The command that writes a network for another engine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from squeeze_jax.cli.checks import COUNT, check_ranges, check_suffix
from squeeze_jax.cli.data_arguments import (
    add_calibration_images_argument,
    add_data_arguments,
    check_data_named,
)
from squeeze_jax.cli.network_arguments import add_checkpoint_argument
from squeeze_jax.config_parsing import Range

if TYPE_CHECKING:
    from squeeze_jax.convert.options import Option

NAME = "export"
HELP = "write a file for another engine, checked against the network"
GROUP = "weights in and out"
EXAMPLE = "squeeze-jax export net.sqz --format onnx -o net.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint_argument(parser)
    from squeeze_jax.convert import EXPORTERS  # loads no format's library

    parser.add_argument("--format", choices=tuple(EXPORTERS), required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    for name, takers in _format_options().items():
        option = next(iter(takers.values()))
        words = f"{', '.join(takers)}: {option.help}"
        # The default is the format's, so that a flag that was not given is told from one that was.
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=option.type,
            choices=option.choices or None,
            help=words,
        )
    add_data_arguments(parser, words="for int8: ")
    add_calibration_images_argument(parser, "of the data, for int8 (default 200)")


def _format_options() -> "dict[str, dict[str, Option]]":
    """Returns the options of all formats: option name -> format -> the option."""
    from squeeze_jax.convert import EXPORTERS

    options: dict[str, dict[str, Option]] = {}
    for format, exporter in EXPORTERS.items():
        for name, option in exporter.OPTIONS.items():
            options.setdefault(name, {})[format] = option
    return options


def run(arguments: argparse.Namespace) -> int:
    """Writes the file and says how far its logits are from the network's."""
    from squeeze_jax import api
    from squeeze_jax.convert import EXPORTERS
    from squeeze_jax.convert.exporters import suffixes

    check_ranges(arguments, batch=Range(at_least=1, at_most=1024), calibration_images=COUNT)
    check_suffix(arguments.output, suffixes(EXPORTERS[arguments.format]))
    network = api.load(arguments.checkpoint)
    if arguments.precision == "int8":
        check_data_named(arguments, network)
    deviation = network.export(
        arguments.output,
        arguments.format,
        arguments.data,
        arguments.data_dir,
        arguments.split,
        arguments.calibration_images,
        **{name: getattr(arguments, name) for name in _format_options()},
    )
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: {size:,} bytes, logits within {deviation:.1e} of the net's")
    return 0
