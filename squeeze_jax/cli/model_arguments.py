"""The arguments that name a registered model and its options."""

import argparse
import ast
import json
from typing import TYPE_CHECKING, Any

from squeeze_jax.cli.checks import PIXELS, check_ranges, parse_size
from squeeze_jax.errors import UserError
from squeeze_jax.storage import as_path

if TYPE_CHECKING:
    from squeeze_jax.cost.trace import Trace


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds MODEL, --set, --input-size and --format."""
    parser.add_argument(
        "model",
        nargs="?",
        help="a registered model (see summary --list), or a trial's folder such as "
        "runs/.../trials/seed=0",
    )
    add_set_argument(parser)
    parser.add_argument(
        "--input-size",
        type=parse_size,
        metavar="SIZE",
        help="pixels, such as 128, or 160x120 of height and width; by default those of the model's "
        "paper",
    )
    parser.add_argument("--format", choices=("text", "json", "csv"), default="text")


def add_set_argument(
    parser: argparse.ArgumentParser, words: str = "a model option, such as squeeze_ratio=0.5"
) -> None:
    """Adds --set, which sets an option of the model, or what else `words` say."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help=f"{words}; repeatable"
    )


def set_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the options given by --set.

    Raises:
      UserError: one is not OPTION=VALUE.
    """
    return dict(_parse_option(text) for text in arguments.set)


def trace_model(arguments: argparse.Namespace) -> "Trace":
    """Traces the model that the arguments name.

    Raises:
      UserError: no such model or option, or the images are too small for it.
    """
    from squeeze_jax import models
    from squeeze_jax.cost.trace import trace_module
    from squeeze_jax.network.config import DEFAULT_CHANNELS, IN_CHANNELS
    from squeeze_jax.network.preprocessing import format_size, height_width
    from squeeze_jax.train.checkpoint import CONFIG_FILE

    check_ranges(arguments, input_size=PIXELS)
    if not arguments.model:
        raise UserError("which model? squeeze-jax summary --list names them")
    name, options, size = arguments.model, {}, None
    if (record := as_path(name) / CONFIG_FILE).exists():
        config = json.loads(record.read_text())
        options = config["model"] | {"num_classes": config["num_classes"]}
        name, size = options.pop("name"), config["data"]["image_size"]
    options |= set_options(arguments)

    size = arguments.input_size or size or models.find(name)[1].input_size
    input_shape = (*height_width(size), options.get(IN_CHANNELS, DEFAULT_CHANNELS))
    try:
        return trace_module(models.create_abstract(name, **options), input_shape)
    except ValueError as e:
        raise UserError(f"{name} at {format_size(size)}: {e}") from e


def _parse_option(text: str) -> tuple[str, Any]:
    """Parses squeeze_ratio=0.5; a value that is no Python literal is a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes OPTION=VALUE, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
