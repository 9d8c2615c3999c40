"""The keys of a config's compress section."""

from dataclasses import dataclass
from typing import Annotated

from squeeze_jax.config_parsing import Range


@dataclass(frozen=True)
class CompressConfig:
    """How each network that learned is also written as a small file, trials/NAME/net.CODER.sqz."""

    coders: tuple[str, ...] = ()  # keys of compress.sqz.coders.CODERS
    # KL divergence, nats, that the outputs may take on, measured on training images; None: the very
    # same weights.
    max_loss: Annotated[float, Range(above=0)] | None = None
