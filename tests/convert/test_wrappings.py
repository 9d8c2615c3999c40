"""State dicts as they are saved in the wild: each imports to the weights of the plain one."""

import argparse
import collections
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from squeeze_jax.convert import import_network, read_network
from squeeze_jax.convert.state_dict import state_dict
from squeeze_jax.errors import UserError
from squeeze_jax.network import imagenet
from tests.convert import encoders
from tests.convert.random_networks import random_net, same_weights

torch = pytest.importorskip("torch")
torch_nets = pytest.importorskip("tests.convert.torch_nets")
safetensors_torch = pytest.importorskip("safetensors.torch")

NAME = encoders.TINY["name"]
OPTIONS = {key: value for key, value in encoders.TINY.items() if key != "name"}
NET = random_net(encoders.TINY)
PLAIN = {name: torch.from_numpy(array) for name, array in state_dict(NET, "torchvision").items()}
# The weights of another network, which must not be taken for the first one's.
ZEROS = {name: torch.zeros_like(tensor) for name, tensor in PLAIN.items()}


def prefixed(prefix):
    return {prefix + name: tensor for name, tensor in PLAIN.items()}


def pruned(keep):
    """As torch.nn.utils.prune leaves a module, with masks of this type."""
    wrapped = {name: tensor for name, tensor in PLAIN.items() if not name.endswith("weight")}
    for name in PLAIN.keys() - wrapped.keys():
        wrapped |= {f"{name}_orig": PLAIN[name], f"{name}_mask": keep(PLAIN[name])}
    return wrapped


def weight_normed(norm):
    """As a norm of torch.nn.utils leaves a module whose weights are these."""
    wrapped = {}
    for name, tensor in PLAIN.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "weight":
            layer = torch.nn.Conv2d(*tensor.shape[1::-1], tuple(tensor.shape[2:]), bias=False)
            layer.weight.data = tensor.clone()
            wrapped |= {f"{stem}.{key}": value for key, value in norm(layer).state_dict().items()}
        else:
            wrapped[name] = tensor
    return wrapped


def counted():
    """As thop's profiler and BatchNorm leave a module."""
    counters = {f"{name.rpartition('.')[0]}.total_ops": torch.zeros(1).double() for name in PLAIN}
    return (
        PLAIN
        | counters
        | {"total_params": torch.zeros(1), "a.num_batches_tracked": torch.tensor(1)}
    )


LIGHTNING = {
    "epoch": 3,
    "pytorch-lightning_version": "2.5.0",
    "state_dict": prefixed("model.") | {"criterion.weight": torch.ones(5)},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}],
    "hyper_parameters": {"lr": 0.1},
}
NAMESPACE = {"model": PLAIN, "args": argparse.Namespace(lr=0.1), "where": Path("a"), "epoch": 1}
RENAMED = {name.replace("classifier.1", "head.fc"): tensor for name, tensor in PLAIN.items()}

