"""Refines quantized matrices by AdaRound (Nagel et al. 2020, arXiv 2004.10568).

GPTQ and coordinate descent change one weight at a time. Here all weights choose between their level
and its neighbour at once: softly at first, by the gradient of distortion + multiplier * bits, and
ever harder (equations 21 to 25).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from squeeze_jax.compress import gptq

# Chosen on the released SqueezeNet (experiments/compression).
_ITERATIONS, _RATE = 1_000, 0.02  # of Adam
_LAMBDA = 10.0  # weight of the pull towards 0 or 1; the levels at the start cost 1
_STRETCH = -0.1, 1.1  # zeta and gamma of equation 23
_WARM_UP, _BETAS = 0.2, (20.0, 2.0)  # part of the iterations without pull; from, to
_MARGIN = 0.01  # least share to start from
_TINIEST = 1e-30  # nats: a layer that nothing depends on


def refine(given: gptq.Problem, found: gptq.Rounded, multiplier: float) -> gptq.Rounded:
    """Returns levels of the same step that cost no more: distortion + multiplier * bits.

    Args:
      given: the matrices.
      found: their levels so far.
      multiplier: price of a bit, nats, above 0.
    """
    levels, wanted = given.apply_order(found.levels), given.targets / found.step
    before = found.cost(multiplier)
    if before < _TINIEST:
        return found
    upwards = wanted > levels
    lower = levels - ~upwards
    limit = int(np.abs(levels).max()) + 1
    prices = multiplier * gptq.count_bits(levels, limit)
    share = _choose(
        wanted - lower,
        given.hessians,
        given.importance[:, None] * found.step**2 / before,
        (prices[lower + 1 + limit] - prices[lower + limit]) / before,
    )
    chosen = (lower + (np.asarray(share) > 0.5)).astype(np.int32)
    refined = gptq.descend(given, chosen, found.step, multiplier, limit)
    return min(found, refined, key=lambda each: each.cost(multiplier))


@jax.jit
def _choose(
    wanted: jax.Array, hessians: jax.Array, importance: jax.Array, price: jax.Array
) -> jax.Array:
    """Returns shares near 0 or 1 that minimise the cost, float32 [blocks, k, outputs].

    Args:
      wanted: the shares of least distortion, from which the search starts.
      hessians: [blocks, k, k].
      importance: [blocks, 1, outputs]; shares s of a column cost importance / 2 * e' hessian e for
        their error e = s - wanted.
      price: what a share of 1 costs more than one of 0.
    """
    low, high = _STRETCH
    start = (jnp.clip(wanted, _MARGIN, 1 - _MARGIN) - low) / (high - low)
    optimizer = optax.adam(_RATE)

    def soften(logits):
        return jnp.clip(jax.nn.sigmoid(logits) * (high - low) + low, 0, 1)

    def update(carry, i):
        logits, state = carry
        progress = jnp.maximum(i / _ITERATIONS - _WARM_UP, 0) / (1 - _WARM_UP)
        beta = _BETAS[1] + (_BETAS[0] - _BETAS[1]) * 0.5 * (1 + jnp.cos(progress * jnp.pi))
        pull = jnp.where(progress > 0, _LAMBDA, 0.0)
        share, pull_back = jax.vjp(soften, logits)
        slope = importance * jnp.einsum("bij,bjo->bio", hessians, share - wanted) + price
        slope += jax.grad(lambda share: -pull * (jnp.abs(2 * share - 1) ** beta).mean())(share)
        updates, state = optimizer.update(pull_back(slope)[0], state)
        return (optax.apply_updates(logits, updates), state), None

    logits = jnp.log(start / (1 - start))
    carry = logits, optimizer.init(logits)
    (logits, _), _ = jax.lax.scan(update, carry, jnp.arange(_ITERATIONS))
    return soften(logits)
