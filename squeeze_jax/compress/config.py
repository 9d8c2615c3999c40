"""Defines the keys of a config's compress section."""

from dataclasses import dataclass
from typing import Annotated

from squeeze_jax.config_parsing import Range


@dataclass(frozen=True)
class CompressConfig:
    """Says how each network that learned is written to trials/NAME/net.CODER.sqz.

    Attributes:
      coders: keys of `compress.sqz.coders.CODERS`, a file each.
      max_loss: largest KL divergence from the network's own outputs, nats, measured on training
        images; None writes a lossless file.
    """

    coders: tuple[str, ...] = ()
    max_loss: Annotated[float, Range(above=0)] | None = None
