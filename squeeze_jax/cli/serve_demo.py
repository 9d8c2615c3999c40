"""The command that serves a web page to try a network."""

import argparse
import sys
import tempfile
from pathlib import Path

from squeeze_jax.cli.checks import COUNT, check_ranges
from squeeze_jax.cli.data_arguments import (
    add_calibration_images_argument,
    add_data_arguments,
    calibration_images,
)
from squeeze_jax.cli.network_arguments import add_checkpoint_argument
from squeeze_jax.config_parsing import Range
from squeeze_jax.files import check_new
from squeeze_jax.signals import raised_signals
from squeeze_jax.storage import as_path

NAME = "serve-demo"
HELP = "serve a web page to try the network: drop an image, see the five likeliest classes"
GROUP = "weights in and out"
EXAMPLE = "squeeze-jax serve-demo net.sqz --port 8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint_argument(parser)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "-o",
        "--output",
        type=as_path,
        metavar="FOLDER",
        help="write the page here, for any web server, and do not serve it",
    )
    parser.add_argument(
        "--runtime",
        type=as_path,
        metavar="FOLDER",
        help="node_modules/onnxruntime-web, to work offline (default: from a CDN)",
    )
    add_data_arguments(
        parser, words="also show an int8 model, calibrated on these images: ", default=""
    )
    add_calibration_images_argument(parser, "of the data (default 200)")


def run(arguments: argparse.Namespace) -> int:
    """Writes the page, and serves it until interrupted unless --output is given."""
    from squeeze_jax import api
    from squeeze_jax.convert import demo

    check_ranges(arguments, port=Range(at_least=0, at_most=65535), calibration_images=COUNT)
    if arguments.output:
        check_new(arguments.output)
    names_images = bool(arguments.data or arguments.data_dir or arguments.split)
    images = calibration_images(arguments, names_images)
    loaded = api.load(arguments.checkpoint)
    models = {"float32": loaded.export_bytes("onnx")[0]}
    if names_images:
        models["int8"] = loaded.calibrated_bytes(
            "onnx",
            arguments.data,
            arguments.data_dir,
            arguments.split,
            images,
            precision="int8",
        )[0]
    metadata = loaded.whole().metadata()
    if arguments.output:
        demo.write_page(arguments.output, metadata, models, arguments.runtime)
        print(f"{arguments.output}/index.html: serve the folder with any web server")
        return 0
    with tempfile.TemporaryDirectory() as folder, raised_signals():
        if arguments.runtime is None:
            print(
                "the page loads onnxruntime-web from a CDN; offline, give --runtime "
                "node_modules/onnxruntime-web",
                file=sys.stderr,
            )
        demo.write_page(Path(folder) / "page", metadata, models, arguments.runtime)
        demo.serve(Path(folder) / "page", arguments.port)
    return 0
