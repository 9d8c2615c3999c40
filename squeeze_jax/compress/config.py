"""Defines the keys of a config's compress section."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CompressConfig:
    """Says how each network that learned is written to trials/NAME/net.CODER.sqz.

    Attributes:
      coders: keys of `compress.sqz.coders.CODERS`, a file each.
      max_loss: largest KL divergence from the network's own outputs, nats, measured on training
        images; None writes a lossless file.
    """

    coders: tuple[str, ...] = ()
    max_loss: float | None = None
