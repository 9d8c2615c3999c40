"""The Python API beside the command line, and what importing the package costs."""

import ast
import dataclasses
import subprocess
import sys
import weakref

import jax
import numpy as np
import pytest
from flax import nnx

import squeeze_jax
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, build_model, split_model


@pytest.fixture
def network(tmp_path):
    """A checkpoint of a small network with ten classes, opened by path."""
    model = {"name": "squeezenet_v1_1", "base_e": 8, "incr_e": 8}
    _, params, stats = split_model(build_model(model, num_classes=10))
    names = tuple(f"digit {i}" for i in range(10))
    preprocessing = Preprocessing(
        48, 52, "short", "rgb", mean=(120.0, 110.0, 100.0), std=(60.0, 60.0, 60.0)
    )
    squeeze_jax.LoadedNetwork(tmp_path, Network(model, names, preprocessing, params, stats)).save(
        tmp_path / "net"
    )
    return squeeze_jax.load(tmp_path / "net")


def test_photographs_are_not_kept_while_others_are_classified(network, monkeypatch):
    seen, alive = [], []

    def decode(*_):
        alive.append(sum(reference() is not None for reference in seen))
        photograph = np.zeros((400, 300, 3), np.uint8)
        seen.append(weakref.ref(photograph))
        return photograph

    monkeypatch.setattr("squeeze_jax.api.decode", decode)
    assert len(network.predict(["a.jpg"] * 4, top=2)) == 4
    assert max(alive) <= 1


def test_importing_the_package_loads_none_of_its_libraries():
    """The import stays quick since it is lazy: JAX alone takes longer than 0.2 s."""
    code = (
        "import sys, squeeze_jax; squeeze_jax.__version__; dir(squeeze_jax);"
        "print(sorted({m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names))"
    )
    before = subprocess.check_output([sys.executable, "-c", code.replace("squeeze_jax", "json")])
    after = subprocess.check_output([sys.executable, "-c", code])
    assert set(ast.literal_eval(after.decode())) - set(ast.literal_eval(before.decode())) <= {
        "squeeze_jax"
    }


def test_every_public_name_is_there():
    assert all(hasattr(squeeze_jax, name) for name in squeeze_jax.__all__)
    assert set(squeeze_jax.__all__) <= set(dir(squeeze_jax))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        squeeze_jax.lod  # noqa: B018


def test_build_and_trace_count_the_parameters_of_the_paper():
    """SqueezeNet paper, Table 1: 1,248,424 parameters."""
    layers = squeeze_jax.trace(lambda: squeeze_jax.build("squeezenet_v1_0"), (227, 227, 3))
    assert sum(layer.parameters for layer in layers) == 1_248_424


@pytest.mark.slow
def test_trace_takes_a_module_of_ones_own():
    module = nnx.Conv(3, 5, (3, 3), padding="VALID", rngs=nnx.Rngs(0))
    (layer,) = squeeze_jax.trace(module, (10, 8, 3))
    assert layer.parameters == 3 * 3 * 3 * 5 + 5
    assert layer.macs == 8 * 6 * 5 * 27


@pytest.mark.slow
def test_predict_orders_the_classes_and_takes_arrays(network):
    images = np.random.default_rng(0).integers(0, 256, (2, 50, 60, 3), np.uint8)
    predictions = network.predict(images, top=10)
    for row in predictions:
        assert [p.probability for p in row] == sorted((p.probability for p in row), reverse=True)
        assert sum(p.probability for p in row) == pytest.approx(1, abs=1e-5)
        assert {p.class_name for p in row} == {f"digit {i}" for i in range(10)}
    assert network.predict([images[1]], top=1)[0] == predictions[1][:1]


@pytest.mark.slow
def test_files_of_a_network_answer_as_it_does(network, tmp_path):
    """A lossless .sqz file to the last digit, an exported file to rounding."""
    image = [np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)]
    written = network.compress(tmp_path / "net.sqz")
    assert written.num_bytes == (tmp_path / "net.sqz").stat().st_size
    assert squeeze_jax.load(written.path).predict(image) == network.predict(image)
    assert network.export(tmp_path / "net.onnx").deviation < 1e-4
    exported = squeeze_jax.load(tmp_path / "net.onnx")
    assert exported.class_names == network.class_names
    for ours, theirs in zip(network.predict(image)[0], exported.predict(image)[0], strict=True):
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-5)
    with pytest.raises(UserError, match="can only be run"):
        exported.compress(tmp_path / "again.sqz")


def test_summary_is_the_sum_of_its_layers(network):
    summary = network.summary()
    assert summary["params"] == sum(leaf.size for leaf in jax.tree.leaves(network.network.params))
    assert summary["params"] == sum(layer["parameters"] for layer in summary["layers"])
    assert summary["macs"] == sum(layer["macs"] for layer in summary["layers"])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: squeeze_jax.build("squeezenet_v9"), "squeezenet_v9"),
        (lambda: squeeze_jax.build("squeezenet_v1_1", squeeze_ratio=-1), "squeeze_ratio"),
        (lambda: squeeze_jax.load("no/such/net"), "no/such/net"),
        (lambda: squeeze_jax.read_study("no/such/study"), "no/such/study"),
        (lambda: squeeze_jax.run_study("no_such_study"), "no_such_study"),
        (
            lambda: squeeze_jax.run_study("sr_sweep", executor="slurm"),
            "executor is one of local, jobs, ray; got slurm",
        ),
        (
            lambda: squeeze_jax.run_study("sr_sweep", executor="ray", jobs=2),
            "jobs goes with executor jobs, not ray",
        ),
        (
            lambda: squeeze_jax.run_study("sr_sweep", trial_resources={"CPU": 1}),
            "trial_resources goes with executor ray, not local",
        ),
        (lambda: squeeze_jax.run_study("sr_sweep", overrides={"train.epoch": 1}), "train.epoch"),
    ],
)
def test_errors_are_one_line_that_names_the_value(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_folder_without_its_kind_is_not_taken_for_the_data_of_training(
    network, tmp_path, monkeypatch
):
    monkeypatch.setattr(squeeze_jax.LoadedNetwork, "training_data", {"name": "digits"})
    with pytest.raises(UserError, match="which data are in photos"):
        network.evaluate(data_dir="photos")
    with pytest.raises(UserError, match="which data are in photos"):
        network.compress(tmp_path / "net.sqz", target_bytes=9000, data_dir="photos")


def test_one_goal_of_compression_at_a_time(network, tmp_path):
    with pytest.raises(UserError, match="bits and max_loss contradict each other"):
        network.compress(tmp_path / "net.sqz", bits=4, max_loss=0.1)


@pytest.mark.parametrize("goal", [{"bits": 4}, {"target_bytes": 9000}, {"max_loss": 0.1}])
def test_weights_that_are_no_numbers_are_not_rounded(network, tmp_path, goal):
    whole = network.whole()
    params = jax.tree.map(lambda x: np.full_like(x, np.nan), whole.params)
    broken = squeeze_jax.LoadedNetwork(network.path, dataclasses.replace(whole, params=params))
    with pytest.raises(UserError, match="its weights are not all finite numbers"):
        broken.compress(tmp_path / "net.sqz", **goal)
