"""The command that imports another library's weights."""

import argparse
from pathlib import Path

from squeeze_jax.cli.model_arguments import add_set_argument, model_options

NAME = "import"
HELP = "make a checkpoint of PyTorch's, Caffe's or Deep Compression's weights"
GROUP = "weights in and out"
EXAMPLE = "squeeze-jax import squeezenet1_1.pth -o squeezenet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("source", type=Path, help=".pth, .safetensors, .caffemodel or .net file")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a registered model (see summary --list), where the file does not tell",
    )
    add_set_argument(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="receives the checkpoint; must not exist",
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the checkpoint and says which network it is."""
    from squeeze_jax.convert import load
    from squeeze_jax.train import checkpoint

    network = load.import_network(arguments.source, arguments.model, model_options(arguments))
    checkpoint.save_network(network, arguments.output)
    print(
        f"{arguments.output}: {network.model['name']}, {len(network.class_names)} classes, "
        f"from {network.source}"
    )
    return 0
