"""Measures on labelled images what a compressed network lost."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from squeeze_jax.network import Network
from squeeze_jax.train import metrics

BATCH = 32  # images at a time


class Images(NamedTuple):
    """Holds preprocessed images and their labels."""

    images: np.ndarray  # float32 [N, H, W, 3]
    labels: np.ndarray  # int32 [N]


class Outputs(NamedTuple):
    """Holds a network's outputs for a set of images."""

    log_probabilities: np.ndarray  # float64 [N, classes]
    ranks: np.ndarray  # int32 [N], rank of the label; 0 is the top-1 class


def outputs(net: Network, data: Images) -> Outputs:
    """Runs a network on images."""
    run = net.classifier().run
    logits = np.concatenate(
        [run(data.images[i : i + BATCH]) for i in range(0, len(data.images), BATCH)]
    )
    return Outputs(
        log_softmax(logits.astype(np.float64), axis=1),
        np.asarray(metrics.label_rank(jnp.asarray(logits), jnp.asarray(data.labels))),
    )


def compare(own: Outputs, other: Outputs) -> dict[str, float]:
    """Compares a decoded network's outputs with those of the original.

    Returns:
      Top-1 and top-5 accuracy (%), their change in points with the standard error of the paired
      difference, and the mean KL divergence from the original (nats).
    """
    result = {}
    for k in (1, 5):
        change = 100 * ((other.ranks < k).astype(float) - (own.ranks < k))
        error = change.std(ddof=1) / len(change) ** 0.5
        result |= {
            f"top{k}": 100 * float((other.ranks < k).mean()),
            f"top{k}_change": change.mean(),
            f"top{k}_change_error": error,
        }
    difference = own.log_probabilities - other.log_probabilities
    return result | {
        "kl_nats": float((np.exp(own.log_probabilities) * difference).sum(axis=1).mean())
    }
