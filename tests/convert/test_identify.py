"""Which net a file holds, and what is said where it holds another."""

import numpy as np
import pytest
import safetensors.numpy

from squeeze_jax.convert import import_network, read_network
from squeeze_jax.convert.state_dict import state_dict
from squeeze_jax.errors import UserError
from squeeze_jax.network import imagenet
from tests.convert import encoders
from tests.convert.random_networks import random_net, same_weights

NAME = encoders.TINY["name"]
OPTIONS = {key: value for key, value in encoders.TINY.items() if key != "name"}


@pytest.mark.parametrize(
    ("name", "library", "num_classes"),
    [("squeezenet_v1_0", "torchvision", 1000), ("squeezenet_v1_1", "torchvision", 3)],
)
def test_a_net_is_known_by_its_names_and_shapes(tmp_path, name, library, num_classes):
    net = random_net({"name": name}, num_classes)
    safetensors.numpy.save_file(state_dict(net, library), tmp_path / "net.safetensors")
    found = import_network(tmp_path / "net.safetensors")
    assert same_weights(found, net) and dict(found.model) == {"name": name}
    assert found.class_names == (
        imagenet.class_names() if num_classes == 1000 else tuple(map(str, range(num_classes)))
    )
    assert (found.preprocessing, found.source) == (imagenet.TORCH, "net.safetensors, safetensors")


@pytest.mark.parametrize("name", ["squeezenet_v1_1", "alexnet_torchvision"])
def test_the_first_kernel_tells_a_grey_net(tmp_path, name):
    """Preprocessing is its library's, of the luma."""
    net = random_net({"name": name, "in_channels": 1}, 3)
    safetensors.numpy.save_file(state_dict(net, "torchvision"), tmp_path / "net.safetensors")
    found = import_network(tmp_path / "net.safetensors")
    assert same_weights(found, net) and dict(found.model) == net.model
    preprocessing = found.preprocessing
    assert (preprocessing.channel_order, found.input_shape) == ("grey", (224, 224, 1))
    red, green, blue = imagenet.TORCH.mean
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert preprocessing.mean == pytest.approx((luma,), abs=1e-3)


def test_the_caller_tells_a_shape(tmp_path):
    """Of the crop alone: images are resized in the same ratio before it."""
    net = random_net({"name": NAME, **OPTIONS, "in_channels": 1})
    path = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(state_dict(net, "torchvision"), path)
    given = dict(image_size=(112, 56), mean=(120.0,), std=(60.0,))
    found = read_network(path, NAME, OPTIONS, preprocessing=given)
    assert found.network.preprocessing.resize == (128, 64)
    assert found.network.input_shape == (112, 56, 1)
    assert found.assumed.startswith("--resize 128x64 --resize-mode short --channel-order grey,")
    for other, words in (
        (dict(channel_order="rgb"), "takes images of 1 channels, and channel order rgb has 3"),
        (dict(mean=(1.0, 2.0, 3.0)), "mean is one number of grey images, got 1,2,3"),
        (dict(image_size=(112, 56), resize=64), r"image size \(112, 56\), resize 64"),
    ):
        with pytest.raises(UserError, match=words):
            read_network(path, NAME, OPTIONS, preprocessing=other)


@pytest.mark.parametrize(
    ("name", "eltwise", "expected"),
    [
        ("squeezenet_v1_0", False, {"name": "squeezenet_v1_0_released"}),
        ("squeezenet_v1_0", True, {"name": "squeezenet_v1_0_released", "bypass": "simple"}),
        ("squeezenet_v1_1", False, {"name": "squeezenet_v1_1"}),
    ],
)
def test_released_caffe_nets(tmp_path, name, eltwise, expected):
    layers = {}
    for key, array in state_dict(random_net({"name": name}), "caffe").items():
        layers.setdefault(key.split("[")[0], []).append(array)
    listed = [(layer, "Convolution", arrays) for layer, arrays in layers.items()] + [
        ("bypass_23", "Eltwise", [])
    ] * eltwise
    (tmp_path / "net.caffemodel").write_bytes(encoders.caffemodel(listed))
    net = import_network(tmp_path / "net.caffemodel")
    assert (net.model, net.preprocessing, net.source) == (
        expected,
        imagenet.CAFFE,
        "net.caffemodel, Caffe",
    )


def saved(tmp_path, **changes):
    """A file of the tiny net under torchvision's names with these arrays in place of its own.

    None removes one.
    """
    arrays = state_dict(random_net(encoders.TINY), "torchvision") | changes
    safetensors.numpy.save_file(
        {k: v for k, v in arrays.items() if v is not None}, tmp_path / "net.safetensors"
    )
    return tmp_path / "net.safetensors"


