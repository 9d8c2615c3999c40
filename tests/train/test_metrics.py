"""Metrics against scikit-learn and NumPy, and their corner cases."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from squeeze_jax.train import metrics


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.standard_normal((200, 10)).astype(np.float32) * 3, rng.integers(0, 10, 200)


@pytest.mark.slow
def test_sums_are_scikit_learns(batch):
    logits, labels = batch
    sums = metrics.evaluation_sums(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(200))
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    assert float(sums["top1"]) == pytest.approx(
        200 * top_k_accuracy_score(labels, logits, k=1, labels=range(10))
    )
    assert float(sums["top5"]) == pytest.approx(
        200 * top_k_accuracy_score(labels, logits, k=5, labels=range(10))
    )
    assert float(sums["loss"]) == pytest.approx(
        200 * log_loss(labels, probabilities, labels=range(10)), rel=1e-4
    )
    np.testing.assert_array_equal(sums["labels"], np.bincount(labels, minlength=10))


@pytest.mark.slow
def test_the_confusion_matrix_is_scikit_learns(batch):
    logits, labels = batch
    sums = metrics.class_sums(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(200))
    expected = confusion_matrix(labels, logits.argmax(1), labels=range(10))
    np.testing.assert_array_equal(sums["confusion"], expected)
    np.testing.assert_array_equal(sums["right"], expected.diagonal())


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_the_calibration_error_is_its_definition(batch, scale):
    """Guo et al. 2017: the mean of |accuracy - confidence| over bins, by their share of images."""
    logits, labels = batch[0] * np.float32(scale), batch[1]
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    sums = metrics.class_sums(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(200))
    assert metrics.calibration_error(sums["calibration"]) == pytest.approx(expected, abs=1e-5)
    certain = metrics.class_sums(1e4 * jnp.eye(10)[labels], jnp.asarray(labels), jnp.ones(200))
    assert metrics.calibration_error(certain["calibration"]) == 0


@pytest.mark.slow
def test_what_is_right_is_on_the_diagonal_whatever_the_logits(batch):
    """Ties, numbers that are none, and infinities; what has no number answers nothing."""
    rng = np.random.default_rng(1)
    logits, labels = np.round(batch[0]), batch[1]
    for value in (np.nan, np.inf, -np.inf):
        logits[rng.integers(0, 200, 60), rng.integers(0, 10, 60)] = value
    logits[:9] = np.nan
    answers = jnp.asarray(logits), jnp.asarray(labels), jnp.ones(200)
    sums, whole = metrics.class_sums(*answers), metrics.evaluation_sums(*answers)
    assert float(jnp.trace(sums["confusion"])) == float(whole["top1"]) > 0
    np.testing.assert_array_equal(jnp.diagonal(sums["confusion"]), sums["right"])
    assert float(sums["confusion"].sum()) == 191
    assert 0 <= metrics.calibration_error(sums["calibration"]) <= 1


@pytest.mark.slow
def test_many_classes_have_no_matrix(batch, monkeypatch):
    monkeypatch.setattr(metrics, "MAX_CONFUSION_CLASSES", 9)
    sums = metrics.class_sums(*map(jnp.asarray, batch), jnp.ones(200))
    assert sums.keys() == {"right", "calibration"}


@pytest.mark.slow
def test_weight_leaves_padding_out(batch):
    logits, labels = map(jnp.asarray, batch)
    weight = (jnp.arange(200) < 150).astype(jnp.float32)
    for function in (metrics.evaluation_sums, metrics.class_sums):
        padded = function(logits, labels, weight)
        cut = function(logits[:150], labels[:150], weight[:150])
        for name in cut:
            np.testing.assert_allclose(padded[name], cut[name], rtol=1e-5)


@pytest.mark.slow
def test_a_constant_net_scores_at_chance():
    labels = jnp.arange(100) % 10
    sums = metrics.evaluation_sums(jnp.zeros((100, 10)), labels, jnp.ones(100))
    assert float(sums["top1"]) == 10 and float(sums["top5"]) == 50
    assert not metrics.left_chance(sums)


@pytest.mark.slow
def test_non_finite_logits_are_wrong():
    sums = metrics.evaluation_sums(jnp.full((10, 10), jnp.nan), jnp.arange(10), jnp.ones(10))
    assert float(sums["top1"]) == float(sums["top5"]) == 0


@pytest.mark.slow
def test_chance_is_the_commonest_class():
    """A net that always answers a class that 90 % of the images have has learned nothing."""
    labels = jnp.where(jnp.arange(1000) < 900, 0, 1)
    constant = jnp.tile(jnp.asarray([[1.0, 0.0]]), (1000, 1))
    assert not metrics.left_chance(metrics.evaluation_sums(constant, labels, jnp.ones(1000)))
    right = jnp.eye(2)[labels]
    assert metrics.left_chance(metrics.evaluation_sums(right, labels, jnp.ones(1000)))


@pytest.mark.parametrize(
    "right, counts, above",
    [
        (4, (2, 2), True),  # always right, though a coin does so once in 16 times
        (11, (4, 4, 4), True),
        (10, (6, 6), False),  # a coin has 10 of 12 or more in 1.9 % of all cases
        (11, (6, 6), True),  # and 11 in 0.3 %
        (36, (36,) * 10, False),
        (60, (36,) * 10, True),
    ],
)
def test_chance_is_what_guessing_reaches_at_the_sets_size(right, counts, above):
    sums = {"top1": right, "weight": sum(counts), "labels": np.asarray(counts)}
    assert metrics.left_chance(sums) == above


def test_chance_is_scipys_binomial_test():
    random = np.random.default_rng(0)
    for count in random.integers(1, 400, 60):
        counts = random.multinomial(count, [0.5, 0.3, 0.2])
        for right in random.integers(0, count, 5):
            p = binomtest(int(right), int(count), counts.max() / count, "greater").pvalue
            sums = {"top1": right, "weight": count, "labels": counts}
            assert metrics.left_chance(sums) == (p < 0.01)


def test_label_smoothing_is_cross_entropy_with_the_smoothed_target(batch):
    logits, labels = batch
    target = 0.9 * np.eye(10)[labels] + 0.01
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = -(target * log_probabilities).sum(1)
    np.testing.assert_allclose(
        metrics.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), 0.1), expected, rtol=1e-4
    )
