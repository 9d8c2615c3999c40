"""Names and layouts of other libraries, against their published definitions."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from squeeze_jax.convert import parameter_names as names
from squeeze_jax.errors import UserError, list_names
from squeeze_jax.network import weight_shapes

GOLDEN = Path(__file__).parents[1] / "golden"
# places of the convolutions in torchvision's Sequential `features`, and of the last layers in
# `classifier`
TORCHVISION = {
    "squeezenet_v1_0": ([0, 3, 4, 5, 7, 8, 9, 10, 12], [1]),
    "squeezenet_v1_1": ([0, 3, 4, 6, 7, 9, 10, 11, 12], [1]),
    "alexnet_torchvision": ([0, 3, 6, 8, 10], [1, 4, 6]),
    "vgg16": ([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], [0, 3, 6]),
    "vgg19": ([0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34], [0, 3, 6]),
}


def table(name, library, num_classes=1000, **options):
    return names.weights({"name": name, **options}, num_classes, library)


@pytest.mark.parametrize("name", TORCHVISION)
def test_places_in_torchvisions_sequential(name):
    features, classifier = TORCHVISION[name]
    modules = {
        foreign.split(".")[0] + "." + foreign.split(".")[1]
        for weight in table(name, "torchvision")
        for foreign in weight.names
    }
    assert modules == {f"features.{i}" for i in features} | {f"classifier.{i}" for i in classifier}


def test_places_follow_the_pools():
    found = [
        weight.names[0]
        for weight in table("squeezenet_v1_0", "torchvision", num_fire=2, pool_after=["fire2"])
    ]
    assert found[::2] == [
        "features.0.weight",
        *(
            f"features.{place}.{part}.weight"
            for place in (2, 4)
            for part in ("squeeze", "expand1x1", "expand3x3")
        ),
        "classifier.1.weight",
    ]


@pytest.mark.parametrize("name", ["squeezenet_v1_0", "squeezenet_v1_1"])
def test_caffes_layers_of_squeezenet(name):
    layers = json.loads((GOLDEN / f"{name}_layers.json").read_text())["layers"]
    shapes = [
        (row[0].replace("squeeze", "squeeze1x1"), [row[2], row[1], *row[3]]) for row in layers
    ]
    expected = [
        line
        for layer, shape in shapes
        for line in ((f"{layer}[0]", shape), (f"{layer}[1]", shape[:1]))
    ]
    assert [
        (weight.names[0], list(weight.foreign_shapes[0])) for weight in table(name, "caffe")
    ] == expected


@pytest.mark.parametrize("name", ["squeezenext_23", "squeezenext_23_v5", "squeezenext_23_g"])
def test_caffes_layers_of_squeezenext_are_numbered_in_order_of_execution(name):
    *convolutions, classifier = json.loads((GOLDEN / "squeezenext_layers.json").read_text())[name]
    kernels = [weight for weight in table(name, "caffe") if weight.path.endswith("/kernel")]
    expected = [
        (f"Convolution{number}[0]", (outputs, inputs // groups, *kernel))
        for number, (inputs, outputs, kernel, _, _, groups, *_) in enumerate(convolutions, start=1)
    ]
    assert [(weight.names[0], weight.foreign_shapes[0]) for weight in kernels] == [
        *expected,
        ("fc1000[0]", (1000, 128)),
    ]


@pytest.mark.parametrize(
    ("name", "library", "options"),
    [
        *((name, "torchvision", {}) for name in TORCHVISION if name.startswith("sq")),
        ("squeezenet_simple_bypass", "pytorchcv", {}),
        ("squeezenext_23_v5_pytorchcv", "pytorchcv", {"width": 0.5}),
        ("squeezenext_23_g", "caffe", {"blocks": [1, 1, 1, 1]}),
        ("squeezenet_complex_bypass", "squeeze_jax", {"batch_norm": True}),
    ],
)
def test_to_another_library_and_back_is_the_identity(name, library, options):
    random = np.random.default_rng(0)
    weights = table(name, library, 7, **options)
    ours = {weight.path: random.normal(size=weight.shape).astype(np.float32) for weight in weights}
    ours = {path: abs(x) if path.endswith("/var") else x for path, x in ours.items()}
    foreign = {
        n: array
        for weight in weights
        for n, array in zip(weight.names, weight.conversion.encode(ours[weight.path]), strict=True)
    }
    assert {n: s for w in weights for n, s in zip(w.names, w.foreign_shapes, strict=True)} == {
        n: array.shape for n, array in foreign.items()
    }
    params, stats = names.decode_weights(weights, foreign)
    shapes = weight_shapes({"model": {"name": name, **options}, "num_classes": 7})
    assert jax.tree.map(np.shape, (params, stats)) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    for weight in weights:
        found = stats if weight.is_statistic else params
        for key in weight.path.split("/"):
            found = found[key]
        assert found.tobytes() == ours[weight.path].tobytes(), weight.path


def test_rows_of_the_first_dense_layer_follow_the_positions():
    # [N, C, H, W] flattened times their weights is [N, H, W, C] flattened times ours.
    random = np.random.default_rng(0)
    maps, theirs = random.normal(size=(2, 5, 3, 3)), random.normal(size=(4, 45))
    conversion = names._dense_after_flatten(3)
    ours = conversion.decode(theirs)
    np.testing.assert_allclose(
        maps.transpose(0, 2, 3, 1).reshape(2, -1) @ ours, maps.reshape(2, -1) @ theirs.T, rtol=1e-12
    )
    np.testing.assert_array_equal(conversion.encode(ours)[0], theirs)


@pytest.mark.parametrize(
    ("name", "options", "library"),
    [
        ("squeezenet_v1_0", {}, "torchvision"),
        ("squeezenet_v1_1", {"squeeze_ratio": 0.5}, "torchvision"),
        ("squeezenet_v1_0_released", {}, "squeeze_jax"),
        ("squeezenet_v1_0", {"conv1_stride": 1}, "squeeze_jax"),
        ("squeezenet_v1_0", {"conv10_relu": False}, "squeeze_jax"),
        ("squeezenet_v1_0", {"batch_norm": True}, "squeeze_jax"),
        ("squeezenet_v1_0", {"num_fire": 1, "pool_after": ["conv1", "fire2"]}, "squeeze_jax"),
        ("squeezenet_simple_bypass", {}, "pytorchcv"),
        ("squeezenet_simple_bypass", {"pool_after": []}, "squeeze_jax"),
        ("squeezenet_simple_bypass", {"batch_norm": True}, "squeeze_jax"),
        ("squeezenet_complex_bypass", {}, "squeeze_jax"),
        ("squeezenext_23", {"blocks": [1, 1, 1, 1]}, "squeeze_jax"),
        ("squeezenext_23_pytorchcv", {"blocks": [1, 1, 1, 1]}, "pytorchcv"),
        ("squeezenext_23_pytorchcv", {"blocks": [1, 1, 1, 1], "groups": 2}, "squeeze_jax"),
        ("squeezenext_23_pytorchcv", {"blocks": [1, 1, 1, 1], "aggregation": True}, "squeeze_jax"),
        ("alexnet", {}, "squeeze_jax"),
        ("alexnet_torchvision", {}, "torchvision"),
        ("vgg16", {}, "torchvision"),
        ("tiny_darknet", {}, "squeeze_jax"),
    ],
)
def test_whose_definition_computes_the_same(name, options, library):
    assert names.matching_library({"name": name, **options}, 10) == library


@pytest.mark.parametrize(
    ("name", "options", "library", "words"),
    [
        ("squeezenet_complex_bypass", {}, "caffe", "caffe has no net.*no name for bypass2/bias"),
        ("squeezenet_v1_0", {"batch_norm": True}, "torchvision", "no name for conv1/bn"),
        ("squeezenet_v1_0", {"pool_after": []}, "pytorchcv", "no name for conv1"),
        ("squeezenext_23", {"blocks": [1, 1, 1, 1]}, "torchvision", "no name for bottleneck"),
        ("alexnet", {}, "torchvision", "no name for conv1"),
        ("tiny_darknet", {}, "caffe", "caffe has no net"),
        ("no_such", {}, "caffe", "no model 'no_such'"),
    ],
)
def test_a_net_that_the_library_does_not_have(name, options, library, words):
    with pytest.raises(UserError, match=words):
        table(name, library, **options)


def test_names_from_files_are_shown_on_one_short_line():
    assert list_names(["a\nb", "x" * 500, "c", "d", "e"]) == f"a?b, {'x' * 100}, c and 2 more"
