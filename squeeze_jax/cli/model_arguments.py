"""The arguments that name a registered model and its options."""

import argparse
import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze_jax.cli.checks import PIXELS, check_ranges
from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    from squeeze_jax.cost.trace import Layer


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
        "--input-size", type=int, help="pixels; by default that of the model's paper"
    )
    parser.add_argument("--format", choices=("text", "json", "csv"), default="text")


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --set, which sets an option of the model."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="a model option, such as squeeze_ratio=0.5; repeatable",
    )


def model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the options given by --set.

    Raises:
      UserError: one is not OPTION=VALUE.
    """
    return dict(_parse_option(text) for text in arguments.set)


def trace_model(arguments: argparse.Namespace) -> "tuple[list[Layer], int]":
    """Returns the layers and the number of parameters of the model that the arguments name.

    Raises:
      UserError: no such model or option, or the images are too small for it.
    """
    from flax import nnx

    from squeeze_jax import api, models
    from squeeze_jax.cost.trace import parameter_count
    from squeeze_jax.train.checkpoint import CONFIG_FILE

    check_ranges(arguments, input_size=PIXELS)
    if not arguments.model:
        raise UserError("which model? squeeze-jax summary --list names them")
    name, options, size = arguments.model, {}, None
    if (record := Path(name) / CONFIG_FILE).exists():
        config = json.loads(record.read_text())
        options = config["model"] | {"num_classes": config["num_classes"]}
        name, size = options.pop("name"), config["data"]["image_size"]
    options |= model_options(arguments)

    def build() -> nnx.Module:
        return api.build(name, **options)

    params = parameter_count(nnx.eval_shape(build))
    size = arguments.input_size or size or models.find(name)[1].input_size
    try:
        return api.trace(build, (size, size, 3)), params
    except ValueError as e:
        raise UserError(f"{name} at {size}x{size}: {e}") from e


def _parse_option(text: str) -> tuple[str, Any]:
    """Parses squeeze_ratio=0.5; a value that is no Python literal is a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes OPTION=VALUE, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
