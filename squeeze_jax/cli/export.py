"""The command that writes a network for another engine."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze_jax import storage
from squeeze_jax.cli.checks import COUNT, check_ranges, check_suffix
from squeeze_jax.cli.data_arguments import (
    add_calibration_images_argument,
    add_data_arguments,
    calibration_images,
    check_data_named,
)
from squeeze_jax.cli.network_arguments import add_checkpoint_argument
from squeeze_jax.config_parsing import Range
from squeeze_jax.storage import as_path

if TYPE_CHECKING:
    from squeeze_jax.convert.options import Option
    from squeeze_jax.train.calibrated_export import Accuracy

NAME = "export"
HELP = "write a file for another engine, checked against the network"
GROUP = "weights in and out"
EXAMPLE = "squeeze-jax export net.sqz --format onnx -o net.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint_argument(parser)
    from squeeze_jax.convert import EXPORTERS  # loads no large library

    parser.add_argument("--format", choices=tuple(EXPORTERS), required=True)
    parser.add_argument("-o", "--output", type=as_path, required=True, metavar="FILE")
    for name, takers in _format_options().items():
        option = next(iter(takers.values()))
        of_text: dict[str, list[str]] = {}  # formats by what they say of the option
        for format, taker in takers.items():
            of_text.setdefault(taker.help, []).append(format)
        words = "; ".join(f"{', '.join(formats)}: {text}" for text, formats in of_text.items())
        choices = dict.fromkeys(choice for taker in takers.values() for choice in taker.choices)
        # The default is the format's, so that a flag that was not given is told from one that was.
        kind: dict[str, Any] = (
            dict(action="store_true")
            if option.type is bool
            else dict(type=option.type, choices=tuple(choices) or None)
        )
        parser.add_argument(f"--{name.replace('_', '-')}", **kind, default=None, help=words)
    add_data_arguments(parser, words="for int8 and int16: ")
    add_calibration_images_argument(parser, "of the data, for int8 and int16 (default 200)")


def _format_options() -> "dict[str, dict[str, Option]]":
    """Returns the options of all formats: option name -> format -> the option."""
    from squeeze_jax.convert import EXPORTERS

    options: dict[str, dict[str, Option]] = {}
    for format, exporter in EXPORTERS.items():
        for name, option in exporter.OPTIONS.items():
            options.setdefault(name, {})[format] = option
    return options


def run(arguments: argparse.Namespace) -> int:
    """Writes the file and says how near it comes to the network."""
    from squeeze_jax import api
    from squeeze_jax.convert import EXPORTERS, exporters

    check_ranges(arguments, batch=Range(at_least=1, at_most=1024), calibration_images=COUNT)
    exporter = EXPORTERS[arguments.format]
    if not exporters.is_folder(exporter):
        check_suffix(arguments.output, exporters.suffixes(exporter))
    options = {name: getattr(arguments, name) for name in _format_options()}
    network = api.load(arguments.checkpoint)
    calibrates = exporters.needs_calibration(arguments.format, options)
    images = calibration_images(arguments, calibrates)
    if calibrates:
        check_data_named(arguments, network)
    written = network.export(
        arguments.output,
        arguments.format,
        arguments.data,
        arguments.data_dir,
        arguments.split,
        images,
        **options,
    )
    print(
        f"{written.path}: {_describe(written.path)}, "
        f"logits within {written.deviation:.1e} of the net's" + _accuracy(written.accuracy)
    )
    if written.path.is_dir():
        print(f"test: make -C {written.path} test")
    return 0


def _describe(path: Path) -> str:
    """Returns the bytes of an exported file, or the flash and RAM of a project for devices."""
    if path.is_file():
        return f"{storage.size(path):,} bytes"
    engine = json.loads((path / "net.json").read_text())["engine"]
    return (
        f"{engine['constant_bytes']:,} bytes of flash besides the code, "
        f"{engine['ram_bytes']:,} bytes of RAM besides the stack"
    )


def _accuracy(found: "Accuracy | None") -> str:
    """Returns the words about a calibrated file's accuracy."""
    if found is None:
        return ""
    return (
        f", top-1 {found.after:.2f} %, the net's {found.before:.2f} %, "
        f"on {found.num_images:,} images that did not calibrate it"
    )
