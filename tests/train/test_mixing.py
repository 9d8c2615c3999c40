"""mixup and cutmix against their papers' definitions, and the loss of mixed labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeeze_jax.train import TrainConfig, metrics, mixing

COUNT, SIZE = 2000, 16
RNG = np.random.default_rng(0)


def share(count=COUNT, start=0):
    """A device's share of a batch, of images that differ in every pixel."""
    return {
        "image": jnp.asarray(
            np.random.default_rng(start).normal(size=(count, SIZE, SIZE, 3)), "f4"
        ),
        "label": jnp.arange(count) % 10,
        "position": jnp.arange(start, start + count),
    }


def mixed(batch, seed=0, **config):
    config = TrainConfig(**config)
    mix = jax.jit(lambda batch, key: mixing.mix(batch, key, config))
    return jax.tree.map(np.asarray, mix(batch, jax.random.key(seed)))


def partner(array):
    array = np.asarray(array)
    return array.reshape(-1, 2, *array.shape[1:])[:, ::-1].reshape(array.shape)


def test_off_is_the_batch_itself():
    batch = share(4)
    assert mixing.mix(batch, jax.random.key(0), TrainConfig()) is batch


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_is_a_blend_with_a_beta_share(alpha):
    batch = share()
    result = mixed(batch, mixup=alpha)
    weight = result["second_weight"]
    image = np.asarray(batch["image"])
    expected = image + weight[:, None, None, None] * (partner(image) - image)
    np.testing.assert_allclose(result["image"], expected, atol=1e-5)
    np.testing.assert_array_equal(result["second_label"], partner(batch["label"]))
    np.testing.assert_array_equal(weight[::2], weight[1::2])
    draws = RNG.beta(alpha, alpha, 100_000)
    assert weight.mean() == pytest.approx(0.5, abs=0.04)
    assert weight.std() == pytest.approx(draws.std(), rel=0.06)


def papers_box(alpha):
    """The fraction that CutMix's own code (rand_bbox) pastes."""
    side = np.sqrt(RNG.beta(alpha, alpha))
    size = int(SIZE * side)
    ends = []
    for _ in range(2):
        centre = RNG.integers(SIZE)
        ends.append(np.clip([centre - size // 2, centre + size // 2], 0, SIZE))
    return np.prod(np.diff(ends)) / SIZE**2


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_cutmix_pastes_a_box_and_weighs_it_by_its_pixels(alpha):
    batch = share()
    result = mixed(batch, cutmix=alpha)
    image = np.asarray(batch["image"])
    own, pasted = (result["image"] == x for x in (image, partner(image)))
    assert (own ^ pasted).all()
    pasted = pasted[..., 0]
    np.testing.assert_array_equal(pasted.mean((1, 2)), result["second_weight"])
    rows, columns = pasted.any(2).sum(1), pasted.any(1).sum(1)
    np.testing.assert_array_equal(rows * columns, pasted.sum((1, 2)))  # a box
    np.testing.assert_array_equal(result["second_label"], partner(batch["label"]))
    papers = np.array([papers_box(alpha) for _ in range(5000)])
    ours = result["second_weight"][::2]
    assert ours.mean() == pytest.approx(papers.mean(), abs=0.03)
    assert ours.std() == pytest.approx(papers.std(), rel=0.08)


@pytest.mark.slow
def test_both_are_drawn_as_often():
    batch = share()
    result = mixed(batch, mixup=1.0, cutmix=1.0)
    image = np.asarray(batch["image"])
    kept = (result["image"] == image) | (result["image"] == partner(image))
    assert kept.all((1, 2, 3)).mean() == pytest.approx(0.5, abs=0.06)


@pytest.mark.slow
def test_a_pairs_draws_depend_on_its_place_and_the_key_alone():
    config = dict(mixup=0.2, cutmix=1.0)
    batch = share(16)
    whole = mixed(batch, **config)
    for part in (slice(0, 8), slice(8, 16)):
        alone = mixed(jax.tree.map(lambda x: x[part], batch), **config)
        jax.tree.map(np.testing.assert_array_equal, alone, jax.tree.map(lambda x: x[part], whole))
    other = mixed(batch, seed=1, **config)
    assert not np.array_equal(other["second_weight"], whole["second_weight"])
    assert len(np.unique(whole["second_weight"])) > 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_with_the_mixed_target(smoothing):
    logits = RNG.normal(size=(50, 10)).astype(np.float32) * 3
    first, second = RNG.integers(0, 10, (2, 50))
    weight = RNG.random(50, np.float32)
    target = (1 - weight)[:, None] * np.eye(10)[first] + weight[:, None] * np.eye(10)[second]
    smooth = (1 - smoothing) * target + smoothing / 10
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    batch = {"label": first, "second_label": second, "second_weight": weight}
    batch = jax.tree.map(jnp.asarray, batch)
    loss = metrics.training_loss(jnp.asarray(logits), batch, smoothing)
    assert float(loss) == pytest.approx(-(smooth * log_probabilities).sum(1).mean(), rel=1e-5)
    right = target[np.arange(50), logits.argmax(1)].mean()
    assert float(metrics.training_top1(jnp.asarray(logits), batch)) == pytest.approx(
        right, rel=1e-5
    )
