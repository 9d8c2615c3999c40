"""Describes which network to build."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from squeeze_jax.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """A registered network and the options that its constructor is called with."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)  # the rest are the model's defaults

    @classmethod
    def from_mapping(cls, model: Any) -> "ModelConfig":
        """Returns the config of a mapping or ConfigDict: a name, and options; None is not set.

        Raises:
          UserError: it has no name.
        """
        options = {key: value for key, value in model.items() if value is not None}
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise UserError(f"model.name must be the name of a model; got {name!r}")
        return cls(name, options)

    def to_mapping(self) -> dict[str, Any]:
        """Returns what `from_mapping` reads, as `build_model` takes it."""
        return {"name": self.name, **self.options}
