"""Compares ways to round a network at one price of a bit: GPTQ, coordinate descent and AdaRound.

    python -m experiments.compression.adaround CHECKPOINT --data NAME --data-dir DIR

Calibrates on the images of draw 0 of few_bytes.py, and prints the bytes of the file, the KL
divergence from the original network on all other images, and the change of top-1. AdaRound (Nagel
et al. 2020, arXiv 2004.10568, equations 21 to 25) minimises a layer's cost, the expected price of
its bits included, over a soft choice between the two levels around each weight, at the step that
GPTQ found.
"""

import argparse
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.compression import few_bytes
from experiments.compression.accuracy import compare, outputs
from squeeze_jax import api
from squeeze_jax.compress import gptq, quantize
from squeeze_jax.compress.calibrate import calibrate
from squeeze_jax.compress.sqz import container
from squeeze_jax.data import load_split

ITERATIONS, RATE = 1000, 0.01
STRETCH = -0.1, 1.1  # zeta and gamma of equation 23
WARM_UP, BETAS = 0.2, (20.0, 2.0)
search_step = gptq.search_step


def by_gptq(given: gptq.Problem, multiplier: float) -> gptq.Rounded:
    """Rounds without the sweeps of coordinate descent."""
    with mock.patch.object(gptq, "_SWEEPS", 0):
        return search_step(given, multiplier)


def by_adaround(given: gptq.Problem, multiplier: float, weight: float) -> gptq.Rounded:
    """Rounds as AdaRound does; `weight` is lambda beside a cost of 1 of the nearest levels."""
    found = by_gptq(given, multiplier)
    step = found.step
    lower = np.floor(given.targets / step).astype(np.int32)
    limit = int(np.abs(lower).max()) + 1
    prices = multiplier * gptq._count_bits(found.levels, limit)
    low, high = (jnp.asarray(prices[lower + limit + i], jnp.float32) for i in (0, 1))
    fraction = jnp.asarray(given.targets / step - lower, jnp.float32)
    hessians = jnp.asarray(given.hessians * step**2, jnp.float32)
    importance = jnp.asarray(given.importance, jnp.float32)

    def cost(share):
        errors = share - fraction
        squares = jnp.einsum("bio,bij,bjo->bo", errors, hessians, errors, optimize=True)
        return 0.5 * (importance * squares).sum() + (low + share * (high - low)).sum()

    def soft(logits):
        stretched = jax.nn.sigmoid(logits) * (STRETCH[1] - STRETCH[0]) + STRETCH[0]
        return jnp.clip(stretched, 0, 1)

    unit = cost(jnp.round(fraction))

    def loss(logits, beta, is_regular):
        share = soft(logits)
        regular = (1 - jnp.abs(2 * share - 1) ** beta).mean()
        return cost(share) / unit + is_regular * weight * regular

    optimizer = optax.adam(RATE)

    @jax.jit
    def optimize(logits):
        def update(carry, i):
            logits, state = carry
            progress = jnp.maximum(i / ITERATIONS - WARM_UP, 0) / (1 - WARM_UP)
            beta = BETAS[1] + (BETAS[0] - BETAS[1]) * 0.5 * (1 + jnp.cos(progress * jnp.pi))
            gradient = jax.grad(loss)(logits, beta, i >= WARM_UP * ITERATIONS)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(logits, updates), state), None

        carry = logits, optimizer.init(logits)
        return jax.lax.scan(update, carry, jnp.arange(ITERATIONS))[0][0]

    start = (jnp.clip(fraction, 0.01, 0.99) - STRETCH[0]) / (STRETCH[1] - STRETCH[0])
    share = np.asarray(soft(optimize(jnp.log(start / (1 - start)))) > 0.5)
    counts = np.bincount((levels := lower + share).reshape(-1) + limit)
    bits = float(counts[counts > 0] @ np.log2(levels.size / counts[counts > 0]))
    return gptq.Rounded(given.restore_order(levels.astype(np.int32)), step, float("nan"), bits)


def main() -> None:
    """Prints a line a way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="a network that every command opens")
    parser.add_argument("--data", required=True, metavar="NAME", help="labelled images")
    parser.add_argument("--data-dir", required=True, metavar="DIR")
    parser.add_argument("--multiplier", type=float, default=2.1e-7, help="nats a bit")
    arguments = parser.parse_args()
    network = api.load(arguments.checkpoint).whole()
    source = load_split(arguments.data, arguments.data_dir, None)
    seen, others = few_bytes.split(few_bytes.read_images(source, network), 0)
    calibrated, own = calibrate(network, seen), outputs(network, others)
    ways = {
        "GPTQ": by_gptq,
        "coordinate descent": search_step,
        "AdaRound, lambda 0.1": partial(by_adaround, weight=0.1),
        "AdaRound, lambda 1": partial(by_adaround, weight=1.0),
    }
    for name, way in ways.items():
        with mock.patch.object(gptq, "search_step", way):
            coded = quantize.quantize(network, calibrated, arguments.multiplier)
        content = container.write(network, coded, known_classes=few_bytes.KNOWN, added=set())
        found = compare(own, outputs(container.read(content, few_bytes.KNOWN), others))
        print(f"{name}: {len(content):,} bytes, {found['kl_nats']:.4f} nats", end=", ")
        print(f"top-1 {found['top1_change']:+.2f} points", flush=True)


if __name__ == "__main__":
    main()
