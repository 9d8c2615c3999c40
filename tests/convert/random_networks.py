"""Nets of random weights, without compiling anything."""

import dataclasses

import jax
import numpy as np

from squeeze_jax.network import Network, imagenet, weight_shapes


def random_net(model, num_classes=5, seed=0, preprocessing=imagenet.TORCH):
    """A net of this name and options.

    Variances are positive, everything else is normal and small.
    """
    random = np.random.default_rng(seed)
    params, stats = weight_shapes({"model": model, "num_classes": num_classes})
    params = jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), params)
    stats = jax.tree.map(
        lambda leaf: random.uniform(0.5, 1.5, leaf.shape).astype(np.float32), stats
    )
    return Network(
        model,
        tuple(f"class {i}" for i in range(num_classes)),
        preprocessing,
        params,
        stats,
        source="a test",
    )


def with_dead_channels(net):
    """The net with biases on channels without weights to speak of.

    Returns:
      (the net, the logits of its first two classes, whatever the image).
    """
    params = jax.tree.map(np.copy, net.params)
    for layer in (params["fire2"]["squeeze"], params["conv10"]):
        layer["kernel"][..., 0] = 0
        layer["kernel"][..., 1] *= 1e-7
        layer["bias"][:2] = 0.3, 0.7
    return dataclasses.replace(net, params=params), (0.3, 0.7)


def same_weights(a, b):
    """Whether two nets hold the same weights, bit for bit."""
    trees = (a.params, a.stats), (b.params, b.stats)
    if jax.tree.structure(trees[0]) != jax.tree.structure(trees[1]):
        return False
    return all(
        x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(*map(jax.tree.leaves, trees), strict=True)
    )
