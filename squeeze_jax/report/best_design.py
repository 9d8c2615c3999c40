"""Which design of a space is the best, given how much seeds differ."""

from typing import Any

import numpy as np

from squeeze_jax.report.spaces import RESAMPLES, Space
from squeeze_jax.report.tables import describe


def best_designs(space: Space, seed: int = 0) -> list[dict[str, Any]] | None:
    """Returns the designs that are most likely the best, each with the probability that it is.

    The highest of many noisy means is partly luck. So true means are drawn from their posterior
    under a normal distribution of designs (empirical Bayes), with the deviation of seeds pooled
    over the designs: its estimate of the best design lies below the mean that was measured.

    Returns:
      design, seeds, mean (% of the metric), expected (%) and probability, by descending
      probability. None where no design has two seeds, which tells nothing of their deviation.
    """
    values = [np.array(point.values(space.study.metric, "ok")) for point in space.points]
    counts = np.array([len(each) for each in values])
    means = np.array([each.mean() for each in values])
    freedom = int((counts - 1).sum())
    if freedom < 1:
        return None
    squares = sum(((each - each.mean()) ** 2).sum() for each in values)
    random = np.random.default_rng(seed)
    # Of the seeds, as uncertain as it is.
    variances = squares / random.chisquare(freedom, RESAMPLES)
    spread = means.var(ddof=1) if len(means) > 1 else 0.0
    between = max(0.0, float(spread - squares / freedom * np.mean(1 / counts)))  # of the designs
    noise = variances[:, None] / counts
    weight = np.divide(between, between + noise, out=np.ones_like(noise), where=noise > 0)
    expected = means.mean() + weight * (means - means.mean())
    drawn = expected + np.sqrt(weight * noise) * random.standard_normal(noise.shape)
    is_best = drawn == drawn.max(axis=1, keepdims=True)  # equal ones share the probability
    probabilities = (is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0)
    order = sorted(range(len(means)), key=lambda i: (-probabilities[i], -means[i]))
    return [
        {
            "design": describe(space.points[i].design),
            "seeds": int(counts[i]),
            "mean": float(means[i]),
            "expected": float(expected[:, i].mean()),
            "probability": float(probabilities[i]),
        }
        for i in order
    ]