WRAPPED = {
    "data parallel": (prefixed("module."), "without the prefix 'module.'"),
    "compiled": (prefixed("_orig_mod."), "without the prefix '_orig_mod.'"),
    "a backbone": (prefixed("module.model.backbone."), "the prefix 'module.model.backbone.'"),
    "nested": ({"epoch": 1, "state_dict": PLAIN, "best": 0.5}, "the weights under 'state_dict'"),
    "any key": ({"generator": PLAIN, "epoch": 1}, "the weights under 'generator'"),
    "an average, too": ({"model": PLAIN, "model_ema": ZEROS}, "under 'model', not model_ema"),
    "an average": ({"ema": prefixed("module.") | {"n_averaged": torch.tensor(9)}}, "n_averaged"),
    "Lightning": (LIGHTNING, "'state_dict'; without criterion.weight; without the prefix 'model.'"),
    "objects beside": (NAMESPACE, "the weights under 'model'"),
    "a NumPy number": ({"net": PLAIN, "best": np.float64(0.5)}, "the weights under 'net'"),
    "a default dict": ({"net": PLAIN, "log": collections.defaultdict(list)}, "under 'net'"),
    "pruned": (pruned(torch.ones_like), "5 pruned weights times their masks"),
    "pruned by bits": (pruned(lambda x: torch.ones_like(x, dtype=torch.bool)), "5 pruned weights"),
    "profiled": (counted(), "without total_ops, total_params"),
    "a last layer renamed": (RENAMED, "its last layer head.fc as classifier.1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrapped_state_dict_is_the_plain_one_and_a_line_says_so(tmp_path, kind):
    content, words = WRAPPED[kind]
    torch.save(content, tmp_path / "net.pth")
    found = read_network(tmp_path / "net.pth", NAME, OPTIONS)
    assert same_weights(found.network, NET)
    changed, _ = found.remarks()
    assert changed.startswith("changed: ") and words in changed


def test_a_plain_state_dict_is_not_changed(tmp_path):
    torch.save(PLAIN, tmp_path / "net.pth")
    assert read_network(tmp_path / "net.pth", NAME, OPTIONS).changes == ()


def test_masks_are_applied(tmp_path):
    safetensors_torch.save_file(pruned(lambda x: (x > 0).to(x.dtype)), tmp_path / "net.safetensors")
    found = import_network(tmp_path / "net.safetensors", NAME, OPTIONS).params["conv1"]["kernel"]
    np.testing.assert_array_equal(found, np.maximum(NET.params["conv1"]["kernel"], 0))
    assert not np.signbit(found).any(), "-0.0 is another value to the coder"


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("utils", [torch.nn.utils, torch.nn.utils.parametrizations])
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weight_norm_is_multiplied_out(tmp_path, utils, dim):
    torch.save(weight_normed(lambda layer: utils.weight_norm(layer, dim=dim)), tmp_path / "net.pth")
    found = read_network(tmp_path / "net.pth", NAME, OPTIONS)
    assert "5 weights of weight_norm" in found.remarks()[0]
    for layer in ("conv1", "conv10"):
        expected = NET.params[layer]["kernel"]
        np.testing.assert_allclose(found.network.params[layer]["kernel"], expected, rtol=1e-6)


def test_spectral_norm_is_refused(tmp_path):
    normed = weight_normed(torch.nn.utils.parametrizations.spectral_norm)
    torch.save(normed, tmp_path / "net.pth")
    with pytest.raises(UserError, match="has also features.0.parametrizations.weight.original"):
        import_network(tmp_path / "net.pth", NAME, OPTIONS)


def test_bfloat16_is_read_exactly(tmp_path):
    small = {name: tensor.bfloat16() for name, tensor in PLAIN.items()}
    safetensors_torch.save_file(small, tmp_path / "net.safetensors")
    found = import_network(tmp_path / "net.safetensors", NAME, OPTIONS)
    expected = small["features.0.weight"].float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found.params["conv1"]["kernel"], expected)


@pytest.mark.parametrize(
    "name", ["net.PTH", "net.pth.tar", "net.ckpt", "net.bin", "net", "net.net"]
)
def test_the_content_tells_the_format(tmp_path, name):
    torch.save(PLAIN, tmp_path / name)
    assert same_weights(import_network(tmp_path / name, NAME, OPTIONS), NET)
    safetensors_torch.save_file(PLAIN, tmp_path / name)
    assert same_weights(import_network(tmp_path / name, NAME, OPTIONS), NET)


def test_a_renamed_last_layer_of_caffe(tmp_path):
    layers = encoders.squeezenet_layers()
    expected = layers[-1][1].transpose(2, 3, 1, 0)
    layers[-1] = ("conv10_flickr", *layers[-1][1:])
    for old in (False, True):
        content = [(name, "Convolution", list(arrays)) for name, *arrays in layers]
        (tmp_path / "net.caffemodel").write_bytes(encoders.caffemodel(content, old))
        found = read_network(tmp_path / "net.caffemodel", NAME, OPTIONS)
        assert found.changes == ("its last layer conv10_flickr as conv10",)
        np.testing.assert_array_equal(found.network.params["conv10"]["kernel"], expected)


# ---------------------------------------------------------------- our own files


@pytest.mark.parametrize(
    "model",
    [
        {"name": "squeezenet_v1_0_released", "base_e": 16, "num_fire": 1, "pool_after": ["conv1"]},
        {"name": "squeezenext_23_v5", "blocks": [1, 1, 1, 1], "width": 0.5},
        {"name": "mobilenet_v1", "width": 0.25},
        {"name": "tiny_darknet"},
    ],
    ids=lambda model: model["name"],
)
@pytest.mark.parametrize("format", ["pth", "safetensors"])
def test_a_file_of_any_family_comes_back_whole(tmp_path, model, format):
    from squeeze_jax.convert import EXPORTERS

    net = random_net(model, preprocessing=imagenet.CAFFE)
    path = tmp_path / f"net.{format}"
    path.write_bytes(EXPORTERS[format].write(net, {}))
    found = read_network(path)
    assert same_weights(found.network, net)
    assert json.dumps(found.network.metadata()) == json.dumps(net.metadata())
    assert found.remarks() == []
    with pytest.raises(
        UserError, match=f"its metadata say that it is {model['name']}.*not alexnet"
    ):
        import_network(path, "alexnet")


def test_pytorch_loads_our_file_as_if_it_held_weights_alone(tmp_path):
    from squeeze_jax.convert import EXPORTERS

    reference = torch_nets.TorchSqueezeNet("1.1", num_classes=5)
    net = random_net({"name": "squeezenet_v1_1"})
    (tmp_path / "net.pth").write_bytes(EXPORTERS["pth"].write(net, {}))
    loaded = torch.load(tmp_path / "net.pth", weights_only=True)
    assert reference.load_state_dict(loaded, strict=True).missing_keys == []
    assert torch.load(tmp_path / "net.pth", mmap=True, weights_only=True).keys() == loaded.keys()


# ---------------------------------------------------------------- what is not told


def test_what_is_assumed_is_said_as_flags(tmp_path):
    torch.save(PLAIN, tmp_path / "net.pth")
    assert read_network(tmp_path / "net.pth", NAME, OPTIONS).remarks() == [
        "assumed, as the file does not tell: --image-size 224 --resize 256 --resize-mode short "
        "--channel-order rgb --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375, class names "
        "numbers 0 to 4 (--class-names FILE gives others)"
    ]


def test_what_the_caller_says_is_not_assumed(tmp_path):
    torch.save(PLAIN, tmp_path / "net.pth")
    given = dict(image_size=112, channel_order="bgr", mean=(1.0, 2.0, 3.0), resize_mode="squash")
    found = read_network(
        tmp_path / "net.pth", NAME, OPTIONS, num_classes=5, preprocessing=given, class_names="abcde"
    )
    assert found.network.class_names == tuple("abcde")
    preprocessing = found.network.preprocessing
    assert (preprocessing.image_size, preprocessing.resize, preprocessing.mean) == (
        112,
        128,
        (1, 2, 3),
    )
    assert found.assumed == "--resize 128 --std 57.375,57.12,58.395"


def test_another_order_of_channels_turns_the_mean_and_deviation_around(tmp_path):
    torch.save(PLAIN, tmp_path / "net.pth")
    given = dict(channel_order="bgr", std=(1.0, 2.0, 3.0))
    found = read_network(tmp_path / "net.pth", NAME, OPTIONS, preprocessing=given).network
    assert found.preprocessing.mean == (103.53, 116.28, 123.675)
    assert found.preprocessing.std == (1, 2, 3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_classes": 6}, r"classifier.1.weight is \[5, 8, 1, 1\], not \[6, 8, 1, 1\]"),
        ({"class_names": "abc"}, "3 class names are given, but the network has 5 classes"),
        ({"preprocessing": {"image_size": 0}}, "image size 0"),
        ({"preprocessing": {"image_size": 300, "resize": 256}}, "image size 300, resize 256"),
        ({"preprocessing": {"image_size": 4000}}, "resize 4571: at most 4,096 pixels a side"),
        ({"preprocessing": {"mean": (0.485, 0.456, 0.406)}}, "give 123.675,116.28,103.53"),
        ({"preprocessing": {"std": (0.5, 0.5, 0.5)}}, "give 127.5,127.5,127.5"),
        ({"preprocessing": {"std": (0.0, 1.0, 1.0)}}, "std is above 0"),
        ({"preprocessing": {"mean": (1.0, 2.0)}}, "mean is three numbers"),
        ({"preprocessing": {"channel_order": "hsv"}}, "rgb, bgr or grey"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(tmp_path, given, words):
    torch.save(PLAIN, tmp_path / "net.pth")
    with pytest.raises(UserError, match=words):
        read_network(tmp_path / "net.pth", NAME, OPTIONS, **given)


# ---------------------------------------------------------------- what is refused


def cut(content, rest=0.5):
    def write(path):
        torch.save(content, path)
        path.write_bytes(path.read_bytes()[: int(rest * path.stat().st_size)])

    return write


def scripted(path):
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 3, 1)), path)


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights/a.txt", "a")


