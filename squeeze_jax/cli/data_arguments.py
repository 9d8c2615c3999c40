"""The arguments that name a data set."""

import argparse
from typing import TYPE_CHECKING

from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    from squeeze_jax.api import LoadedNetwork
    from squeeze_jax.data import Source

_NAMES = "digits, folder, prepared, or a TFDS data set"
_DEFAULT = "; by default what the network was trained on"


def add_data_arguments(
    parser: argparse.ArgumentParser, words: str = "", default: str = _DEFAULT
) -> None:
    """Adds --data, the data set's name, --data-dir and --split."""
    parser.add_argument("--data", metavar="NAME", help=f"{words}{_NAMES}{default}")
    parser.add_argument(
        "--data-dir",
        default="",
        metavar="DIR",
        help="where the data set is; for a folder, DIR/class/image.jpg, perhaps under train/, val/ "
        "and test/: see `squeeze-jax data DIR`",
    )
    parser.add_argument(
        "--split",
        help="of --data: by default test, validation, or the only one; alone: of the data "
        "that the network was trained on",
    )


def add_skip_unreadable_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --skip-unreadable."""
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="go on without images that cannot be decoded",
    )


def add_labelled_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of a data set whose labels are used."""
    add_data_arguments(parser)
    parser.add_argument(
        "--labels-by-position",
        action="store_true",
        help="match classes by position, not by name: for folders, in the order of their names",
    )


def add_calibration_images_argument(parser: argparse.ArgumentParser, words: str) -> None:
    """Adds --calibration-images."""
    parser.add_argument("--calibration-images", type=int, metavar="N", help=words)


def calibration_images(arguments: argparse.Namespace, calibrates: bool) -> int:
    """Returns how many images to calibrate on.

    Args:
      arguments: of the command.
      calibrates: whether the command, as it is given, calibrates anything.

    Raises:
      UserError: their number is given for nothing.
    """
    if arguments.calibration_images is not None and not calibrates:
        raise UserError("--calibration-images has no effect here: nothing is calibrated")
    return 200 if arguments.calibration_images is None else arguments.calibration_images


def check_data_named(arguments: argparse.Namespace, network: "LoadedNetwork") -> None:
    """Rejects a command for which neither the flags nor the network name a data set.

    Raises:
      UserError: there is none.
    """
    if not arguments.data and network.training_data is None:
        raise UserError("which data? Give --data NAME and --data-dir DIR")


def open_data(arguments: argparse.Namespace, network: "LoadedNetwork") -> "Source":
    """Returns the data set that the arguments name, under the network's labels.

    Raises:
      UserError: none is named, or it cannot be read.
    """
    check_data_named(arguments, network)
    return network.open_data(
        arguments.data, arguments.data_dir, arguments.split, arguments.labels_by_position
    )
