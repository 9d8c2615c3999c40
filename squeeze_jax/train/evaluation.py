"""The accuracy of trained networks on a data set, and their probabilities for an image."""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from squeeze_jax.data import Data
from squeeze_jax.errors import UserError
from squeeze_jax.network import Classifier
from squeeze_jax.train import metrics

NOT_FINITE = "the network's outputs are not finite: its weights have diverged"

Sums = dict[str, Any]
SumsTree = TypeVar("SumsTree", Sums, list[Sums])


def total(parts: Iterable[SumsTree]) -> SumsTree:
    """Returns the sums over all batches (see `metrics`), in host memory.

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


def by_class(sums: Sums, class_names: Sequence[str]) -> dict[str, Any]:
    """Returns what is known of each class, ready for JSON.

    Args:
      sums: of both kinds, see `metrics`.
      class_names: by label.

    Returns:
      calibration_error (%), expected, over 15 bins of confidence; classes, by label: name, images,
      top1 (%, None without images); and confusion, the pairs that occur, as (label, answer,
      images), or None with more than `metrics.MAX_CONFUSION_CLASSES` classes.
    """
    images = [round(float(count)) for count in sums["labels"]]
    confusion = None
    if "confusion" in sums:
        counts = np.asarray(sums["confusion"])
        confusion = [[*map(int, pair), round(float(counts[*pair]))] for pair in np.argwhere(counts)]
    return {
        "calibration_error": 100 * metrics.calibration_error(sums["calibration"]),
        "classes": [
            {"name": name, "images": count, "top1": 100 * float(right) / count if count else None}
            for name, count, right in zip(class_names, images, sums["right"], strict=True)
        ],
        "confusion": confusion,
    }


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
      top1 and top5 (%), eval_loss (nats), images; and what `by_class` returns.

    Raises:
      UserError: an output is not finite.
    """
    [sums] = sum_each(
        [classifier.run],
        data,
        batch_size,
        on_batch,
        lambda *answers: metrics.evaluation_sums(*answers) | metrics.class_sums(*answers),
    )
    return _measures(sums) | by_class(sums, data.class_names)


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
      For each of `runs` top1 and top5 (%), eval_loss (nats), images.

    Raises:
      UserError: an output is not finite.
    """
    return list(map(_measures, sum_each(runs, data, batch_size, on_run, metrics.evaluation_sums)))


def sum_each(
    runs: Sequence[Callable[[np.ndarray], np.ndarray]],
    data: Data,
    batch_size: int,
    on_run: Callable[[], None],
    function: Callable[[jax.Array, jax.Array, jax.Array], Sums],
) -> list[Sums]:
    """Returns the sums of a function of logits, labels and weights; see `evaluate_each`."""
    pipeline = data.evaluation(min(batch_size, data.num_eval))
    fetch, add = jax.jit(lambda batch: pipeline.fetch({}, batch, None)), jax.jit(function)

    def parts():
        for batch in pipeline.batches():
            batch = fetch(batch)
            sums = []
            for run in runs:
                sums.append(add(run(np.asarray(batch["image"])), batch["label"], batch["weight"]))
                on_run()
            yield sums

    return total(parts())


def _measures(sums: Sums) -> dict[str, Any]:
    found = percentages(sums)
    if not math.isfinite(found["eval_loss"]):
        raise UserError(NOT_FINITE)
    return found | {"images": round(float(sums["weight"]))}


def probabilities(classifier: Classifier, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Returns softmax probabilities, float32 [N, classes], of preprocessed images [H, W, 3].

    Images go through the network one at a time, so that it compiles once for any number.

    Raises:
      UserError: the outputs are not finite.
    """
    logits = np.concatenate([classifier.run(image[None]) for image in images])
    if not np.isfinite(logits).all():
        raise UserError(NOT_FINITE)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
