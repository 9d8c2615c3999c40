"""Describes which network to build."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from squeeze_jax.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """The name of a registered model and the options that replace its defaults."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "ModelConfig":
        """Returns the model of {"name": ..., option: value, ...}; None counts as not given.

        Raises:
          UserError: the name is missing.
        """
        options = {key: value for key, value in mapping.items() if value is not None}
        if not isinstance(name := options.pop("name", None), str):
            raise UserError(f"model.name must be the name of a model, not {name!r}")
        return cls(name, options)

    def to_mapping(self) -> dict[str, Any]:
        """Returns the mapping that `from_mapping` reads."""
        return {"name": self.name, **self.options}
