"""The command that measures a network's accuracy."""

import argparse
import json

from squeeze_jax.cli.checks import BATCH_SIZE, check_ranges
from squeeze_jax.cli.data_arguments import (
    add_labelled_data_arguments,
    add_skip_unreadable_argument,
    open_data,
)
from squeeze_jax.cli.network_arguments import add_checkpoint_argument

NAME = "evaluate"
HELP = "measure a trained network on a data set: accuracy, by class, and calibration"
GROUP = "inspect"
EXAMPLE = "squeeze-jax evaluate net.sqz --data folder --data-dir my_images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint_argument(parser, takes_exported=True)
    add_labelled_data_arguments(parser)
    add_skip_unreadable_argument(parser)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """Prints the accuracy, the worst classes and the commonest confusions."""
    from squeeze_jax import api
    from squeeze_jax.report import classes
    from squeeze_jax.report.statistics import wilson_interval

    check_ranges(arguments, batch_size=BATCH_SIZE)
    network = api.load(arguments.checkpoint)
    source = open_data(arguments, network)
    result = network.evaluate(
        source, batch_size=arguments.batch_size, skip_unreadable=arguments.skip_unreadable
    )
    if arguments.format == "json":
        print(json.dumps(result))
    else:
        low, high = wilson_interval(result["top1"] / 100, result["images"])
        # Any answer is among the five likeliest of five classes.
        top5 = f"top-5 {result['top5']:.2f} %, " if len(result["classes"]) > 5 else ""
        print(
            f"{source.name}: {result['images']:,} images, top-1 {result['top1']:.2f} % "
            f"(95 % interval {100 * low:.1f} to {100 * high:.1f}), "
            + top5
            + classes.classes_text(result)
        )
    return 0
