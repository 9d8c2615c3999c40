"""The keys of a config's compress section."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CompressConfig:
    """How each network that learned is also written as a small file, trials/NAME/net.CODER.sqz."""

    coders: tuple[str, ...] = ()  # keys of compress.sqz.coders.CODERS
    # KL divergence, nats, that the outputs may take on, measured on training images; None: the very
    # same weights.
    max_loss: float | None = None
