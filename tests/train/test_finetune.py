"""Transfer learning: what comes from the checkpoint, what is drawn anew, and what is frozen."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from squeeze_jax.api import load
from squeeze_jax.configs import base, finetune
from squeeze_jax.data import ArraySource
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, build_model, split_model
from squeeze_jax.study.trials import set_key
from squeeze_jax.train import (
    TrialConfig,
    check_config,
    compile_trial,
    describe_start,
    fill_from_checkpoint,
    train,
)
from squeeze_jax.train.checkpoint import Checkpoints, load_network, save_network
from squeeze_jax.train.constraints import frozen_labels

DIGITS = tuple(str(digit) for digit in range(10))
LETTERS = tuple("abc")


@pytest.fixture
def net(config):
    """An untrained net of the small design point, with statistics away from their start."""
    config.model.batch_norm = True
    _, params, stats = split_model(build_model(config.model, 10, seed=7))
    stats = jax.tree.map(lambda x: x + np.float32(0.25), stats)
    return Network(
        config.model.to_dict(), DIGITS, Preprocessing.from_metadata(config.data), params, stats
    )


@pytest.fixture
def checkpoint(net, tmp_path):
    save_network(net, tmp_path / "net")
    return str(tmp_path / "net")


@pytest.fixture
def letters(digits):
    """The digits 0, 1 and 2 under other names."""

    def renamed(arrays):
        rows = arrays["label"] < 3
        arrays = {name: values[rows] for name, values in arrays.items()}
        return ArraySource("letters", LETTERS, arrays["image"], arrays["label"]), arrays

    (train_source, train_device_data), (eval_source, eval_device_data) = map(
        renamed, (digits.train_device_data, digits.eval_device_data)
    )
    return dataclasses.replace(
        digits,
        train_source=train_source,
        eval_source=eval_source,
        train_device_data=train_device_data,
        eval_device_data=eval_device_data,
    )


def leaves(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def as_json(net):
    return json.loads(json.dumps(net.metadata()))


def start(config, data):
    state = compile_trial(TrialConfig.parse(config), data, jax.devices()).initial_state(
        TrialConfig.parse(config)
    )
    return leaves((state.params, state.stats))


def test_saved_and_loaded_is_the_same_net(net, checkpoint, tmp_path):
    loaded = load_network(tmp_path / "net")
    assert loaded.metadata() == as_json(net)
    assert leaves((loaded.params, loaded.stats)).keys() == leaves((net.params, net.stats)).keys()
    for path, leaf in leaves((loaded.params, loaded.stats)).items():
        np.testing.assert_array_equal(leaf, leaves((net.params, net.stats))[path])


def test_what_the_config_leaves_open_comes_from_the_checkpoint(net, checkpoint):
    config = finetune.get_config("folder")
    config.train.init_from = checkpoint
    config.data.image_size = 28
    config = fill_from_checkpoint(config)
    assert json.loads(json.dumps(config.model.to_dict())) == as_json(net)["model"]
    assert (
        config.data.resize == net.preprocessing.resize
        and tuple(config.data.mean) == net.preprocessing.mean
    )
    assert config.data.image_size == 28


def test_options_that_are_set_go_before_the_checkpoints(net, checkpoint):
    config = finetune.get_config("folder")
    config.train.init_from = checkpoint
    config.model.num_fire = 1
    filled = json.loads(fill_from_checkpoint(config).model.to_json())
    assert filled == {**as_json(load_network(Path(checkpoint)))["model"], "num_fire": 1}


@pytest.mark.parametrize(("batch_norm", "rate"), [(False, 0.001), (True, 0.01)])
def test_the_learning_rate_is_one_for_the_checkpoints_kind_of_net(
    config, tmp_path, batch_norm, rate
):
    config.model.batch_norm = batch_norm
    _, *weights = split_model(build_model(config.model, 10, seed=7))
    preprocessing = Preprocessing.from_metadata(config.data)
    save_network(Network(config.model.to_dict(), DIGITS, preprocessing, *weights), tmp_path / "net")
    tuned = finetune.get_config("folder")
    tuned.train.init_from = str(tmp_path / "net")
    assert fill_from_checkpoint(tuned).train.learning_rate == rate
    tuned.train.optimizer = "sgd"
    with pytest.raises(UserError, match="which learning rate for sgd"):
        fill_from_checkpoint(tuned)
    tuned.train.learning_rate = 0.3
    assert fill_from_checkpoint(tuned).train.learning_rate == 0.3


def test_a_net_of_colours_starts_on_grey_images_with_what_it_knows(net, digits, config, tmp_path):
    """Grey images in grey and in colour have the same logits where the means are equal."""
    in_colour = dataclasses.replace(
        net,
        preprocessing=dataclasses.replace(net.preprocessing, mean=(100.0,) * 3, std=(40, 50, 60)),
    )
    save_network(in_colour, tmp_path / "net")
    tuned = finetune.get_config("digits")
    tuned.train.init_from = str(tmp_path / "net")
    tuned.data.channel_order = "grey"
    tuned = TrialConfig.parse(fill_from_checkpoint(tuned))
    np.testing.assert_allclose(tuned.data.mean, (100.0,))
    np.testing.assert_allclose(tuned.data.std, (0.299 * 40 + 0.587 * 50 + 0.114 * 60,))
    state = compile_trial(tuned, digits, jax.devices()).initial_state(tuned)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 1)).astype(np.float32)
    grey, colour = (
        (pixels - 100) / np.array(std, np.float32) for std in (tuned.data.std, (40, 50, 60))
    )
    start = dataclasses.replace(
        net, model={**net.model, "in_channels": 1}, params=state.params, stats=state.stats
    )
    np.testing.assert_allclose(
        start.module()(grey), in_colour.module()(colour), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["net.sqz", "net.safetensors"])
def test_a_file_of_weights_is_a_checkpoint_too(net, checkpoint, config, letters, tmp_path, name):
    loaded = load(checkpoint)
    loaded.compress(tmp_path / name) if name == "net.sqz" else loaded.export(tmp_path / name)
    config.train.init_from = str(tmp_path / name)
    found, given = start(config, letters), leaves((net.params, net.stats))
    assert {path for path in found if not np.array_equal(found[path], given[path])} == {
        path for path in found if "conv10" in path
    }


def test_a_file_that_does_not_tell_is_of_the_configs_model(net, config, letters, tmp_path, capsys):
    """What was changed and assumed is said once, though two trials start from it."""
    from squeeze_jax.convert.state_dict import state_dict

    arrays = {f"module.{k}": v for k, v in state_dict(net, "squeeze_jax").items()}
    safetensors.numpy.save_file(arrays, tmp_path / "net.safetensors")
    config.train.init_from = str(tmp_path / "net.safetensors")
    found, given = start(config, letters), leaves((net.params, net.stats))
    start(config, letters)
    np.testing.assert_array_equal(found["[0]['conv1']['kernel']"], given["[0]['conv1']['kernel']"])
    changed, assumed = capsys.readouterr().err.splitlines()
    assert "net.safetensors: changed: without the prefix 'module.'" in changed
    assert "net.safetensors: assumed, as the file does not tell: --image-size 224" in assumed


def test_a_sweep_may_set_the_shape_that_the_checkpoint_gave(checkpoint):
    config = finetune.get_config("digits")
    config.train.init_from = str(checkpoint)
    config = fill_from_checkpoint(config)
    assert config.data.image_size == 32
    for size in ((40, 28), 24):
        set_key(config, "data.image_size", size)
        assert config.data.image_size == size


def test_a_config_that_is_complete_stays_as_it_is():
    config = base.get_config("digits", "test")
    assert fill_from_checkpoint(config) is config


def test_other_classes_draw_the_classifier_anew(config, net, checkpoint, letters):
    fresh = leaves(split_model(build_model(config.model, 3, config.seed))[1:])
    config.train.init_from = checkpoint
    found, given = start(config, letters), leaves((net.params, net.stats))
    for path, leaf in found.items():
        np.testing.assert_array_equal(
            leaf, fresh[path] if "conv10" in path else given[path], err_msg=path
        )


def test_the_same_classes_keep_the_classifier(config, net, checkpoint, digits):
    config.train.init_from = checkpoint
    found, given = start(config, digits), leaves((net.params, net.stats))
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, given[path], err_msg=path)


@pytest.mark.slow
def test_frozen_layers_and_their_statistics_stay(config, net, checkpoint, letters, tmp_path):
    config.train.update(init_from=checkpoint, freeze=("conv1", "fire2/squeeze"), learning_rate=0.05)
    compiled = compile_trial(TrialConfig.parse(config), letters, jax.devices())
    train(compiled, TrialConfig.parse(config), letters, tmp_path / "trial")
    with Checkpoints(tmp_path / "trial/checkpoints") as checkpoints:
        state = jax.device_get(checkpoints.restore(compiled.initial_shapes))
    given = leaves((net.params, net.stats))
    for path, leaf in leaves((state.params, state.stats)).items():
        frozen = "'conv1'" in path or "'fire2']['squeeze'" in path
        assert frozen == (leaf.shape == given[path].shape and np.array_equal(leaf, given[path])), (
            path
        )


def test_frozen_parameters_count_in_no_norm(config, letters):
    """The optimizer keeps no state for them."""
    config.train.freeze = ("conv1", "fire*")
    state = compile_trial(TrialConfig.parse(config), letters, jax.devices()).initial_state(
        TrialConfig.parse(config)
    )
    momenta = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(momenta) == sorted(leaf.shape for leaf in jax.tree.leaves(state.params["conv10"]))


@pytest.mark.parametrize(
    ("patterns", "frozen"), [(["fire2"], 6), (["fire[23]/squeeze"], 4), (["conv1", "fire*"], 14)]
)
def test_patterns(config, patterns, frozen):
    config.model.batch_norm = False
    _, params, _ = split_model(build_model(config.model, 10))
    assert jax.tree.leaves(frozen_labels(params, patterns)).count("frozen") == frozen


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"freeze": ("fire9",)},
            r"no layer is called 'fire9'; there are conv1, conv10, fire2, fire3",
        ),
        ({"freeze": ("*",)}, "nothing to train"),
        ({"init_from": "/nowhere"}, "/nowhere is no checkpoint"),
    ],
)
def test_bad_settings_are_one_clear_line(config, digits, change, words):
    config.train.update(**change)
    with pytest.raises(UserError, match=words):
        check_config(TrialConfig.parse(config), digits, jax.devices())


def test_swapped_colours_are_refused(config, checkpoint, digits):
    config.train.init_from = checkpoint
    config.data.channel_order = "bgr"
    with pytest.raises(UserError, match="sees RGB images, and data.channel_order is bgr; set"):
        check_config(TrialConfig.parse(config), digits, jax.devices())


def test_another_design_point_is_named(config, checkpoint, digits):
    config.model.base_e = 12
    config.train.init_from = checkpoint
    with pytest.raises(
        UserError, match=r"another design point: conv10/kernel and \d+ more do not fit"
    ):
        check_config(TrialConfig.parse(config), digits, jax.devices())


def test_a_shallower_net_starts_from_the_first_layers(config, net, letters, checkpoint):
    config.model.update(num_fire=config.model.num_fire - 1, batch_norm=True)
    config.train.init_from = checkpoint
    last = f"fire{config.model.num_fire + 2}"
    known, begun = leaves((net.params, net.stats)), start(config, letters)
    left = {path for path in known if last in path}
    assert left and begun.keys() == known.keys() - left
    for path in begun:
        if "conv10" not in path:
            np.testing.assert_array_equal(begun[path], known[path])
    note = describe_start(TrialConfig.parse(config), letters)
    assert note == f"{checkpoint}: without its {last}, which this design point lacks"


def test_a_config_that_needs_a_checkpoint_asks_for_one():
    config = base.get_config("digits", "test")
    config.model = ConfigDict({"name": None})
    with pytest.raises(UserError, match="which network"):
        fill_from_checkpoint(config)


def test_damaged_checkpoints_are_one_clear_line(checkpoint, tmp_path):
    largest = max(
        (tmp_path / "net/checkpoints").rglob("*"),
        key=lambda path: path.stat().st_size if path.is_file() else 0,
    )
    largest.write_bytes(b"\0" * largest.stat().st_size)
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        load_network(tmp_path / "net")
    (tmp_path / "net/config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_network(tmp_path / "net")


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("", {"model": []}),
        ("", {"model": "x"}),
        ("", {"class_names": ["a", "b", "c"]}),
        ("data", {"image_size": [32]}),
        ("data", {"image_size": 0}),
        ("data", {"image_size": 1_000_000}),
        ("data", {"channel_order": "xyz"}),
        ("data", {"resize_mode": "q"}),
        ("data", {"mean": "abc"}),
        ("data", {"mean": [1]}),
        ("data", {"mean": [10**400] * 3}),
        ("data", {"std": [0, 0, 0]}),
        ("data", {"background": [300, 0, 0]}),
    ],
)
def test_what_a_checkpoint_says_is_checked(checkpoint, section, change):
    path = Path(checkpoint) / "config.json"
    record = json.loads(path.read_text())
    (record[section] if section else record).update(change)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="config.json is damaged, or no trial's"):
        load_network(Path(checkpoint))
