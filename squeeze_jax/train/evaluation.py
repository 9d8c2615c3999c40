"""What a trained net is worth on a data set, and what it says of an image."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from squeeze_jax.data import Data
from squeeze_jax.network import Classifier
from squeeze_jax.train import metrics

Sums = dict[str, Any]


def total(parts: Iterable[Sums]) -> Sums:
    """The sums over all batches (see `metrics.evaluation_sums`), in host memory."""
    sums = None
    for part in parts:
        sums = part if sums is None else jax.tree.map(lambda a, b: a + b, sums, part)
    return jax.device_get(sums)


def percentages(sums: Sums) -> dict[str, float]:
    """Evaluation sums as eval_loss (nats), top1 and top5 (%)."""
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
    """Accuracy of a trained net, whatever engine computes it.

    Args:
      classifier: the net.
      data: its images, streamed and prepared as the net wants them, with its labels; see `data.evaluation_data`.
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
    """Accuracy of several nets that want their images alike, each image being read and prepared once.

    Args:
      runs: as `Classifier.run`.
      data, batch_size: see `evaluate`.
      on_run: called after each batch and net.

    Returns:
      What `evaluate` does, for each of `runs`.
    """
    pipeline = data.evaluation(batch_size)
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


def probabilities(classifier: Classifier, images: Sequence[np.ndarray]) -> np.ndarray:
    """Softmax probabilities float32 [N, classes] of preprocessed images [H, W, 3]; one at a time, so that any number compiles once."""
    return np.concatenate([jax.nn.softmax(classifier.run(image[None])) for image in images])