def long_bytearray(path):
    """A pickle of 60 bytes that asks for 2 GiB."""
    pickled = (
        b"\x80\x02}X\x01\x00\x00\x00ac__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x80\x00\x85Rs."
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickled)


def named_with_a_zero_byte(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02cos\na\0b\n.")


UNRELATED = {f"layer1.{i}.conv1.weight": torch.zeros(4, 4, 3, 3) for i in range(40)}
MODULE = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
OLD = dict(_use_new_zipfile_serialization=False)

REFUSED = {
    "TorchScript": (scripted, "a TorchScript program"),
    "a whole model": (lambda path: torch.save(MODULE, path), "a whole pickled Sequential"),
    "one nested": (lambda path: torch.save({"model": MODULE}, path), "a whole pickled Sequential"),
    "an old one": (lambda path: torch.save(MODULE, path, **OLD), "a whole pickled model"),
    "half a file": (cut(PLAIN), "cut off or damaged"),
    "all but its end": (cut(PLAIN, 0.999), "cut off or damaged"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "a page": (lambda path: path.write_text("<html>"), "begins with b'<html>'"),
    "an archive": (archive, "an archive without data.pkl"),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), "it holds a Tensor"),
    "nested lists": (lambda path: torch.save([[PLAIN]], path), "it holds a list"),
    "a long bytearray": (long_bytearray, "holds a bytearray"),
    "an optimizer": (lambda path: torch.save({"optimizer": {}}, path), "its entries are optimizer"),
    "two": (lambda path: torch.save({"G": PLAIN, "D": ZEROS}, path), "several state dicts, G, D"),
    "a zero byte": (named_with_a_zero_byte, "without running code"),
    "an unrelated net": (lambda path: torch.save(UNRELATED, path), "of another kind of network"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_what_is_refused_names_its_cause_and_nothing_warns(tmp_path, kind):
    write, words = REFUSED[kind]
    write(tmp_path / "net.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError) as error:
            import_network(tmp_path / "net.pth")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert "--model" not in str(error.value)


def test_a_net_like_the_released_ones_gets_the_hint(tmp_path):
    torch.save(PLAIN, tmp_path / "net.pth")
    with pytest.raises(UserError, match="give --model$"):
        import_network(tmp_path / "net.pth")


@pytest.mark.parametrize("function", [os.mkdir, exec, subprocess.Popen, torch.hub.set_dir])
def test_objects_beside_the_weights_run_no_code(tmp_path, monkeypatch, function):
    """What a pickle calls is a placeholder, or refused."""

    class Call:
        def __reduce__(self):
            return function, ("touched",)

    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": PLAIN, "args": Call()}, "net.pth")
    try:
        assert same_weights(import_network("net.pth", NAME, OPTIONS), NET)
    except UserError as e:
        assert "without running code" in str(e)
    assert os.listdir() == ["net.pth"] and not torch.hub.get_dir().endswith("touched")


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({}, True),
        ({"bypass": "simple"}, True),
        ({"conv10_pad": 0}, False),
        ({"conv10_pad": 1}, False),
    ],
)
def test_caffes_networks_are_those_that_were_released(options, refused):
    """v1.0 as released pads conv10, which the weights do not show; an option can say otherwise."""
    from squeeze_jax.convert.identify import check_definition

    path, model = Path("net.caffemodel"), {"name": "squeezenet_v1_0", **options}
    if refused:
        with pytest.raises(UserError, match="logits: give --model squeezenet_v1_0_released$"):
            check_definition(path, model, 1000)
    else:
        check_definition(path, model, 1000)
    check_definition(path, model | {"name": "squeezenet_v1_0_released"}, 1000)


def test_without_pytorch_a_safetensors_file_is_read_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    arrays = state_dict(NET, "torchvision")
    (tmp_path / "net.pth").write_bytes(safetensors.numpy.save(arrays))
    assert same_weights(import_network(tmp_path / "net.pth", NAME, OPTIONS), NET)
