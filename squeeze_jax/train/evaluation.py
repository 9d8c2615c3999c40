"""The accuracy of trained networks on a data set, and their probabilities for an image."""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from squeeze_jax.data import Data
from squeeze_jax.network import Classifier
from squeeze_jax.train import metrics

Sums = dict[str, Any]
SumsTree = TypeVar("SumsTree", Sums, list[Sums])


def total(parts: Iterable[SumsTree]) -> SumsTree:
    """Returns the sums over all batches (see `metrics.evaluation_sums`), in host memory.

    Raises:
      TypeError: there are no batches.
    """
    return jax.device_get(
        functools.reduce(lambda sums, part: jax.tree.map(operator.add, sums, part), parts)
    )


def percentages(sums: Sums) -> dict[str, float]:
    """Returns eval_loss (nats), top1 and top5 (%) of evaluation sums."""
    weight = float(sums["weight"])
    return dict(
        eval_loss=float(sums["loss"]) / weight,
        top1=100 * float(sums["top1"]) / weight,
        top5=100 * float(sums["top5"]) / weight,
    )


def evaluate(
    classifier: Classifier,
    data: Data,
    batch_size: int = 32,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Returns the accuracy of a trained network, whichever engine computes it.

    Args:
      classifier: the network.
      data: images with its labels, streamed through its preprocessing; see `evaluation_data`.
      batch_size: images at a time.
      on_batch: called after each batch.

    Returns:
      top1 and top5 (%), eval_loss (nats), images.
    """
    return evaluate_each([classifier.run], data, batch_size, on_batch)[0]


def evaluate_each(
    runs: Sequence[Callable[[np.ndarray], np.ndarray]],
    data: Data,
    batch_size: int,
    on_run: Callable[[], None],
) -> list[dict[str, Any]]:
    """Returns the accuracy of several networks of the same preprocessing, reading each image once.

    Args:
      runs: as `Classifier.run`.
      data: see `evaluate`.
      batch_size: images at a time.
      on_run: called after each batch and network.

    Returns:
      For each of `runs` what `evaluate` returns.
    """
    pipeline = data.evaluation(min(batch_size, data.num_eval))
    fetch, add = (
        jax.jit(lambda batch: pipeline.fetch({}, batch, None)),
        jax.jit(metrics.evaluation_sums),
    )

    def parts():
        for batch in pipeline.batches():
            batch = fetch(batch)
            sums = []
            for run in runs:
                sums.append(add(run(np.asarray(batch["image"])), batch["label"], batch["weight"]))
                on_run()
            yield sums

    return [percentages(sums) | {"images": round(float(sums["weight"]))} for sums in total(parts())]


def probabilities(classifier: Classifier, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Returns softmax probabilities, float32 [N, classes], of preprocessed images [H, W, 3].

    Images go through the network one at a time, so that it compiles once for any number.
    """
    return np.concatenate([jax.nn.softmax(classifier.run(image[None])) for image in images])
