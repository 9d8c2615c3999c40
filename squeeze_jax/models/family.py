"""Declares a model family: its module class and the variants that have names of their own."""

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from flax import nnx

from squeeze_jax.config_parsing import Range

# What the constructors of several families take. Larger layers fit no memory; numbers that are in
# no weight's shape are at most what network/metadata.py takes from a file.
LARGEST = 2**24
PositiveInt = Annotated[int, Range(at_least=1, at_most=LARGEST)]
Stride = Annotated[int, Range(at_least=1, at_most=2**12)]
Padding = Annotated[int, Range(at_least=0, at_most=2**12)]
DropoutRate = Annotated[float, Range(at_least=0, below=1)]
PositiveFloat = Annotated[float, Range(above=0, at_most=64)]
# Constructor arguments that follow from the data.
DATA_OPTIONS = ("num_classes", "in_channels")


@dataclass(frozen=True)
class Variant:
    """A named network of a family."""

    options: Mapping[str, Any] = field(default_factory=dict)  # the rest are the module's defaults
    input_size: int = 227  # height and width of an image in its paper


@dataclass(frozen=True)
class Family:
    """A module class whose constructor's keyword arguments are the design space's options."""

    module: type[nnx.Module]
    variants: Mapping[str, Variant]  # by name; unique over all families

    def parameters(self) -> list[str]:
        """Returns the constructor's keyword arguments in order, `rngs` left out."""
        return [
            name
            for name in inspect.signature(self.module.__init__).parameters
            if name not in ("self", "rngs")
        ]

    def options(self) -> dict[str, type]:
        """Returns the type of every option but DATA_OPTIONS: int, float, str, bool or tuple.

        Raises:
          TypeError: the annotation of a constructor argument is none of these.
        """
        hints = typing.get_type_hints(self.module.__init__)
        return {
            name: _plain_type(f"{self.module.__name__}.{name}", hints.get(name))
            for name in self.parameters()
            if name not in DATA_OPTIONS
        }

    def annotations(self) -> dict[str, Any]:
        """Returns the annotations of the constructor's keyword arguments, `rngs` left out."""
        hints = typing.get_type_hints(self.module.__init__, include_extras=True)
        return {name: hints[name] for name in self.parameters() if name in hints}


def _plain_type(name: str, annotation: Any) -> type:
    """Returns the type of an option's values.

    A `Literal` has the type of its values, a sequence is a tuple, and `| None` is dropped.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        found = {_plain_type(name, each) for each in arguments if each is not type(None)}
    elif origin is typing.Literal:
        found = {type(value) for value in arguments}
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        found = {tuple}
    else:
        found = {annotation}
    if len(found) != 1 or not found <= {int, float, str, bool, tuple}:
        raise TypeError(
            f"{name}: annotate it as int, float, str, bool or a sequence; got {annotation}"
        )
    return found.pop()