def test_what_is_missing_left_over_misshapen_or_not_finite_is_named_in_one_line(tmp_path):
    changes = {
        "features.0.bias": None,
        "features.0.weight": np.ones((1, 2), np.float32),
        "a\nb": np.ones(1, np.float32),
        "classifier.1.bias": np.full(5, np.nan, np.float32),
    }
    with pytest.raises(UserError) as error:
        import_network(saved(tmp_path, **changes), NAME, OPTIONS)
    assert str(error.value).partition("not squeezenet_v1_0")[2] == (
        " with num_fire=1, base_e=8, squeeze_ratio=0.25, conv1_filters=8,"
        " conv1_kernel=3, pool_after=['conv1'] in torchvision's names:"
        " lacks features.0.bias; has also a?b; features.0.weight is [1, 2], not [8, 3, 3, 3];"
        " not finite is classifier.1.bias"
    )


def test_a_variance_below_zero_is_refused(tmp_path):
    net = random_net({"name": NAME, **OPTIONS, "batch_norm": True})
    names = dict(state_dict(net, "squeeze_jax"))
    variance = next(name for name in names if name.endswith("bn/var"))
    names[variance] = -names[variance]
    safetensors.numpy.save_file(names, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="var is not finite, or a variance below zero"):
        import_network(tmp_path / "net.safetensors", NAME, {**OPTIONS, "batch_norm": True})


def test_a_count_of_classes_is_given_once(tmp_path):
    with pytest.raises(UserError, match="given twice: as 7 and as 5"):
        read_network(saved(tmp_path), NAME, {**OPTIONS, "num_classes": 5}, num_classes=7)


def test_long_lists_are_cut(tmp_path):
    with pytest.raises(UserError, match=r"lacks features.4.squeeze.weight, .* and 39 more"):
        import_network(saved(tmp_path), "squeezenet_v1_0")


@pytest.mark.slow
def test_a_damaged_released_net_is_still_known(tmp_path):
    arrays = state_dict(random_net({"name": "squeezenet_v1_1"}), "torchvision")
    del arrays["features.3.squeeze.bias"]
    safetensors.numpy.save_file(arrays, tmp_path / "net.safetensors")
    with pytest.raises(
        UserError,
        match="not squeezenet_v1_1 in torchvision's names: lacks features.3.squeeze.bias$",
    ):
        import_network(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (None, {}, r"its 10 arrays are not those of a released network: give --model"),
        (None, {"base_e": 8}, "give --model as well"),
        ("no_such", {}, "no model 'no_such'"),
        ("squeezenet_v1_0", {"no_such": 1}, "no option no_such"),
        ("squeezenet_v1_0", {"base_e": 0}, "model.base_e is 2 to 16,777,216; got 0"),
        (
            "squeezenext_23",
            {"separable": "tall_first"},
            "alternate or wide_first; got 'tall_first'",
        ),
    ],
)
def test_a_net_that_nobody_told(tmp_path, model, options, words):
    with pytest.raises(UserError, match=words):
        import_network(saved(tmp_path), model, options)


def test_caffe_has_no_net_with_such_layers(tmp_path):
    (tmp_path / "net.caffemodel").write_bytes(
        encoders.caffemodel([("conv1", "Convolution", [np.ones((1, 1, 1, 1))])])
    )
    with pytest.raises(UserError, match="caffe has no net with the layers of tiny_darknet"):
        import_network(tmp_path / "net.caffemodel", "tiny_darknet")


@pytest.mark.parametrize(
    ("name", "words"),
    [("net.h5", "its suffix is none of .net, .caffemodel"), ("net.pth", "no such file")],
)
def test_a_file_that_is_not_there_or_of_no_known_kind(tmp_path, name, words):
    (tmp_path / "net.h5").write_bytes(b"\x89HDF")
    with pytest.raises(UserError, match=words):
        import_network(tmp_path / name)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "net.pth").mkdir()
    with pytest.raises(UserError, match="net.pth is a folder"):
        import_network(tmp_path / "net.pth")


def test_deep_compression_is_of_convolutions_with_biases(tmp_path):
    (tmp_path / "a.net").write_bytes(b"")
    with pytest.raises(UserError, match="which squeezenext_23 does not consist of"):
        import_network(tmp_path / "a.net", "squeezenext_23", {"blocks": [1, 1, 1, 1]})


def test_deep_compression_of_another_design(tmp_path):
    layers = encoders.squeezenet_layers(classes=1000, sparse=True)
    (tmp_path / "a.net").write_bytes(encoders.deep_compressed([layer[1:] for layer in layers]))
    net = import_network(tmp_path / "a.net", NAME, OPTIONS)
    np.testing.assert_array_equal(
        net.params["fire2"]["expand3x3"]["kernel"], layers[3][1].transpose(2, 3, 1, 0)
    )
    assert (net.preprocessing, net.class_names) == (imagenet.CAFFE, imagenet.class_names())
