"""The arguments that name a registered model and its options."""

import argparse
import ast
from typing import TYPE_CHECKING, Any

from squeeze_jax.cli.checks import PIXELS, check_ranges, parse_size
from squeeze_jax.cli.network_arguments import CHECKPOINT
from squeeze_jax.errors import UserError, suggest
from squeeze_jax.files import is_sqz
from squeeze_jax.storage import as_path

if TYPE_CHECKING:
    from squeeze_jax.api import LoadedNetwork
    from squeeze_jax.cost.trace import Trace


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds MODEL, --set, --data, --data-dir, --input-size and --format."""
    parser.add_argument(
        "model",
        nargs="?",
        help=f"a registered model (see summary --list), {CHECKPOINT}",
    )
    add_set_argument(parser)
    parser.add_argument(
        "--data",
        metavar="NAME",
        help="digits, folder, prepared, or a TFDS data set: the model gets its number of classes",
    )
    parser.add_argument("--data-dir", default="", metavar="DIR", help="where the data set is")
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
    from squeeze_jax.cost import trace
    from squeeze_jax.data import load_split
    from squeeze_jax.network.config import DEFAULT_CHANNELS, IN_CHANNELS
    from squeeze_jax.network.preprocessing import height_width

    check_ranges(arguments, input_size=PIXELS)
    if not arguments.model:
        raise UserError("which model? squeeze-jax summary --list names them")
    name, options, size = arguments.model, {}, None
    if (metadata := _read_metadata(name)) is not None:
        options = metadata["model"] | {"num_classes": metadata["num_classes"]}
        name, size = options.pop("name"), metadata["data"]["image_size"]
    if arguments.data or arguments.data_dir:
        source = load_split(arguments.data or "folder", arguments.data_dir, None)
        options["num_classes"] = len(source.class_names)
    options |= set_options(arguments)

    size = arguments.input_size or size or models.find(name)[1].input_size
    input_shape = (*height_width(size), options.get(IN_CHANNELS) or DEFAULT_CHANNELS)
    return trace.trace_model(name, options, input_shape)


def open_network(name: str) -> "LoadedNetwork | None":
    """Returns the network of a folder, a .sqz file or a bundled network.

    Returns None for the name of a registered model, and for a trial's folder without weights yet.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    from squeeze_jax import api, models, zoo
    from squeeze_jax.train.checkpoint import CONFIG_FILE, WEIGHTS

    path = zoo.locate(as_path(name))
    is_trial = (path / CONFIG_FILE).exists()
    looks_like_path = path.exists() or is_sqz(path) or "/" in name
    known = [*models.model_names(), *zoo.names()]
    if not looks_like_path and name not in known:
        raise UserError(f"no model {name!r}; {suggest(name, known)}")
    if (name in models.model_names() and not is_trial) or not looks_like_path:
        return None
    return None if is_trial and not (path / WEIGHTS).exists() else api.load(path)


def _read_metadata(name: str) -> dict[str, Any] | None:
    """Returns what a trial's folder, a .sqz file or a bundled network says of its network.

    Returns None for what is none of these: the name of a registered model.
    """
    from squeeze_jax.train.checkpoint import CONFIG_FILE, read_record

    if (as_path(name) / CONFIG_FILE).exists():  # a trial may have no weights yet
        return read_record(as_path(name))[0]
    network = open_network(name)
    return network and network.whole().metadata()


def _parse_option(text: str) -> tuple[str, Any]:
    """Parses squeeze_ratio=0.5; a value that is no Python literal is a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes OPTION=VALUE, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
