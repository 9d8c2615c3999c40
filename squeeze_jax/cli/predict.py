"""The command that classifies images."""

import argparse
import json
import sys

from squeeze_jax.cli.checks import COUNT, check_ranges
from squeeze_jax.cli.network_arguments import add_checkpoint_argument
from squeeze_jax.errors import UserError
from squeeze_jax.storage import as_path

NAME = "predict"
HELP = "print the likeliest classes of images, or of every image in a folder"
GROUP = "inspect"
EXAMPLE = "squeeze-jax predict cifar10-48k photo.jpg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint_argument(parser, takes_exported=True)
    parser.add_argument(
        "images",
        type=as_path,
        nargs="*",
        metavar="IMAGE",
        help="or a folder of images, at any depth",
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="how many classes of each (default 5)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """Prints the classes and their probabilities; returns 1 where some images cannot be read."""
    from squeeze_jax import api
    from squeeze_jax.data import UnreadableImage, unreadable
    from squeeze_jax.data.folder import list_images

    check_ranges(arguments, top=COUNT)
    if not arguments.images:
        raise UserError(
            f"got {arguments.checkpoint} alone: give a network and images, such as {EXAMPLE}"
        )
    images = list_images(arguments.images)
    failures: list[UnreadableImage] = []
    network = api.load(arguments.checkpoint)
    predictions = network.predict(images, arguments.top, failures.append)
    if len(failures) == len(images):
        raise unreadable.as_one(failures)
    for failure in failures:
        print(failure, file=sys.stderr)
    code = 1 if failures else 0
    found = [(path, best) for path, best in zip(images, predictions, strict=True) if best]
    if arguments.format == "json":
        records = [
            {
                "image": str(path),
                "predictions": [
                    {
                        "class": prediction.class_name,
                        "label": prediction.label,
                        "probability": prediction.probability,
                    }
                    for prediction in best
                ],
            }
            for path, best in found
        ]
        print(json.dumps(records, indent=1))
        return code
    for path, best in found:
        print(path)
        for prediction in best:
            print(f"  {prediction.probability:6.1%}  {prediction.class_name}")
    return code
