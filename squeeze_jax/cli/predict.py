"""The command that classifies images."""

import argparse
import json

from squeeze_jax.cli.network_arguments import add_checkpoint_argument
from squeeze_jax.storage import as_path

NAME = "predict"
HELP = "print the five likeliest classes of images"
GROUP = "inspect"
EXAMPLE = "squeeze-jax predict net.onnx cat.jpg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint_argument(parser, takes_exported=True)
    parser.add_argument(
        "images",
        type=as_path,
        nargs="+",
        metavar="IMAGE",
        help="or a folder of images, at any depth",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """Prints the classes and their probabilities."""
    from squeeze_jax import api
    from squeeze_jax.data.folder import list_images

    images = list_images(arguments.images)
    predictions = api.load(arguments.checkpoint).predict(images)
    if arguments.format == "json":
        records = [
            {
                "image": str(path),
                "predictions": [
                    {
                        "class": found.class_name,
                        "label": found.label,
                        "probability": found.probability,
                    }
                    for found in best
                ],
            }
            for path, best in zip(images, predictions, strict=True)
        ]
        print(json.dumps(records, indent=1))
        return 0
    for path, best in zip(images, predictions, strict=True):
        print(path)
        for found in best:
            print(f"  {found.probability:6.1%}  {found.class_name}")
    return 0
