"""The command that imports another library's weights."""

import argparse
from pathlib import Path
from typing import Any

from squeeze_jax.cli.checks import COUNT, PIXELS, check_ranges, parse_size
from squeeze_jax.cli.model_arguments import add_set_argument, set_options
from squeeze_jax.cli.network_arguments import add_checkpoint_output_argument
from squeeze_jax.errors import UserError
from squeeze_jax.files import check_new
from squeeze_jax.storage import as_path

NAME = "import"
HELP = "make a checkpoint of PyTorch's, Caffe's or Deep Compression's weights"
GROUP = "weights in and out"
EXAMPLE = "squeeze-jax import squeezenet1_1.pth -o squeezenet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from squeeze_jax.convert import IMPORTERS  # loads no large library

    parser.add_argument("source", type=as_path, help=f"a file of {', '.join(IMPORTERS)}")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a registered model (see summary --list), where the file does not tell",
    )
    add_set_argument(parser)
    described = parser.add_argument_group("what the file does not tell, or tells wrongly")
    described.add_argument("--num-classes", type=int, metavar="N")
    described.add_argument(
        "--image-size",
        type=parse_size,
        metavar="SIZE",
        help="of the centre crop, in pixels: 128, or 160x120 of height and width",
    )
    described.add_argument("--resize", type=parse_size, metavar="SIZE", help="before the crop")
    described.add_argument(
        "--resize-mode",
        choices=("short", "squash"),
        help="whether the short side or both sides are resized",
    )
    described.add_argument("--channel-order", choices=("rgb", "bgr", "grey"))
    described.add_argument(
        "--mean",
        type=_parse_channels,
        metavar="X,X,X",
        help="of pixels 0 to 255, in channel order: PyTorch's times 255; one number is that of "
        "every channel",
    )
    described.add_argument("--std", type=_parse_channels, metavar="X,X,X", help="likewise")
    described.add_argument(
        "--class-names",
        type=as_path,
        metavar="FILE",
        help="a text file of one name a line, by label",
    )
    add_checkpoint_output_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Writes the checkpoint and says which network it is, and what was changed and assumed."""
    from squeeze_jax.convert import read_network
    from squeeze_jax.train import checkpoint

    check_new(arguments.output)
    check_ranges(arguments, num_classes=COUNT, image_size=PIXELS, resize=PIXELS)
    keys = ("image_size", "resize", "resize_mode", "channel_order", "mean", "std")
    given: dict[str, Any] = {key: getattr(arguments, key) for key in keys}
    found = read_network(
        arguments.source,
        arguments.model,
        set_options(arguments),
        num_classes=arguments.num_classes,
        preprocessing=given,
        class_names=_read_class_names(arguments.class_names),
    )
    checkpoint.save_network(found.network, arguments.output)
    print(
        f"{arguments.output}: {found.network.model['name']}, "
        f"{len(found.network.class_names)} classes, "
        f"from {found.network.source or arguments.source.name}"
    )
    for line in found.remarks():
        print(line)
    return 0


def _parse_channels(text: str) -> tuple[float, ...]:
    """Parses 123.7,116.3,103.5; one number stands for every channel."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers such as 124,116,104") from e
    return numbers


def _read_class_names(path: Path | None) -> list[str] | None:
    """Returns the lines of a file; empty ones at its end do not count.

    Raises:
      UserError: it cannot be read, is not UTF-8, or has an empty line or one name twice.
    """
    if path is None:
        return None
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").rstrip().split("\n")]
    except OSError as e:
        raise UserError(f"{path}: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: the class names are not UTF-8: {e}") from e
    if "" in names:
        raise UserError(f"{path}: line {names.index('') + 1} names no class")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: {twice!r} names two classes")
    return names
