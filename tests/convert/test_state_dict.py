"""PyTorch's files both ways, against PyTorch modules of our own and, where it is installed,
pytorchcv.
"""

import io
import json
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from squeeze_jax.convert import exporters, import_network, read_network, verify
from squeeze_jax.convert.importers import pth
from squeeze_jax.convert.importers import safetensors as safetensors_importer
from squeeze_jax.convert.metadata import KEY
from squeeze_jax.convert.parameter_names import matching_library
from squeeze_jax.errors import UserError
from squeeze_jax.network import imagenet
from tests.convert.encoders import TINY
from tests.convert.random_networks import random_net, same_weights

torch = pytest.importorskip("torch")
torch_nets = pytest.importorskip("tests.convert.torch_nets")


def write(net, path):
    """Exports weights in the format of the path's suffix and returns the library whose names they
    have.
    """
    (exporter,) = (e for e in exporters.EXPORTERS.values() if path.suffix == e.SUFFIX)
    path.write_bytes(exporter.write(net, {}))
    return matching_library(net.model, len(net.class_names))


BLOCKS = {"blocks": [1, 1, 1, 1], "width": 0.5}
DESIGNS = {
    "torchvision": TINY,
    "pytorchcv": {"name": "squeezenext_23_pytorchcv", **BLOCKS},
    "squeeze_jax": {"name": "squeezenext_23_v5", **BLOCKS},
}


def images(size=67):
    return np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)


def deviation(found, expected):
    """Relative to the largest logit."""
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


