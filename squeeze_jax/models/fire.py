"""The Fire module (SqueezeNet paper, section 3.2): a squeeze layer feeding an expand layer."""

import functools
from typing import NamedTuple

import jax
from flax import nnx

from squeeze_jax.models import functional, layers
from squeeze_jax.models.initializers import Initializer


class FireWidths(NamedTuple):
    """Counts the filters of one Fire module."""

    squeeze: int
    expand1x1: int
    expand3x3: int


def fire_widths(
    index: int, base_e: int, incr_e: int, freq: int, pct3x3: float, squeeze_ratio: float
) -> FireWidths:
    """Computes the filters of a Fire module from the metaparameters (paper, section 5.1).

    e = base_e + incr_e * floor(index / freq), expand3x3 = pct3x3 * e, expand1x1 = e - expand3x3 and
    squeeze = squeeze_ratio * e, each rounded to the nearest filter. The paper does not say what
    happens to counts that round to 0: here the squeeze layer keeps one filter, and so does each
    kind of expand filter where pct3x3 lies strictly between 0 and 1.

    Args:
      index: which Fire module; 0 is fire2.
      base_e: expand filters of the first modules.
      incr_e: expand filters added every `freq` modules.
      freq: modules with the same number of expand filters.
      pct3x3: fraction of the expand filters that are 3x3.
      squeeze_ratio: squeeze filters for each expand filter.

    """
    expand = base_e + incr_e * (index // freq)
    expand3x3 = round(expand * pct3x3)
    if 0 < pct3x3 < 1:
        expand3x3 = min(max(expand3x3, 1), expand - 1)
    return FireWidths(max(1, round(squeeze_ratio * expand)), expand - expand3x3, expand3x3)


class Fire(nnx.Module):
    """Computes squeeze 1x1 and ReLU, then expand 1x1 beside expand 3x3 (pad 1), and ReLU."""

    def __init__(
        self,
        in_channels: int,
        widths: FireWidths,
        *,
        batch_norm: bool,
        kernel_init: Initializer,
        rngs: nnx.Rngs,
    ):
        """Builds the module.

        Args:
          in_channels: channels of the input.
          widths: filters of each layer; an expand layer without filters is left out.
          batch_norm: BatchNorm after every convolution, in place of the bias.
          kernel_init: initialiser of all kernels.
          rngs: source of the `params` keys.
        """
        conv = functools.partial(
            layers.Conv, batch_norm=batch_norm, kernel_init=kernel_init, rngs=rngs
        )
        self.squeeze = conv(in_channels, widths.squeeze, 1)
        if widths.expand1x1:
            self.expand1x1 = conv(widths.squeeze, widths.expand1x1, 1)
        if widths.expand3x3:
            self.expand3x3 = conv(widths.squeeze, widths.expand3x3, 3, padding=1)

    def __call__(self, x: jax.Array, *, pool: bool = False, train: bool = False) -> jax.Array:
        """Maps [N, H, W, C] to [N, H', W', expand1x1 + expand3x3].

        Args:
          x: the input.
          pool: whether to apply the 3x3/2 max pool that follows, too.
          train: whether BatchNorm uses and updates batch statistics.
        """
        squeezed = jax.nn.relu(self.squeeze(x, train=train))
        convs = [getattr(self, name) for name in ("expand1x1", "expand3x3") if hasattr(self, name)]
        early = pool and all(conv.pools_first(train=train) for conv in convs)
        expand = [conv(squeezed, train=train, pool=early) for conv in convs]
        pooled = functools.partial(functional.relu_max_pool, train=train)
        return functional.concat_channels(expand, pooled if pool and not early else jax.nn.relu)
