"""Every registered model against its golden counts, and what is wrong with a name or an option."""

import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from squeeze_jax import models
from squeeze_jax.cost import trace
from squeeze_jax.errors import UserError
from squeeze_jax.models import Family, Variant

COUNTS = json.loads((Path(__file__).parents[1] / "golden/counts.json").read_text())


def abstract(name, **options):
    """The module with shapes in place of weights."""
    return nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **options))


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", COUNTS, ids=lambda row: f"{row['model']}-{row['options']}-{row['input_size']}"
)
def test_parameters_are_golden(row):
    assert trace.parameter_count(abstract(row["model"], **row["options"])) == row["params"]


def test_every_registered_model_has_golden_counts():
    assert {row["model"] for row in COUNTS} == set(models.model_names())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("squeezenet_v12", {}, "no model 'squeezenet_v12'; did you mean squeezenet_v1_"),
        ("squeezenet_v1_0", {"sqeeze": 1}, "no option sqeeze; did you mean squeeze_ratio"),
        ("squeezenet_v1_0", {"bypass": "double"}, "none, simple or complex"),
        ("squeezenet_v1_0", {"pct3x3": 1.5}, "model.pct3x3 is 0 to 1; got 1.5"),
        ("squeezenet_v1_0", {"squeeze_ratio": 0.0}, "above 0"),
        ("squeezenet_v1_0", {"base_e": 1}, "model.base_e is 2 to 16,777,216; got 1"),
        ("squeezenet_v1_0", {"pool_after": ("fire99",)}, "fire99"),
        ("squeezenet_v1_0", {"squeeze_ratio": float("nan")}, "model.squeeze_ratio is above 0 and"),
        ("squeezenet_v1_0", {"dropout": 1.5}, "model.dropout is at least 0 and below 1; got 1.5"),
        ("squeezenet_v1_0", {"conv1_stride": 0}, "model.conv1_stride is 1 to 4,096; got 0"),
        ("squeezenet_v1_0", {"num_fire": -1}, "model.num_fire is 0 to"),
        ("squeezenet_v1_0", {"base_e": "x"}, "model.base_e is an int; got 'x'"),
        ("squeezenext_23", {"conv1_kernel": 0}, "model.conv1_kernel is 1 to"),
        ("squeezenext_23", {"groups": 0}, "model.groups is 1 to"),
        (
            "mobilenet_v1",
            {"width": float("inf")},
            "model.width is above 0 and at most 64; got inf",
        ),
        ("squeezenext_23", {"blocks": (1, "a", 2, 1)}, "each item of model.blocks is an int"),
        ("squeezenext_23", {"blocks": (1, 1, 0, 1)}, "each item of model.blocks is 1 to"),
        ("squeezenext_23", {"blocks": 4}, "model.blocks is a tuple of ints; got 4"),
        ("squeezenet_v1_0", {"pool_after": (1, 2)}, "each item of model.pool_after is a str"),
        ("squeezenet_v1_0", {"batch_norm": "yes"}, "model.batch_norm is a bool; got 'yes'"),
        ("vgg16", {"dropout": -0.5}, "model.dropout is at least 0"),
        ("squeezenet_v1_0", {"init": "zero"}, "xavier"),
    ],
)
def test_a_bad_option_is_one_clear_line(name, options, words):
    with pytest.raises(UserError, match=words):
        models.create(name, rngs=nnx.Rngs(0), **options)


def test_every_number_of_a_family_has_a_range():
    for family in models.FAMILIES.values():
        numbers = {name for name, kind in family.options().items() if kind in (int, float)}
        for name in numbers - {"depth", "version"}:  # these have choices
            assert "Range" in str(family.annotations()[name])


def test_numbers_of_numpy_are_numbers():
    model = models.create(
        "squeezenet_v1_1", rngs=nnx.Rngs(0), base_e=np.int64(8), dropout=np.float32(0.5)
    )
    assert model.dropout == 0.5


def test_none_keeps_the_default():
    assert (
        trace.parameter_count(abstract("squeezenet_v1_1", squeeze_ratio=None, conv1_filters=None))
        == 1_235_496
    )


class Toy(nnx.Module):
    """A family from outside the package."""

    def __init__(self, *, num_classes: int = 10, wings: int = 2, rngs: nnx.Rngs):
        self.num_classes, self.wings = num_classes, wings


def test_a_family_from_outside(monkeypatch):
    variants = {"toy_v1": Variant(), "toy_v2": Variant(dict(wings=4), input_size=8)}
    monkeypatch.setitem(models.FAMILIES, "toy", Family(Toy, variants))
    assert models.model_names()[-2:] == ["toy_v1", "toy_v2"]
    assert models.find("toy_v2")[1].input_size == 8
    assert models.model_options()["wings"] is int
    assert models.create("toy_v2", rngs=nnx.Rngs(0)).wings == 4
    assert models.create("toy_v2", rngs=nnx.Rngs(0), wings=6).wings == 6
    with pytest.raises(UserError, match="toy_v2"):
        models.create("toy_v3", rngs=nnx.Rngs(0))


def test_names_are_unique():
    names = models.model_names()
    assert len(names) == len(set(names))


def test_options_of_all_families_have_one_type_each(monkeypatch):
    found = models.model_options()
    assert "num_classes" not in found and "rngs" not in found
    kinds = {"freq": int, "squeeze_ratio": float, "bypass": str, "batch_norm": bool}
    kinds |= {"depth": int, "blocks": tuple, "pool_after": tuple, "conv1_kernel": int}
    assert found | kinds == found

    class Contrary(Toy):
        def __init__(self, *, depth: str = "deep", rngs: nnx.Rngs): ...

    monkeypatch.setitem(models.FAMILIES, "contrary", Family(Contrary, {}))
    with pytest.raises(TypeError, match="'contrary' has option depth of type str.*type int"):
        models.model_options()
