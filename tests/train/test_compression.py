"""Training pruned, clustered and on a grid: real steps on two devices, a stop, other weights."""

import dataclasses
import signal

import jax
import numpy as np
import pytest

from squeeze_jax.compress import quantize
from squeeze_jax.compress.sqz import container
from squeeze_jax.compress.sqz.quantized_tensor import find_codebook, find_uniform_scale
from squeeze_jax.errors import UserError
from squeeze_jax.network import (
    Network,
    Preprocessing,
    build_model,
    leaves_by_path,
    replace_leaves,
    split_model,
)
from squeeze_jax.train import Interrupted, TrialConfig, check_config, compile_trial, train
from squeeze_jax.train.checkpoint import Checkpoints, load_network, save_network

KEEP = (("conv10", 0.3), ("fire*", 0.5))


@pytest.fixture
def checkpoint(config, tmp_path):
    """A net whose fire2/squeeze is sparse already."""
    _, params, stats = split_model(build_model(config.model, 10, seed=7))
    params = jax.device_get(params)
    kernel = np.array(params["fire2"]["squeeze"]["kernel"])
    kernel[..., ::2] = 0
    params["fire2"]["squeeze"]["kernel"] = kernel
    save_network(
        Network(
            config.model.to_dict(),
            tuple("0123456789"),
            Preprocessing.from_metadata(config.data),
            params,
            stats,
        ),
        tmp_path / "net",
    )
    return tmp_path / "net"


def weights_around(config, data, directory):
    """Returns the weights by path before and after training.

    A run that is stopped in between ends in the same state, to the bit. Masks and groups are part
    of it: they are not found anew among the weights at the stop.
    """
    compiled = compile_trial(TrialConfig.parse(config), data, jax.devices())
    train(compiled, TrialConfig.parse(config), data, directory / "unbroken")
    with pytest.raises(Interrupted):
        train(
            compiled,
            TrialConfig.parse(config),
            data,
            directory / "broken",
            asked_to_stop=lambda step: signal.SIGTERM if step == 4 else None,
        )
    train(compiled, TrialConfig.parse(config), data, directory / "broken")
    states = []
    for name in ("unbroken", "broken"):
        with Checkpoints(directory / name / "checkpoints") as checkpoints:
            states.append(jax.device_get(checkpoints.restore(compiled.initial_shapes)))
    jax.tree.map(np.testing.assert_array_equal, *states)
    return leaves_by_path(
        jax.device_get(compiled.initial_state(TrialConfig.parse(config)).params)
    ), leaves_by_path(states[0].params)


def kernels(weights):
    return {path: weight for path, weight in weights.items() if path.endswith("kernel")}


@pytest.mark.slow
def test_pruned_weights_stay_zero(config, digits, tmp_path):
    config.train.update(prune_density=KEEP, steps=5, momentum=0.9, weight_decay=0.01)
    start, end = weights_around(config, digits, tmp_path)
    for path, weights in kernels(end).items():
        fraction = 0.3 if path.startswith("conv10") else 0.5 if path.startswith("fire") else 1.0
        assert np.count_nonzero(weights) == np.ceil(fraction * weights.size)
        np.testing.assert_array_equal(weights != 0, start[path] != 0)
        assert not weights.view(np.uint32)[start[path] == 0].any()
        assert (weights != start[path])[start[path] != 0].mean() > 0.5
    assert all(
        np.any(end[path] != start[path]) for path in end
    )  # biases, which start at zero, included


@pytest.mark.slow
def test_shared_weights_stay_shared(config, digits, checkpoint, tmp_path):
    """Pruned and shared at once, from a sparse net, with a layer that stays as it is."""
    config.train.update(
        init_from=str(checkpoint),
        prune_density=(("*", 0.5),),
        codebook_bits=3,
        freeze=("conv1",),
        momentum=0.9,
        weight_decay=0.01,
    )
    start, end = weights_around(config, digits, tmp_path)
    for path, weights in kernels(end).items():
        assert np.array_equal(weights, start[path]) == path.startswith("conv1/")
        assert len(np.unique(weights)) <= 8 and np.mean(weights == 0) >= 0.5 - 1 / weights.size
        assert not weights.view(np.uint32)[start[path] == 0].any()
        for value in np.unique(start[path]):
            assert len(np.unique(weights[start[path] == value].view(np.uint32))) == 1
    assert find_codebook(end["fire3/expand3x3/kernel"]) is not None


