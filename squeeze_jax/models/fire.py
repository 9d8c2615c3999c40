"""The Fire module (SqueezeNet paper, section 3.2): a squeeze layer of 1x1 filters feeding an expand layer of 1x1 and 3x3 filters."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import nnx

from squeeze_jax.models import functional, layers


class FireWidths(NamedTuple):
    """Filters of one Fire module."""

    squeeze: int
    expand1x1: int
    expand3x3: int


def fire_widths(
    index: int, base_e: int, incr_e: int, freq: int, pct3x3: float, squeeze_ratio: float
) -> FireWidths:
    """Filters of Fire module `index` (0 is fire2) from the metaparameters (paper, section 5.1).

    e = base_e + incr_e * floor(index / freq); expand3x3 = pct3x3 * e; expand1x1 = e - expand3x3; squeeze = squeeze_ratio * e,
    each rounded to the nearest filter. Where pct3x3 lies strictly between 0 and 1 both kinds keep at least one filter, and so
    does the squeeze layer: the paper is silent on counts that round to nothing.

    Raises:
      ValueError: pct3x3 outside [0, 1], squeeze_ratio not above 0, or a width metaparameter that makes no filters.
    """
    if not 0 <= pct3x3 <= 1:
        raise ValueError(f"pct3x3 is the fraction of 3x3 filters, between 0 and 1; got {pct3x3}")
    if squeeze_ratio <= 0:
        raise ValueError(f"squeeze_ratio must be above 0; got {squeeze_ratio}")
    if base_e < 2 or incr_e < 0 or freq < 1:
        raise ValueError(
            f"base_e >= 2, incr_e >= 0 and freq >= 1 are needed; got {base_e}, {incr_e}, {freq}"
        )
    expand = base_e + incr_e * (index // freq)
    expand3x3 = round(expand * pct3x3)
    if 0 < pct3x3 < 1:
        expand3x3 = min(max(expand3x3, 1), expand - 1)
    return FireWidths(max(1, round(squeeze_ratio * expand)), expand - expand3x3, expand3x3)


class Fire(nnx.Module):
    """Squeeze 1x1 + ReLU, then expand 1x1 and expand 3x3 (pad 1), joined in that order, + ReLU."""

    def __init__(
        self,
        in_channels: int,
        widths: FireWidths,
        *,
        batch_norm: bool,
        kernel_init: Callable,
        rngs: nnx.Rngs,
    ):
        options = dict(batch_norm=batch_norm, kernel_init=kernel_init, rngs=rngs)
        self.squeeze = layers.Conv(in_channels, widths.squeeze, 1, **options)
        if widths.expand1x1:
            self.expand1x1 = layers.Conv(widths.squeeze, widths.expand1x1, 1, **options)
        if widths.expand3x3:
            self.expand3x3 = layers.Conv(widths.squeeze, widths.expand3x3, 3, padding=1, **options)

    def __call__(self, x: jax.Array, *, pool: bool = False, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> [N, H', W', expand1x1 + expand3x3]; with `pool` through the 3x3/2 max pool that follows, too."""
        squeezed = jax.nn.relu(self.squeeze(x, train=train))
        expand = [
            getattr(self, name)(squeezed, train=train)
            for name in ("expand1x1", "expand3x3")
            if hasattr(self, name)
        ]
        return functional.concat_channels(
            expand,
            functools.partial(functional.relu_max_pool, train=train) if pool else jax.nn.relu,
        )
