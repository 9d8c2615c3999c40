"""One toy of each kind, added from outside the package, is seen wherever its kind is listed."""

import csv
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from squeeze_jax import cli, models, study
from squeeze_jax.compress.sqz.coders import CODERS
from squeeze_jax.configs import base
from squeeze_jax.convert import EXPORTERS, IMPORTERS
from squeeze_jax.convert.imported import Imported
from squeeze_jax.convert.options import Option
from squeeze_jax.data import AUGMENTATIONS, SOURCES, ArraySource
from squeeze_jax.models import FAMILIES, initializers, layers
from squeeze_jax.models.family import Family, Variant
from squeeze_jax.network import Network, Preprocessing, build_model, split_model
from squeeze_jax.report import page
from squeeze_jax.study.columns import COLUMNS, Column
from squeeze_jax.study.executors import EXECUTORS
from squeeze_jax.study.plan import Plan
from squeeze_jax.study.samplers import SAMPLERS
from squeeze_jax.train.checkpoint import load_network, save_network
from squeeze_jax.train.optimizers import OPTIMIZERS
from squeeze_jax.train.trackers import TRACKERS

CLASSES = ("dark", "light")


class ToyNet(nnx.Module):
    """The mean of an image, through one dense layer."""

    def __init__(self, *, num_classes: int = 2, toy_width: int = 3, rngs: nnx.Rngs):
        init = initializers.fan_in(2.0, "gaussian")
        self.hidden = layers.Dense(3, toy_width, bias=True, kernel_init=init, rngs=rngs)
        self.out = layers.Dense(toy_width, num_classes, bias=True, kernel_init=init, rngs=rngs)

    def __call__(self, x, *, train=False, key=None):
        x = jnp.mean(x, axis=(1, 2))
        return self.out(jax.nn.relu(self.hidden(x))).astype(jnp.float32)


class ToySampler:
    """Takes the largest value of each axis, one smaller each time."""

    learns = False

    def __init__(self, space):
        self.space, self.quantiles = space, iter(np.linspace(0.99, 0, 5))

    def ask(self):
        quantile = next(self.quantiles)
        return {key: axis.value(quantile) for key, axis in self.space.items()}

    def tell(self, design, values): ...

    def refuse(self, design): ...


def toy_source(name: str) -> ArraySource:
    random = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = random.integers(0, 100, (64, 8, 8, 3)) + 150 * labels[:, None, None, None]
    return ArraySource(f"toy/{name}", CLASSES, images.clip(0, 255).astype(np.uint8), labels)


@pytest.fixture
def seen(monkeypatch):
    """Registers a toy of each kind; returns what they were called with."""
    seen = {"augmented": 0, "tracked": [], "executed": []}

    def darken(image, key, config):
        seen["augmented"] += 1  # once a trace
        return image * 0.9

    def execute(plan):
        seen["executed"].append(plan.workdir.name)
        return EXECUTORS["local"](plan)

    source = SimpleNamespace(
        load=lambda config: (toy_source("train"), toy_source("eval")),
        load_split=lambda config, split: toy_source(split or "eval"),
    )
    tracker = SimpleNamespace(write=seen["tracked"].append, finish=lambda result: None)
    exporter = SimpleNamespace(
        NAME="toy",
        SUFFIX=".toy",
        OPTIONS={"toy_level": Option(int, 1, "how much of a toy it is")},
        write=lambda network, options: b"toy %d" % options["toy_level"],
        open=lambda content: load_network(seen["network"]).classifier(),
    )
    importer = SimpleNamespace(
        NAME="toy weights",
        SUFFIXES=(".toyweights",),
        recognizes=lambda head: head.startswith(b"toy"),
        read=lambda path, wanted: Imported(toy_network(), is_described=True),
    )
    family = Family(ToyNet, {"toy_net": Variant({}, 8)})
    huffman = CODERS["huffman"]
    monkeypatch.setitem(FAMILIES, "toy", family)
    monkeypatch.setitem(SOURCES, "toy", source)
    monkeypatch.setitem(OPTIMIZERS, "toy", lambda config, rate: (optax.sgd(rate),))
    monkeypatch.setitem(AUGMENTATIONS, "toy", darken)
    monkeypatch.setitem(TRACKERS, "toy", lambda trial: tracker)
    monkeypatch.setitem(CODERS, "toy", huffman._replace(flag=4))
    monkeypatch.setitem(EXECUTORS, "toy", execute)
    monkeypatch.setitem(SAMPLERS, "toy", lambda *of_space: ToySampler(of_space[0]))
    monkeypatch.setitem(COLUMNS, "toy_cost", Column("Toys", ",.0f", "design", is_cost=True))
    monkeypatch.setitem(EXPORTERS, "toy", exporter)
    monkeypatch.setitem(IMPORTERS, ".toyweights", importer)
    return seen