REFERENCES = {
    "squeezenet_v1_0": lambda: torch_nets.TorchSqueezeNet("1.0"),
    "squeezenet_v1_1": lambda: torch_nets.TorchSqueezeNet("1.1", num_classes=10),
    "squeezenext_23_pytorchcv": lambda: torch_nets.TorchSqueezeNext(theirs=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_imported_and_exported_nets_compute_the_same(tmp_path, name):
    reference = torch_nets.randomise(REFERENCES[name]())
    expected = torch_nets.logits(reference, images())
    torch.save(reference.state_dict(), tmp_path / "net.pth")
    net = import_network(tmp_path / "net.pth")
    assert net.model == {"name": name} and net.preprocessing == imagenet.TORCH
    assert len(net.class_names) == expected.shape[1] and (net.class_names[0] == "0") == (
        name == "squeezenet_v1_1"
    )
    assert deviation(verify.logits(net, images()), expected) < 1e-4
    # and back: the foreign definition loads what we write, every key of it
    library = write(net, tmp_path / "back.safetensors")
    assert library == ("pytorchcv" if "next" in name else "torchvision")
    loaded = torch_nets.randomise(REFERENCES[name](), seed=1)
    loaded.load_state_dict(
        {
            k: torch.from_numpy(v)
            for k, v in safetensors.numpy.load_file(tmp_path / "back.safetensors").items()
        }
    )
    assert deviation(torch_nets.logits(loaded, images()), expected) < 1e-5
    assert same_weights(import_network(tmp_path / "back.safetensors"), net)


def test_the_padded_last_layer_is_a_model_of_its_own(tmp_path):
    reference = torch_nets.randomise(
        torch_nets.TorchSqueezeNet("1.0", num_classes=10, conv10_pad=1)
    )
    torch.save(reference.state_dict(), tmp_path / "net.pth")
    net = import_network(tmp_path / "net.pth", "squeezenet_v1_0_released")
    assert deviation(verify.logits(net, images()), torch_nets.logits(reference, images())) < 1e-4


def test_options_are_those_of_the_model_and_images_fit_it(tmp_path):
    reference = torch_nets.randomise(torch_nets.TorchSqueezeNet("1.1", num_classes=5))
    path, model = tmp_path / "net.pth", "squeezenet_v1_1"
    torch.save(reference.state_dict(), path)
    assert len(import_network(path, model, {"num_classes": 5}).class_names) == 5
    for options, words in (
        ({"num_classes": 6}, r"\[5, 512, 1, 1\], not \[6, 512, 1, 1\]"),
        ({"name": "squeezenet_v1_0"}, "squeezenet_v1_1 has no option name"),
        ({"rngs": 5}, "squeezenet_v1_1 has no option rngs"),
    ):
        with pytest.raises(UserError, match=words):
            import_network(path, model, options)
    with pytest.raises(UserError, match=r"squeezenet_v1_1 at 3x3: 3x3/2 max pooling got 1x1"):
        read_network(path, model, preprocessing={"image_size": 3})


def test_pytorchcvs_squeezenext_is_the_reference():
    theirs = torch_nets.randomise(pytest.importorskip("pytorchcv.models.squeezenext").sqnxt23_w1())
    theirs.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)  # in place of 7x7, for small images
    ours = torch_nets.TorchSqueezeNext(theirs=True).eval()
    ours.load_state_dict(theirs.state_dict())
    assert deviation(torch_nets.logits(ours, images()), torch_nets.logits(theirs, images())) < 1e-5


@pytest.mark.parametrize(
    ("definition", "model", "options"),
    [
        ("squeezenet_v1_0", "squeezenet_v1_0", {}),
        ("squeezeresnet_v1_1", "squeezenet_v1_1", {"bypass": "simple"}),
    ],
)
def test_pytorchcvs_squeezenets(tmp_path, definition, model, options):
    theirs = torch_nets.randomise(
        getattr(pytest.importorskip("pytorchcv.models.squeezenet"), definition)()
    )
    theirs.output.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    with pytest.raises(
        UserError, match=r"squeezenet_v1_. and squeezenet_\S+.* the same weights.*--model"
    ):
        import_network(tmp_path / "net.pth")
    net = import_network(tmp_path / "net.pth", model, options)
    assert deviation(verify.logits(net, images()), torch_nets.logits(theirs, images())) < 1e-4


@pytest.mark.parametrize("library", DESIGNS)
def test_our_own_files_come_back_as_they_were(tmp_path, library):
    net = random_net(DESIGNS[library], preprocessing=imagenet.CAFFE)
    assert write(net, tmp_path / "net.safetensors") == library
    back = import_network(tmp_path / "net.safetensors")
    assert same_weights(net, back) and back.metadata() == net.metadata()


@pytest.mark.parametrize("library", DESIGNS)
@pytest.mark.parametrize("zipped", [True, False])
def test_pth_and_back_is_the_identity(tmp_path, library, zipped):
    net = random_net(DESIGNS[library])
    assert write(net, tmp_path / "net.pth") == library
    if not zipped:  # the format before PyTorch 1.6
        torch.save(
            torch.load(tmp_path / "net.pth", weights_only=True),
            tmp_path / "net.pth",
            _use_new_zipfile_serialization=False,
        )
    model, options = (
        net.model["name"],
        {key: value for key, value in net.model.items() if key != "name"},
    )
    assert same_weights(import_network(tmp_path / "net.pth", model, options), net)


def test_half_precision_and_parameters_are_read(tmp_path):
    torch.save(
        {
            "a": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
            "b.num_batches_tracked": torch.tensor(3),
        },
        tmp_path / "a.pth",
    )
    (found,) = pth.read_arrays(tmp_path / "a.pth").arrays.values()
    assert found.dtype == np.float32 and found.tolist() == [1.0, 1.0]


class Code:
    """Unpickling this would run code."""

    def __reduce__(self):
        return sys.exit, ("code was run",)


def zip_bomb():
    content = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, content)
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(content) as archive,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as expanded,
    ):
        for entry in archive.infolist():
            expanded.writestr(
                entry.filename,
                bytes(1 << 24) if "data/0" in entry.filename else archive.read(entry),
            )
    assert len(bomb.getvalue()) < 1 << 16
    return bomb.getvalue()


BASE = torch.zeros(64)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Code(), "without running code"),
        ([torch.zeros(1)], "not a state dict"),
        ({1: torch.zeros(1)}, "not a state dict"),
        ({"model": {"a": torch.zeros(1)}}, "not a state dict"),
        ({"a": torch.zeros(1, dtype=torch.int32)}, "a is not a plain tensor"),
        ({"a\nb": torch.zeros(2, 2).to_sparse()}, r"a\?b is not a plain tensor"),
        ({"a": torch.zeros(1, device="meta")}, "a is not a plain tensor"),
        ({"a": torch.zeros(1).expand(1 << 40)}, "larger than the file"),
        ({str(i): BASE for i in range(100)}, "larger than the file"),
        (b"no archive at all", "not a file of torch.save: it begins with b'no archive at all'"),
        (b"PK\x03\x04 but no archive", "cut off or damaged"),
        (b"", "it is empty"),
        (zip_bomb(), "compressed or says to be larger"),
    ],
)
def test_what_is_wrong_with_a_pth_is_one_line(tmp_path, content, words):
    path = tmp_path / "net.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=words) as error:
        pth.read_arrays(path)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_entries_of_one_name(tmp_path):
    torch.save({"a": torch.zeros(2000)}, tmp_path / "net.pth")
    with zipfile.ZipFile(tmp_path / "net.pth", "a") as archive:
        archive.writestr(archive.infolist()[0].filename, b"")
    with pytest.raises(UserError, match="two entries of one name"):
        pth.read_arrays(tmp_path / "net.pth")


