"""Turns a section of a config, such as `config.train`, into a frozen dataclass."""

import dataclasses
import difflib
import typing
from typing import Any, TypeVar

from squeeze_jax.errors import UserError

T = TypeVar("T")

_NOUNS = {int: "an int", float: "a float", bool: "a bool", str: "a str"}
_PLURALS = {int: "ints", float: "floats", bool: "bools", str: "strs"}


def parse_section(cls: type[T], section: Any, name: str) -> T:
    """Returns a section of a config as a dataclass; a key that the section lacks has its default.

    Args:
      cls: a dataclass whose fields are int, float, bool, str or tuple, or None beside one.
      section: a mapping, or a ConfigDict. An int will do for a float, and a list for a tuple.
      name: what messages call the section: "train".

    Raises:
      UserError: the section has a key that the dataclass lacks, or a value of another type.
    """
    types = typing.get_type_hints(cls)
    values = {}
    for key, value in section.items():
        if key not in types:
            close = difflib.get_close_matches(key, types, 1)
            raise UserError(
                f"the config has no key {name}.{key}"
                + (f"; did you mean {name}.{close[0]}?" if close else "")
            )
        values[key] = _convert(value, types[key], f"{name}.{key}")
    return cls(**values)


def plain_section(section: Any) -> dict[str, Any]:
    """Returns a dataclass as a dict of its fields, in their order."""
    return {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}


def _convert(value: Any, kind: Any, key: str) -> Any:
    """Returns the value as a field's type has it; raises UserError where it has another type."""
    if type(None) in typing.get_args(kind):
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
        if value is None:
            return None
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if not isinstance(value, tuple | list):
            plural = _PLURALS.get(item)
            raise UserError(f"{key} is a tuple{f' of {plural}' if plural else ''}; got {value!r}")
        # The constraint or check that reads nested items says what is wrong with them.
        return tuple(
            _convert(each, item, f"each item of {key}") if item in _NOUNS else _freeze(each)
            for each in value
        )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UserError(f"{key} is {_NOUNS[kind]}; got {value!r}")
    return value


def _freeze(value: Any) -> Any:
    """Returns nested lists as tuples."""
    return tuple(map(_freeze, value)) if isinstance(value, tuple | list) else value
