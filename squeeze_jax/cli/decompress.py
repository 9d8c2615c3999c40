"""The command that makes a checkpoint of a .sqz file."""

import argparse

from squeeze_jax.cli.network_arguments import add_base_argument, add_checkpoint_output_argument
from squeeze_jax.files import check_new
from squeeze_jax.storage import as_path

NAME = "decompress"
HELP = "make a checkpoint of a .sqz file"
GROUP = "compression"
EXAMPLE = "squeeze-jax decompress net.sqz -o net"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("file", type=as_path, metavar="FILE.sqz")
    add_base_argument(parser, "for a delta: the checkpoint or .sqz file that it was made from")
    add_checkpoint_output_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Writes the checkpoint and says which network it is."""
    from squeeze_jax import api, zoo

    check_new(arguments.output)
    base = api.load(arguments.base) if arguments.base else None
    loaded = api.load_sqz(zoo.locate(arguments.file), base)
    loaded.save(arguments.output)
    print(f"{arguments.output}: {loaded.whole().model['name']}, {len(loaded.class_names)} classes")
    return 0
