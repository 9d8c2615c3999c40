"""Sensitivity to pruning against nets pruned and evaluated one by one."""

import dataclasses
import json

import pytest

from squeeze_jax import cli
from squeeze_jax.compress.prune import prune
from squeeze_jax.data import evaluation_data, load_split
from squeeze_jax.network import Network, Preprocessing, build_model, leaves_by_path, split_model
from squeeze_jax.train import evaluation
from squeeze_jax.train.checkpoint import save_network
from squeeze_jax.train.sensitivity import sensitivity

FRACTIONS = [0.1, 0.6]


@pytest.fixture
def net(config):
    _, params, stats = split_model(build_model(config.model, 10, seed=1))
    return Network(
        config.model.to_dict(),
        tuple("0123456789"),
        Preprocessing.from_metadata(config.data),
        params,
        stats,
    )


@pytest.fixture
def data(net):
    return evaluation_data(load_split("digits", "", None), net.preprocessing)


@pytest.mark.slow
def test_sensitivity_is_that_of_nets_pruned_one_by_one(net, data):
    ticks = []
    result = sensitivity(net, data, FRACTIONS, 1.0, 180, lambda: ticks.append(1))
    assert (
        result["images"] == 360
        and result["top1"] == evaluation.evaluate(net.classifier(), data)["top1"]
    )
    weights = {layer["name"]: layer["weights"] for layer in result["layers"]}
    assert weights == {
        path.removesuffix("/kernel"): leaf.size
        for path, leaf in leaves_by_path(net.params).items()
        if path.endswith("kernel")
    }
    assert len(ticks) == 2 * (len(weights) * len(FRACTIONS) + 1)
    for layer in [
        layer for layer in result["layers"] if layer["name"] in ("conv10", "fire2/expand3x3")
    ]:
        for fraction in FRACTIONS:
            alone = dataclasses.replace(net, params=prune(net.params, [(layer["name"], fraction)]))
            assert (
                layer["top1"][str(fraction)]
                == evaluation.evaluate(alone.classifier(), data)["top1"]
            )


@pytest.mark.parametrize("max_loss", [0.0, 2.0, 100.0])
def test_keep_has_the_smallest_fractions_within_the_loss(net, data, max_loss):
    result = sensitivity(net, data, FRACTIONS, max_loss)
    keep = dict(result["keep"])
    for layer in result["layers"]:
        within = [
            fraction
            for fraction in FRACTIONS
            if layer["top1"][str(fraction)] > result["top1"] - max_loss - 0.01
        ]
        assert keep.get(layer["name"]) == min(within, default=None)


def test_the_command_prints_what_train_keep_takes(net, tmp_path, monkeypatch, capsys):
    """The last line is a flag of launch.py whose pairs `prune` accepts; JSON has the same."""
    save_network(net, tmp_path / "net")
    outputs = []
    for style in ("text", "json"):
        arguments = [
            "sensitivity",
            str(tmp_path / "net"),
            "--data",
            "digits",
            "--fractions",
            "0.6,0.1",
            "--max-drop",
            "100",
        ]
        monkeypatch.setattr("sys.argv", ["squeeze-jax", *arguments, "--format", style])
        assert cli.main() == 0
        outputs.append(capsys.readouterr().out)
    flag, _, value = outputs[0].splitlines()[-1].partition("=")
    keep = json.loads(outputs[1])["keep"]
    assert flag == "--config.train.prune_density" and value == f'"{tuple(map(tuple, keep))}"'
    assert {fraction for _, fraction in keep} == {0.1}
    prune(net.params, keep)


@pytest.mark.parametrize("fractions", ["", "0.5,x", "0,0.5", "0.5,1"])
def test_fractions_that_can_not_be_meant(tmp_path, fractions, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["squeeze-jax", "sensitivity", str(tmp_path), "--fractions", fractions]
    )
    assert cli.main() == 2
    assert "between 0 and 1" in capsys.readouterr().err
