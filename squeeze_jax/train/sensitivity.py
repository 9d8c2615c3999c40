"""The accuracy that pruning costs, layer by layer, to choose `train.prune_density` by."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from squeeze_jax.compress.prune import kernels, prune_array
from squeeze_jax.data import Data
from squeeze_jax.network import (
    Network,
    layer_name,
    leaves_by_path,
    predict,
    replace_leaves,
    split_model,
)
from squeeze_jax.train.evaluation import evaluate_each


def sensitivity(
    network: Network,
    data: Data,
    fractions: Sequence[float],
    max_loss: float,
    batch_size: int = 256,
    on_net: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Returns top-1 with one layer pruned and all others as they are, without retraining.

    Args:
      network: a trained network.
      data: see `evaluation.evaluate`.
      fractions: of a layer's weights that are kept, each in (0, 1).
      max_loss: points of top-1 that a layer may lose.
      batch_size: images at a time; all pruned networks see a batch before the next is read.
      on_net: called after each batch and network; there are layers x fractions + 1 networks.

    Returns:
      images; top1 (%) of the whole network; layers: name, weights, and top1 by fraction; keep:
      pairs as `train.prune_density` takes them, of each layer that may be pruned and the smallest
      of the fractions that loses no more than `max_loss`.
    """
    graphdef, params, stats = split_model(network.module())
    logits = jax.jit(functools.partial(predict, graphdef))
    params, stats = jax.device_put((params, stats))
    arrays = leaves_by_path(params)

    def run(path: str, kernel: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: np.asarray(
            logits(replace_leaves(params, arrays | {path: kernel}), stats, images)
        )

    weights = {
        path: np.asarray(arrays[path])
        for path, kernel in leaves_by_path(kernels(params)).items()
        if kernel
    }
    whole = next(iter(weights))
    nets = [run(whole, weights[whole])]
    nets += [
        run(path, prune_array(kernel, fraction))
        for path, kernel in weights.items()
        for fraction in fractions
    ]
    whole, *results = evaluate_each(nets, data, batch_size, on_net)
    top1 = np.reshape([result["top1"] for result in results], (len(weights), len(fractions)))
    layers, keep = [], []
    for (path, kernel), row in zip(weights.items(), top1.tolist(), strict=True):
        layers.append(
            {
                "name": layer_name(path),
                "weights": kernel.size,
                "top1": dict(zip(map(str, fractions), row, strict=True)),
            }
        )
        # Accuracies are whole images, so a loss of just max_loss must not fall to rounding.
        within = [
            fraction
            for fraction, value in zip(fractions, row, strict=True)
            if whole["top1"] - value <= max_loss + 1e-6
        ]
        keep += [(layer_name(path), min(within))] if within else []
    return {"images": whole["images"], "top1": whole["top1"], "layers": layers, "keep": keep}
