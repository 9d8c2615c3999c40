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
    """Returns whether top-1 is above chance.

    Chance is always answering the commonest class; above it is by more than three standard
    deviations of such a guess.
    """
    count, guess = float(sums["weight"]), float(jnp.max(sums["labels"])) / float(sums["weight"])
    return float(sums["top1"]) > count * guess + 3 * (count * guess * (1 - guess)) ** 0.5
