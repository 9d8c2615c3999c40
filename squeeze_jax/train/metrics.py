"""Loss and accuracy on a batch of logits; pure functions of arrays."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

CALIBRATION_BINS = 15  # of equal width, as in Guo et al. 2017 (arXiv 1706.04599)
MAX_CONFUSION_CLASSES = 2000  # with more, a matrix of all pairs would take more than 16 MB


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the softmax cross-entropy of each example, in nats, float32 [N].

    With smoothing the target is 1 - label_smoothing on the label plus label_smoothing / classes on
    each class.

    Args:
      logits: [N, classes].
      labels: int [N].
      label_smoothing: in [0, 1).
    """
    logits = logits.astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not label_smoothing:
        return loss
    return (1 - label_smoothing) * loss - label_smoothing * jnp.mean(
        jax.nn.log_softmax(logits), axis=-1
    )


def distillation(logits: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Returns T² KL(teacher || net) of softmaxes at temperature T of each example, float32 [N].

    The factor keeps the gradient's size as T changes (Hinton et al. 2015, arXiv 1503.02531).

    Args:
      logits: [N, classes], of the net.
      teacher: [N, classes], the teacher's logits.
      temperature: T, above 0.
    """
    net, target = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (logits, teacher)
    )
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(net, target)


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the place of the label among classes sorted by falling logit, from 0, int32 [N].

    Ties go to the lower class, as in argmax, so that a network with constant output scores at
    chance; a non-finite logit of the label counts as last.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1])[None, :]
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return jnp.where(jnp.isfinite(own[:, 0]), jnp.sum(ahead, axis=-1), logits.shape[-1])


def training_loss(
    logits: jax.Array, batch: Mapping[str, jax.Array], label_smoothing: float
) -> jax.Array:
    """Returns the mean cross-entropy of a training batch, in nats; see `mean_over_labels`."""
    return mean_over_labels(lambda labels: cross_entropy(logits, labels, label_smoothing), batch)


def training_top1(logits: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the share of a training batch that is classified right; see `mean_over_labels`."""
    return mean_over_labels(lambda labels: label_rank(logits, labels) < 1, batch)


def mean_over_labels(
    function: Callable[[jax.Array], jax.Array], batch: Mapping[str, jax.Array]
) -> jax.Array:
    """Returns the mean of a function of labels [N] to values [N].

    Cross-entropy is linear in its target, so that this is its mean for the mixed targets of
    `mixing.mix`, too.

    Args:
      function: of labels.
      batch: "label" int [N] and, of mixed images, "second_label" int [N] and "second_weight" [N].
    """
    values = function(batch["label"])
    if "second_label" in batch:
        weight = batch["second_weight"]
        values = (1 - weight) * values + weight * function(batch["second_label"])
    return jnp.mean(values)


def evaluation_sums(
    logits: jax.Array, labels: jax.Array, weight: jax.Array
) -> dict[str, jax.Array]:
    """Returns weighted sums over a batch, to be added up over batches and devices.

    weight, loss, top1, top5 are scalars; labels [classes] counts the examples of each class.
    """
    rank = label_rank(logits, labels)
    return {
        "weight": jnp.sum(weight),
        "loss": jnp.sum(weight * cross_entropy(logits, labels)),
        "top1": jnp.sum(weight * (rank < 1)),
        "top5": jnp.sum(weight * (rank < 5)),
        "labels": jnp.zeros(logits.shape[-1]).at[labels].add(weight),
    }


def class_sums(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
    """Returns weighted sums by class and by confidence, to be added up over batches and devices.

    A class is the answer where `label_rank` is 0; where the label's is not, the class with the
    largest other logit is. An image without any that is a number answers nothing.

    Returns:
      "right" [classes], how often each class was answered right; "calibration" [bins, 3], the
      number of images, those that are right and the sum of the confidences, by confidence; and, up
      to MAX_CONFUSION_CLASSES, "confusion" [classes, classes], the number of images by label and
      answer.
    """
    logits, classes = logits.astype(jnp.float32), logits.shape[-1]
    right = label_rank(logits, labels) < 1
    confidence = jnp.nan_to_num(jnp.max(jax.nn.softmax(logits), axis=-1))
    # Bin k is (k / bins, (k + 1) / bins].
    bins = jnp.clip(jnp.ceil(confidence * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1)
    counted = jnp.stack([jnp.ones_like(confidence), right, confidence], axis=-1)
    sums = {
        "right": jnp.zeros(classes).at[labels].add(weight * right),
        "calibration": jnp.zeros((CALIBRATION_BINS, 3))
        .at[bins.astype(int)]
        .add(weight[:, None] * counted),
    }
    if classes > MAX_CONFUSION_CLASSES:
        return sums
    is_label = jnp.arange(classes)[None, :] == labels[:, None]
    others = jnp.where(is_label | jnp.isnan(logits), -jnp.inf, logits)
    answer = jnp.where(right, labels, jnp.argmax(others, axis=-1))
    weight = weight * (right | (jnp.max(others, axis=-1) > -jnp.inf))
    return sums | {"confusion": jnp.zeros((classes, classes)).at[labels, answer].add(weight)}


def calibration_error(bins: np.ndarray) -> float:
    """Returns the expected calibration error, in 0..1 (Guo et al. 2017, arXiv 1706.04599).

    It is the mean over images of |accuracy - mean confidence| of the image's bin.

    Args:
      bins: "calibration" of `class_sums`.
    """
    images, right, confidence = np.asarray(bins, np.float64).T
    return float(np.abs(right - confidence).sum() / images.sum())


def left_chance(sums: dict[str, jax.Array]) -> bool:
    """Returns whether top-1 is above chance: guessing, with the commonest class's frequency.

    One-sided binomial test at the size of the set and a level of 1 %. A net that is always right
    is above chance, however few images there are.
    """
    from scipy.special import bdtrc  # scipy.stats, which has the test, takes half a second

    right, count = round(float(sums["top1"])), round(float(sums["weight"]))
    guess = min(1.0, float(jnp.max(sums["labels"])) / count)
    return right == count or bool(bdtrc(right - 1, count, guess) < 0.01)