def toy_network() -> Network:
    model = {"name": "toy_net"}
    _, params, stats = split_model(build_model(model, 2))
    preprocessing = Preprocessing(8, 8, "squash", "rgb", (127.5,) * 3, (127.5,) * 3)
    return Network(model, CLASSES, preprocessing, params, stats)


def run(capsys, *arguments) -> str:
    """Runs `squeeze-jax`; --help exits by itself."""
    try:
        assert cli.main([str(argument) for argument in arguments]) == 0
    except SystemExit as e:
        assert e.code == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_study_of_toys_from_the_config_to_the_report(seen, tmp_path):
    config = base.defaults()
    assert "toy_width" in config.model  # the constructor's signature is the list of options
    config.update(study="toys", preset="toy")
    config.model.update(name="toy_net", toy_width=4)
    config.data.update(name="toy", resize=8, image_size=8, augment=("toy",))
    config.train.update(optimizer="toy", trackers=("toy",), steps=30, batch_size=16, log_every=5)
    config.compress.coders = ("toy",)
    config.report.update(x="model.toy_width", label="width")
    points = [{"model.toy_width": 4, "seed": seed} for seed in range(2)]
    plan = Plan(config, study.make_trials(config, lambda config: points), tmp_path, "test")
    assert EXECUTORS["toy"](plan) == 0
    assert seen["executed"] == [tmp_path.name] and seen["augmented"] > 0
    assert [record["step"] for record in seen["tracked"] if "loss" in record][:2] == [5, 10]
    for trial in plan.trials:  # a column's value stands in a trial's result
        workdir = study.workdir.Workdir(tmp_path)
        workdir.write_result(trial.name, workdir.read_result(trial.name) | {"toy_cost": 7})
    page.draw(workdir.write_table().parent)
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["toy_cost"] for row in rows] == ["7", "7"]
    assert all(int(row["bytes_toy"]) > 0 for row in rows if row["status"] == "ok")
    report = (tmp_path / "report.html").read_text()
    assert "Toys" in report and "width" in report


def test_a_space_of_toys(seen, tmp_path):
    config = base.get_config("digits", "toys")
    config.search = base.search(sampler="toy", designs=3)
    axes = {"model.base_e": study.Uniform(8, 64, step=8)}
    module = SimpleNamespace(space=lambda config: axes)
    config.seeds = 1
    plan = Plan.of(module, config, (), tmp_path, command="test")
    assert [trial.config.model.base_e for trial in plan.trials] == [64, 48, 32]


def test_help_and_commands_know_the_toys(seen, tmp_path, capsys):
    seen["network"] = tmp_path / "toy"
    save_network(toy_network(), seen["network"])
    assert "toy_net" in models.model_names()
    assert "toy_net" in run(capsys, "summary", "--list")
    help_text = run(capsys, "export", "--help")
    assert "toy" in help_text and "--toy-level" in help_text
    assert ".toyweights" in run(capsys, "import", "--help")
    assert "toy" in run(capsys, "compress", "--help")
    out = tmp_path / "net.toy"
    run(capsys, "export", seen["network"], "--format", "toy", "--toy-level", 3, "-o", out)
    assert out.read_bytes() == b"toy 3"
    assert "images" in run(capsys, "evaluate", out, "--data", "toy")
    (tmp_path / "a.toyweights").write_bytes(b"")
    run(capsys, "import", tmp_path / "a.toyweights", "-o", tmp_path / "again")
    assert load_network(tmp_path / "again").model["name"] == "toy_net"
