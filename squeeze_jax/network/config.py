"""Describes which network to build."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from squeeze_jax.errors import UserError

# The option of every registered model that follows from the images, and its default.
IN_CHANNELS, DEFAULT_CHANNELS = "in_channels", 3


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

    def for_channels(self, channels: int) -> "ModelConfig":
        """Returns the model for images of so many channels; the option counts 3 where not given.

        Raises:
          UserError: it is given for another number.
        """
        given = self.options.get(IN_CHANNELS)
        if given not in (None, channels):
            raise UserError(
                f"model.{IN_CHANNELS} is {given}, but the images have {channels} channels by "
                "data.channel_order"
            )
        if given is None and channels != DEFAULT_CHANNELS:
            return ModelConfig(self.name, {**self.options, IN_CHANNELS: channels})
        return self

    def to_mapping(self) -> dict[str, Any]:
        """Returns the mapping that `from_mapping` reads."""
        return {"name": self.name, **self.options}