@pytest.mark.parametrize("place", [-20, None])
def test_bytes_too_many_in_a_file_without_checksums(tmp_path, place):
    content = io.BytesIO()
    torch.save({"a": torch.arange(100.0)}, content, _use_new_zipfile_serialization=False)
    whole = content.getvalue()
    (tmp_path / "net.pth").write_bytes(whole)
    assert pth.read_arrays(tmp_path / "net.pth").arrays["a"].tolist() == list(range(100))
    (tmp_path / "net.pth").write_bytes(whole[:place] + b"1234" + (whole[place:] if place else b""))
    with pytest.raises(UserError, match="goes on after its last tensor"):
        pth.read_arrays(tmp_path / "net.pth")


def test_without_pytorch_only_pth_files_fail(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    net = random_net(TINY)
    write(net, tmp_path / "net.safetensors")
    assert same_weights(import_network(tmp_path / "net.safetensors"), net)
    (tmp_path / "net.pth").write_bytes(b"")
    with pytest.raises(UserError, match="pip install torch"):
        import_network(tmp_path / "net.pth")
    with pytest.raises(UserError, match="pip install torch"):
        write(net, tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a .safetensors file"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "not a .safetensors file"),
        (safetensors.numpy.save({"a": np.ones(3, np.float32)})[:-1], "cut off or damaged"),
        (safetensors.numpy.save({"a": np.ones(3, np.int32)}), "a is not of floating-point"),
    ],
)
def test_what_is_wrong_with_a_safetensors_file_is_one_line(tmp_path, content, words):
    (tmp_path / "net.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=words):
        safetensors_importer.read_arrays(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r | {"model": {"name": "no_such"}}, "no model 'no_such'"),
        (lambda r: r | {"model": r["model"] | {"base_e": 1 << 40}}, "options"),
        (lambda r: r | {"model": r["model"] | {"squeeze_ratio": 1e9}}, "options"),
        (lambda r: r | {"model": r["model"] | {"squeeze_ratio": 1e3}}, "fractions"),
        (lambda r: r | {"model": r["model"] | {"num_fire": 4000}}, "layers"),
        (lambda r: r | {"model": r["model"] | {"base_e": "8"}}, "metadata describe no network"),
        (lambda r: r | {"model": r["model"] | {"pool_after": {"a": 1}}}, "options"),
        (lambda r: r | {"model": []}, "metadata describe no network"),
        (lambda r: r | {"num_classes": 6}, "classes"),
        (
            lambda r: r | {"class_names": ["a"], "num_classes": 1},
            r"classifier.1.weight is \[5, 8, 1, 1\], not \[1, 8, 1, 1\]",
        ),
        (lambda r: r | {"data": r["data"] | {"image_size": 1 << 40}}, "image size"),
        (lambda r: r | {"data": r["data"] | {"image_size": [1, 2, 3]}}, "image size"),
        (lambda r: r | {"data": r["data"] | {"resize": [300, "a"]}}, "image size"),
        (lambda r: r | {"data": r["data"] | {"image_size": [9, 400]}}, "image size"),
        (lambda r: r | {"data": r["data"] | {"channel_order": "grey"}}, "channels, mean"),
        (lambda r: r | {"data": r["data"] | {"channel_order": ["rgb"]}}, "no network"),
        (lambda r: r | {"data": r["data"] | {"channel_order": "hsv"}}, "image mode"),
        (lambda r: r | {"data": r["data"] | {"std": [0, 1, 1]}}, "mean and deviation"),
        (lambda r: r | {"source": 1}, "source"),
        (lambda r: {}, "metadata describe no network"),
        (lambda r: 1, "metadata describe no network"),
    ],
)
def test_metadata_that_lie(tmp_path, change, words):
    path = tmp_path / "net.safetensors"
    write(random_net(TINY), path)
    arrays, metadata, _ = safetensors_importer.read_arrays(path)
    record = json.dumps(change(json.loads(metadata)))
    safetensors.numpy.save_file(arrays, path, {KEY: record})
    with pytest.raises(UserError, match=words):
        import_network(path)
