"""The averaged weights against their definition, and where they stand in for the network."""

import dataclasses

import jax
import numpy as np
import pytest

from squeeze_jax import study
from squeeze_jax.compress import cluster
from squeeze_jax.data import evaluation_data, open_data
from squeeze_jax.network import leaves_by_path
from squeeze_jax.study.plan import Plan
from squeeze_jax.study.workdir import Workdir
from squeeze_jax.train import (
    TrainConfig,
    TrialConfig,
    checkpoint_bytes,
    compile_trial,
    ema,
    evaluation,
    train,
)
from squeeze_jax.train.checkpoint import Checkpoints, load_network
from tests.train.divided_batches import states


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_the_average_is_its_definition_and_training_goes_on_without_it(config, digits):
    """With BatchNorm; the decay warms up for two steps and is 0.25 from the third."""
    config.model.batch_norm = True
    trained = list(states(config, digits, jax.devices(), steps=5))
    config.train.ema_decay = 0.25
    averaged = list(states(config, digits, jax.devices(), steps=5))
    compiled = compile_trial(TrialConfig.parse(config), digits, jax.devices())
    start = compiled.initial_state(TrialConfig.parse(config))
    expected = leaves_by_path({"params": start.params, "stats": start.stats})
    for t, state in enumerate(averaged):
        decay = (0.1, 2 / 11, 0.25, 0.25, 0.25)[t]
        weights = leaves_by_path({"params": state.params, "stats": state.stats})
        for path, average in leaves_by_path(state.average).items():
            expected[path] = decay * expected[path].astype(np.float64) + (1 - decay) * weights[path]
            np.testing.assert_allclose(average, expected[path], rtol=1e-5, atol=1e-6)
        assert_equal(state._replace(average={}), trained[t])


def test_zeros_equal_and_frozen_weights_stay_so():
    """To the last bit, over sizes that leave remainders in vector loops."""
    random, config = np.random.default_rng(0), TrainConfig(ema_decay=0.99)
    kernel = random.standard_normal((67, 101)).astype(np.float32)
    kernel[random.random(kernel.shape) < 0.5] = 0
    shared = cluster.cluster_weights({"fc": {"kernel": kernel}}, 4)
    values, codes = np.unique(shared["fc"]["kernel"], return_inverse=True)
    weights = shared | {"frozen": {"kernel": random.standard_normal(1001).astype(np.float32)}}
    average = ema.start_average(config, weights, {})
    step = jax.jit(ema.update_average, static_argnums=0)
    for t in range(30):
        values = (values + 0.1 * random.standard_normal(values.shape)) * (values != 0)
        weights["fc"]["kernel"] = values.astype(np.float32)[codes].reshape(kernel.shape)
        average = step(config, average, weights, {}, np.int32(t))
    found = np.asarray(average["params"]["fc"]["kernel"])
    assert not found[kernel == 0].view(np.uint32).any()
    assert (found != weights["fc"]["kernel"])[kernel != 0].all()
    for code in range(len(values)):
        assert len(np.unique(found[codes.reshape(found.shape) == code].view(np.uint32))) == 1
    assert_equal(average["params"]["frozen"], weights["frozen"])


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_average_is_the_trials_network(config, tmp_path, batch_norm):
    """It is evaluated, on the test set too, saved, and what a later stage starts from."""
    config.model.batch_norm = batch_norm
    config.train.update(ema_decay=0.9, eval_every=6)
    (trial,) = trials = study.make_trials(config, lambda config: [{"seed": 1}])
    study.run(Plan(config, trials, tmp_path / "study", "test"))
    workdir = Workdir(tmp_path / "study")
    directory, result = workdir.trial_directory(trial.name), workdir.read_result(trial.name)
    network = load_network(directory)

    data = open_data(trial.parsed.data)
    compiled = compile_trial(trial.parsed, data, jax.devices())
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = jax.device_get(checkpoints.restore(compiled.initial_shapes))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == checkpoint_bytes(
        trial.parsed, data
    )
    assert_equal({"params": network.params, "stats": network.stats}, state.average)
    images = evaluation_data(data.eval_source, network.preprocessing)
    raw = dataclasses.replace(network, params=state.params, stats=state.stats)
    found, other = (evaluation.evaluate(net.classifier(), images) for net in (network, raw))
    assert result["loss"] == pytest.approx(found["eval_loss"], rel=1e-5)
    assert result["loss"] != pytest.approx(other["eval_loss"], rel=1e-3)

    with_test = dataclasses.replace(
        compiled, test=compiled.evaluation, test_device_data=compiled.eval_device_data
    )
    again = train(with_test, trial.parsed, data, tmp_path / "with_test")
    assert again["test_top1"] == again["top1"] == result["top1"]

    config.train.update(init_from=str(directory), ema_decay=0.0)
    later = compiled.initial_state(TrialConfig.parse(config))
    assert_equal((later.params, later.stats), (network.params, network.stats))
