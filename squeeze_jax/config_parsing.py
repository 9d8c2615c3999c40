"""Turns a section of a config, such as `config.train`, into a frozen dataclass.

A number's range stands in its annotation: `momentum: Annotated[float, Range(at_least=0, below=1)]`.
"""

import contextlib
import dataclasses
import functools
import numbers
import sys
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from squeeze_jax.errors import UserError, nearest

T = TypeVar("T")

_NOUNS = {int: "an int", float: "a float", bool: "a bool", str: "a str"}
_NUMBERS: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real}  # NumPy's among them
_PLURALS = {int: "ints", float: "floats", bool: "bools", str: "strs"}


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a key or a flag takes; nan and infinity are in no range."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            abs(value) <= sys.float_info.max
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:,} to {self.at_most:,}"
        limits = {"at least": self.at_least, "above": self.above, "at most": self.at_most}
        limits["below"] = self.below
        words = [f"{word} {limit:,}" for word, limit in limits.items() if limit is not None]
        return " and ".join(words) or "a finite number"

    def check(self, name: str, value: float) -> None:
        """Rejects a value outside the range.

        Raises:
          UserError: naming it as `name`.
        """
        if value not in self:
            raise UserError(f"{name} is {self}; got {value}")


def parse_section(cls: type[T], section: Any, name: str) -> T:
    """Returns a section of a config as a dataclass; a key that the section lacks has its default.

    Args:
      cls: a dataclass whose fields are int, float, bool, str or tuple, None beside one, or a
        number beside a tuple of such; numbers perhaps annotated with a Range.
      section: a mapping, or a ConfigDict. An int will do for a float, and a list for a tuple.
      name: what messages call the section: "train".

    Raises:
      UserError: the section has a key that the dataclass lacks, or a value of another type or out
        of range.
    """
    kinds = _annotations(cls)
    values = {}
    for key, value in section.items():
        if key not in kinds:
            close = nearest(key, kinds)
            raise UserError(
                f"the config has no key {name}.{key}"
                + (f"; did you mean {name}.{close}?" if close else "")
            )
        values[key] = convert(value, kinds[key], f"{name}.{key}")
    return cls(**values)


@functools.cache
def _annotations(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def plain_section(section: Any) -> dict[str, Any]:
    """Returns a dataclass as a dict of its fields, in their order."""
    return {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}


def convert(value: Any, kind: Any, key: str) -> Any:
    """Returns the value of a key as its annotation has it.

    Args:
      value: what a config or a command line gave.
      kind: an annotation as those of the fields of `parse_section`'s dataclasses.
      key: what messages call it.

    Raises:
      UserError: the value has another type, or is out of range.
    """
    if type(None) in typing.get_args(kind):
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
        if value is None:
            return None
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        one, several = typing.get_args(kind)
        if isinstance(value, tuple | list):
            return convert(value, several, key)
        if isinstance(value, str | bool):
            raise UserError(f"{key} is a number, or a tuple of numbers; got {value!r}")
        kind = one
    if typing.get_origin(kind) is Annotated:
        kind, valid = typing.get_args(kind)
        value = convert(value, kind, key)
        valid.check(key, value)
        return value
    if typing.get_origin(kind) is typing.Literal:  # whoever takes the value checks the choice
        kind = type(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (tuple, Sequence):
        item = typing.get_args(kind)[0]
        plain = item.__origin__ if typing.get_origin(item) is Annotated else item
        if not isinstance(value, tuple | list):
            plural = _PLURALS.get(plain)
            raise UserError(f"{key} is a tuple{f' of {plural}' if plural else ''}; got {value!r}")
        # The constraint or check that reads nested items says what is wrong with them.
        return tuple(
            convert(each, item, f"each item of {key}") if plain in _NOUNS else _freeze(each)
            for each in value
        )
    if kind in _NUMBERS and isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # an int larger than any float
            value = kind(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UserError(f"{key} is {_NOUNS[kind]}; got {value!r}")
    return value


def _freeze(value: Any) -> Any:
    """Returns nested lists as tuples."""
    return tuple(map(_freeze, value)) if isinstance(value, tuple | list) else value
