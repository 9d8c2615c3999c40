"""Every registered model against its golden counts, and what is wrong with a name or an option."""

import json
from pathlib import Path

import pytest
from flax import nnx

from squeeze_jax import models
from squeeze_jax.cost import trace
from squeeze_jax.errors import UserError

COUNTS = json.loads((Path(__file__).parents[1] / "golden/counts.json").read_text())


def abstract(name, **options):
    """The module with shapes in place of weights."""
    return nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **options))


@pytest.mark.parametrize(
    "row", COUNTS, ids=lambda row: f"{row['model']}-{row['options']}-{row['input_size']}"
)
def test_parameters_are_golden(row):
    assert trace.parameter_count(abstract(row["model"], **row["options"])) == row["params"]


def test_every_registered_model_has_golden_counts():
    assert {row["model"] for row in COUNTS} == set(models.REGISTRY)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("squeezenet_v2", {}, "no model 'squeezenet_v2'.*squeezenet_v1_0"),
        ("squeezenet_v1_0", {"sqeeze": 1}, "no option sqeeze; it has num_classes"),
        ("squeezenet_v1_0", {"bypass": "double"}, "none, simple or complex"),
        ("squeezenet_v1_0", {"pct3x3": 1.5}, "between 0 and 1"),
        ("squeezenet_v1_0", {"squeeze_ratio": 0.0}, "above 0"),
        ("squeezenet_v1_0", {"base_e": 1}, "base_e >= 2"),
        ("squeezenet_v1_0", {"pool_after": ("fire99",)}, "fire99"),
        ("squeezenet_v1_0", {"init": "zero"}, "xavier"),
    ],
)
def test_a_bad_option_is_one_clear_line(name, options, words):
    with pytest.raises(UserError, match=words):
        models.create(name, rngs=nnx.Rngs(0), **options)


def test_none_keeps_the_default():
    assert (
        trace.parameter_count(abstract("squeezenet_v1_1", squeeze_ratio=None, conv1_filters=None))
        == 1_235_496
    )
