"""Options of a format, described once for the command line, the messages and the checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from squeeze_jax.errors import UserError


@dataclass(frozen=True)
class Option:
    """An option that a format takes."""

    type: type  # int, float, str or bool
    default: Any
    help: str
    choices: tuple[Any, ...] = ()  # empty: any value of the type


def complete_options(
    name: str, options: Mapping[str, Option], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a value for every option of a format: the given one, or the default.

    Args:
      name: the format, for messages.
      options: the format's.
      given: values by option; None stands for the default.

    Raises:
      UserError: the format has no such option, or the value is of another type or no choice.
    """
    values = {key: option.default for key, option in options.items()}
    for key, value in given.items():
        if value is None:
            continue
        if key not in options:
            raise UserError(f"--format {name} has no {key}")
        option = options[key]
        if not isinstance(value, option.type):
            raise UserError(f"{name}: {key} is of type {option.type.__name__}, got {value!r}")
        if option.choices and value not in option.choices:
            raise UserError(
                f"{name}: {key} is one of {', '.join(map(str, option.choices))}, got {value!r}"
            )
        values[key] = value
    return values
