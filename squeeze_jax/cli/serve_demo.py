"""The command that serves a web page to try a network."""

import argparse
import tempfile
from pathlib import Path

from squeeze_jax.cli.checks import check_ranges
from squeeze_jax.cli.network_arguments import add_checkpoint_argument
from squeeze_jax.config_parsing import Range
from squeeze_jax.files import check_new
from squeeze_jax.signals import raised_signals

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
        type=Path,
        metavar="FOLDER",
        help="write the page here, for any web server, and do not serve it",
    )
    parser.add_argument(
        "--runtime",
        type=Path,
        metavar="FOLDER",
        help="node_modules/onnxruntime-web, to work offline (default: from a CDN)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the page, and serves it until interrupted unless --output is given."""
    from squeeze_jax import api
    from squeeze_jax.convert import demo

    check_ranges(arguments, port=Range(at_least=0, at_most=65535))
    if arguments.output:
        check_new(arguments.output)
    loaded = api.load(arguments.checkpoint)
    model, _ = loaded.export_bytes("onnx")
    metadata = loaded.whole().metadata()
    if arguments.output:
        demo.write_page(arguments.output, metadata, model, arguments.runtime)
        print(f"{arguments.output}/index.html: serve the folder with any web server")
        return 0
    with tempfile.TemporaryDirectory() as folder, raised_signals():
        demo.write_page(Path(folder) / "page", metadata, model, arguments.runtime)
        demo.serve(Path(folder) / "page", arguments.port)
    return 0
