"""The command that prints a model's layers."""

import argparse

from squeeze_jax.cli.model_arguments import add_model_arguments, trace_model
from squeeze_jax.errors import UserError

NAME = "summary"
HELP = "print a model's layers with output sizes, parameters and MACs"
GROUP = "inspect"
EXAMPLE = "squeeze-jax summary squeezenet_v1_1 --set squeeze_ratio=0.5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--list", action="store_true", help="name the registered models")
    parser.add_argument(
        "--bundled", action="store_true", help="name the networks that travel with the package"
    )
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table, or the models' names."""
    from squeeze_jax import models
    from squeeze_jax.report import layer_table

    if (arguments.list or arguments.bundled) and arguments.format != "text":
        raise UserError("--list and --bundled are text; give a model for --format")
    if arguments.list:
        print("\n".join(models.model_names()))
        return 0
    if arguments.bundled:
        from squeeze_jax import api, zoo  # api loads what the other listings do not need

        for name in zoo.names():
            print(f"{name}: {api.load(name).whole().source}")
        return 0
    record = layer_table.summary(trace_model(arguments))
    print(layer_table.format_record(record, arguments.format, layer_table.summary_text))
    return 0
