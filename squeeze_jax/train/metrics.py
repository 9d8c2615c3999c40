"""Loss and accuracy on a batch of logits; pure functions of arrays."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy of each example, in nats: float32 [N] from logits [N, classes] and int labels [N].

    With smoothing the target is 1 - label_smoothing on the label plus label_smoothing / classes on every class.
    """
    logits = logits.astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not label_smoothing:
        return loss
    return (1 - label_smoothing) * loss - label_smoothing * jnp.mean(
        jax.nn.log_softmax(logits), axis=-1
    )


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The place of the label when classes are sorted by falling logit, 0 for the first: int32 [N].

    Ties go to the lower class, as in argmax, so that a net with constant output scores at chance; a non-finite logit on the
    label counts as last.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1])[None, :]
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return jnp.where(jnp.isfinite(own[:, 0]), jnp.sum(ahead, axis=-1), logits.shape[-1])


def evaluation_sums(
    logits: jax.Array, labels: jax.Array, weight: jax.Array
) -> dict[str, jax.Array]:
    """Weighted sums over a batch, to be added up over batches and devices.

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
    """Whether top-1 beats always answering the commonest class by more than three standard deviations of a fair guess."""
    count, guess = float(sums["weight"]), float(jnp.max(sums["labels"])) / float(sums["weight"])
    return float(sums["top1"]) > count * guess + 3 * (count * guess * (1 - guess)) ** 0.5
