"""The training step: its parts, its precision, and its independence of how a batch is divided."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeeze_jax.data import open_data
from squeeze_jax.models import conv_backend, functional
from squeeze_jax.network import build_model
from squeeze_jax.train import TrialConfig
from squeeze_jax.train.compiled import training_pipeline
from tests.train.divided_batches import states

ROOT = Path(__file__).parents[2]


def assert_close(a, b, rtol=2e-4):
    """Equal to rounding, relative to each array's largest entry."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(1e-6, float(np.abs(y).max())))


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [4, 0])
def test_accumulation_equals_the_whole_batch(config, digits, accumulate, monkeypatch):
    config.model.dropout = 0.5
    config.train.grad_accum_steps = 1
    whole = list(states(config, digits, jax.devices()[:1]))
    config.train.grad_accum_steps = accumulate
    monkeypatch.setattr(
        conv_backend, "num_microbatches", lambda images, seen_bytes, params_bytes, **options: 8
    )  # its own choice for a net so small is 1
    parts = list(states(config, digits, jax.devices()[:1]))
    for one, four in zip(whole, parts, strict=True):
        assert_close(four.params, one.params)
        assert_close(four.running, one.running)


@pytest.mark.slow
def test_two_devices_equal_one(config, digits):
    """With dropout, crops and mirroring on: a draw belongs to an example, not to a device."""
    config.model.dropout = 0.5
    config.data.update(pad=2, mirror=True)
    data = open_data(TrialConfig.parse(config).data)
    one = list(states(config, data, jax.devices()[:1]))
    two = list(states(config, data, jax.devices()[:2]))
    for a, b in zip(one, two, strict=True):
        assert_close(b.params, a.params)
        assert_close(b.running, a.running)


@pytest.mark.slow
def test_bfloat16_keeps_float32_weights_and_follows_float32(config, digits):
    exact = list(states(config, digits, jax.devices()[:1]))[-1]
    config.train.dtype = "bfloat16"
    rough = list(states(config, digits, jax.devices()[:1]))[-1]
    assert {leaf.dtype for leaf in jax.tree.leaves(rough.params)} == {np.dtype("float32")}
    assert (
        0
        < abs(float(rough.running["loss"]) - float(exact.running["loss"]))
        < 0.05 * float(exact.running["loss"])
    )


@pytest.mark.slow
def test_batch_norm_statistics_are_the_groups_mean(config, digits):
    config.model.batch_norm = True
    config.train.bn_group_size = 8
    stats = next(states(config, digits, jax.devices()[:2])).stats["conv1"]["bn"]
    # conv1's output on the whole first batch, with its first weights; no augmentation is on.
    pipeline = training_pipeline(TrialConfig.parse(config), digits)
    images = pipeline.fetch(pipeline.device_data, next(pipeline.batches()), None)["image"]
    kernel = build_model(config.model, 10, config.seed).conv1.kernel[...]
    output = np.asarray(functional.conv2d(images, jnp.asarray(kernel), stride=2))
    # From 0 and 1, with momentum 0.9; the variance is the mean of the four groups' variances.
    np.testing.assert_allclose(stats["mean"], 0.1 * output.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    groups = output.reshape(4, -1, output.shape[-1])
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * groups.var(1).mean(0), rtol=1e-3)


@pytest.mark.slow
def test_any_division_of_a_batch_trains_the_same_net():
    """With BatchNorm, augmentation, mixup, cutmix and dropout, on 1, 2 and 8 devices.

    Some of them in micro-batches. A group of 16 images lies on one device, or spans two or four.
    """
    first, *others = divided_runs()
    assert len(others) == 4
    for other in others:
        assert_close(other, first)


def divided_runs() -> list:
    """Parameters, statistics and sums after three steps, one for each division of the batch."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "JAX_NUM_CPU_DEVICES": "8",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as in conftest
            "PYTHONPATH": str(ROOT),
        }
        file = Path(folder) / "states.npz"
        command = [sys.executable, "-m", "tests.train.divided_batches", str(file)]
        subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=300)
        with np.load(file) as arrays:
            runs = {}
            for name in arrays.files:
                runs.setdefault(name.split(":")[0], []).append(arrays[name])
    return list(runs.values())


@pytest.mark.slow
def test_running_sums_start_over_at_each_log_line(config, digits):
    config.train.log_every = 2
    losses = [
        float(state.running["loss"]) for state in states(config, digits, jax.devices()[:1], steps=3)
    ]
    config.train.log_every = 1
    single = [
        float(state.running["loss"]) for state in states(config, digits, jax.devices()[:1], steps=3)
    ]
    assert losses == pytest.approx([single[0], single[0] + single[1], single[2]], rel=1e-5)


@pytest.mark.slow
def test_same_seed_same_bits(config, digits):
    first, second = (list(states(config, digits, jax.devices()))[-1] for _ in range(2))
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(x, y)
