"""Loss and accuracy on a batch of logits; pure functions of arrays."""

import jax
import jax.numpy as jnp
import optax


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


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the place of the label among classes sorted by falling logit, from 0, int32 [N].

    Ties go to the lower class, as in argmax, so that a network with constant output scores at
    chance; a non-finite logit of the label counts as last.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1])[None, :]
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return jnp.where(jnp.isfinite(own[:, 0]), jnp.sum(ahead, axis=-1), logits.shape[-1])


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


def left_chance(sums: dict[str, jax.Array]) -> bool:
    """Returns whether top-1 is above chance: guessing, with the commonest class's frequency.

    One-sided binomial test at the size of the set and a level of 1 %. A net that is always right
    is above chance, however few images there are.
    """
    # Imported here, since it takes a second and only the end of a training needs it.
    from scipy.stats import binomtest

    right, count = round(float(sums["top1"])), round(float(sums["weight"]))
    guess = min(1.0, float(jnp.max(sums["labels"])) / count)
    return right == count or bool(binomtest(right, count, guess, "greater").pvalue < 0.01)
