"""The argument that names a trained network."""

import argparse

from squeeze_jax.storage import as_path

CHECKPOINT = (
    "a trial's folder such as runs/.../trials/seed=0, a folder that `squeeze-jax import` wrote, "
    "a .sqz file, or the name of a network that travels with the package (cifar10-48k)"
)


def add_checkpoint_argument(parser: argparse.ArgumentParser, takes_exported: bool = False) -> None:
    """Adds CHECKPOINT; with `takes_exported`, it may be a file that can only be run."""
    words = CHECKPOINT
    if takes_exported:
        from squeeze_jax.convert import runnable_suffixes  # loads no large library, nor JAX

        words += f", or an exported {runnable_suffixes()} file"
    parser.add_argument("checkpoint", type=as_path, help=words)


def add_base_argument(parser: argparse.ArgumentParser, words: str) -> None:
    """Adds --base, the network that a .sqz file is a delta from."""
    parser.add_argument("--base", type=as_path, metavar="OLD", help=words)


def add_checkpoint_output_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --output, the new folder of a checkpoint."""
    parser.add_argument(
        "-o",
        "--output",
        type=as_path,
        required=True,
        metavar="FOLDER",
        help="receives the checkpoint; must not exist",
    )