@pytest.fixture
def coarse(checkpoint, tmp_path):
    """That net as a lossy file has it, and the file."""
    net = load_network(checkpoint)
    data = container.write(net, quantize.to_bits(net, None, 4))
    save_network(container.read(data), tmp_path / "coarse")
    return tmp_path / "coarse", data


@pytest.mark.slow
def test_weights_stay_on_their_grid(config, digits, coarse, tmp_path):
    """With a frozen layer. The trained net's file is as small as the one that it came from.

    Only biases that were zero add to it.
    """
    directory, data = coarse
    config.train.update(
        init_from=str(directory),
        qat=True,
        freeze=("conv1",),
        learning_rate=0.3,
        momentum=0.9,
        weight_decay=0.01,
    )
    start, end = weights_around(config, digits, tmp_path)
    for path, weights in kernels(end).items():
        before = find_uniform_scale(start[path])
        levels = np.round(weights / np.float32(before.dequantiser.step))
        np.testing.assert_array_equal(weights, before.dequantiser.values(levels))
        assert not weights.view(np.uint32)[(start[path] == 0) | (levels == 0)].any()
    changed = {path for path, weights in kernels(end).items() if np.any(weights != start[path])}
    assert changed and not any(path.startswith("conv1/") for path in changed)
    biases = end.keys() - kernels(end).keys()
    for path in biases:
        np.testing.assert_array_equal(end[path], end[path].astype(np.float16).astype(np.float32))
        assert np.any(end[path] != start[path]) != path.startswith("conv1/")
    trained = dataclasses.replace(
        load_network(directory), params=replace_leaves(load_network(directory).params, end)
    )
    assert len(container.lossless(trained)) <= 1.03 * len(data) + 2 * sum(
        end[path].size for path in biases
    )


def test_a_net_on_no_grid_is_refused_before_training(config, digits, tmp_path):
    config.train.qat = True
    compiled = compile_trial(TrialConfig.parse(config), digits, jax.devices())
    with pytest.raises(UserError, match="no kernel is a multiple of one step"):
        train(compiled, TrialConfig.parse(config), digits, tmp_path / "trial")


def test_one_compiled_trial_starts_from_any_checkpoint(config, digits, checkpoint):
    """It is built without one, and each trial brings its own; a fraction of 1 keeps its zeros."""
    config.train.prune_density = (("*", 1.0),)
    compiled = compile_trial(TrialConfig.parse(config), digits, jax.devices())
    fresh = leaves_by_path(compiled.initial_state(TrialConfig.parse(config)).params)
    config.train.init_from = str(checkpoint)
    state = compiled.initial_state(TrialConfig.parse(config))
    for path, weights in leaves_by_path(load_network(checkpoint).params).items():
        np.testing.assert_array_equal(leaves_by_path(state.params)[path], weights)
    assert np.all(fresh["fire2/squeeze/kernel"] != 0)
    masks = [
        leaf for leaf in jax.tree.leaves(jax.device_get(state.opt_state)) if leaf.dtype == bool
    ]
    assert sorted((mask.size, int(mask.sum())) for mask in masks) == sorted(
        (weights.size, np.count_nonzero(weights))
        for weights in kernels(leaves_by_path(state.params)).values()
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prune_density": (("fire9", 0.5),)}, "no layer is called 'fire9'"),
        ({"prune_density": (("*", 1.1),)}, "1.1"),
        ({"codebook_bits": 9}, "codebook_bits is 0 to 8; got 9"),
        ({"codebook_bits": -1}, "got -1"),
        ({"codebook_bits": 4, "qat": True}, "set one"),
        ({"ema_decay": 0.9, "qat": True}, "train.ema_decay averages weights.*; set one"),
    ],
)
def test_bad_settings_are_one_clear_line(config, digits, changes, words):
    config.train.update(changes)
    with pytest.raises(UserError, match=words):
        check_config(TrialConfig.parse(config), digits, jax.devices())
