"""The command that imports another library's weights."""

import argparse
from pathlib import Path

from squeeze_jax.cli.model_arguments import add_set_argument, model_options
from squeeze_jax.cli.network_arguments import add_checkpoint_output_argument
from squeeze_jax.files import check_new

NAME = "import"
HELP = "make a checkpoint of PyTorch's, Caffe's or Deep Compression's weights"
GROUP = "weights in and out"
EXAMPLE = "squeeze-jax import squeezenet1_1.pth -o squeezenet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from squeeze_jax.convert import IMPORTERS  # loads no format's library

    parser.add_argument("source", type=Path, help=f"a file of {', '.join(IMPORTERS)}")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a registered model (see summary --list), where the file does not tell",
    )
    add_set_argument(parser)
    add_checkpoint_output_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Writes the checkpoint and says which network it is."""
    from squeeze_jax.convert import import_network
    from squeeze_jax.train import checkpoint

    check_new(arguments.output)
    network = import_network(arguments.source, arguments.model, model_options(arguments))
    checkpoint.save_network(network, arguments.output)
    print(
        f"{arguments.output}: {network.model['name']}, {len(network.class_names)} classes, "
        f"from {network.source}"
    )
    return 0
