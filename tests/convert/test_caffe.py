"""The .caffemodel reader, on files from a wire encoder of its own."""

import numpy as np
import pytest

from squeeze_jax.convert import import_network, verify
from squeeze_jax.convert.importers import caffe
from squeeze_jax.errors import UserError
from squeeze_jax.network import imagenet
from tests.convert import encoders
from tests.convert.encoders import blob, field

LAYERS = [
    (name, "Convolution", [weights, biases])
    for name, weights, biases in encoders.squeezenet_layers()
]


def written(tmp_path, content):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_reads_what_was_encoded(tmp_path, old, double):
    layers = [("data", "Data", []), ("data", "Data", []), *LAYERS, ("sum", "Eltwise", [])]
    found = caffe.read_layers(written(tmp_path, encoders.caffemodel(layers, old, double)))
    assert list(found) == ["data", *(name for name, _, _ in LAYERS), "sum"]
    assert found["sum"].type == "Eltwise" and found["conv1"].type == ("" if old else "Convolution")
    for name, _, arrays in LAYERS:
        for array, expected in zip(found[name].blobs, arrays, strict=True):
            assert (
                array.dtype == np.float32
                and array.shape == ((1,) * (4 - expected.ndim) if old else ()) + expected.shape
            )
            np.testing.assert_array_equal(array.reshape(expected.shape), expected)


def test_formats_agree_as_nets(tmp_path):
    nets = []
    for old in (False, True):
        path = written(tmp_path, encoders.caffemodel(LAYERS, old))
        nets.append(
            import_network(
                path,
                "squeezenet_v1_0_released",
                {k: v for k, v in encoders.TINY.items() if k != "name"},
            )
        )
    assert (
        nets[0].params["conv10"]["kernel"].tobytes() == nets[1].params["conv10"]["kernel"].tobytes()
    )
    assert (
        nets[0].class_names == ("0", "1", "2", "3", "4") and nets[0].preprocessing == imagenet.CAFFE
    )


ONE = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xff\xff", "not a .caffemodel"),
        (encoders.caffemodel(LAYERS)[:-5], "not all of one"),
        (b"", "without layers"),
        (field(1, b"only a name"), "without layers"),
        (field(100, field(1, b"\xff") + field(7, blob(ONE, shape=(1, 1)))), r"layer '\ufffd' has"),
        (
            field(100, field(1, b"a") + field(7, blob(ONE, shape=(2, 4)))),
            r"layer 'a' has shape \[2, 4\] but 24 bytes",
        ),
        (
            field(100, field(1, b"a\nb") + field(7, blob(ONE, shape=(2**40, 2**40)))),
            r"layer 'a\\nb' has shape",
        ),
        (
            field(100, field(1, b"a") + field(7, blob(ONE, shape=(2**64 - 2, 2**64 - 3)))),
            r"shape \[-2, -3\]",
        ),
        (field(100, field(1, b"a") + field(7, blob(ONE, shape=(2, 3) + (1,) * 60))), "has shape"),
        (field(100, b"") * 10_001, "more than 10,000 layers"),
        (field(100, field(1, b"a") + field(7, b"") * 17), "layer 'a' has more than 16 blobs"),
        (encoders.caffemodel([("a", "", [ONE]), ("a", "", [ONE])]), "two layers are called 'a'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, content, words):
    with pytest.raises(UserError, match=words) as error:
        caffe.read_layers(written(tmp_path, content))
    assert "\n" not in str(error.value)


BLOCKS = (2, 1, 1, 1)


@pytest.mark.slow
def test_squeezenext_computes_what_its_definition_does(tmp_path):
    pytest.importorskip("torch")
    from tests.convert import torch_nets

    reference = torch_nets.randomise(torch_nets.TorchSqueezeNext(theirs=False, blocks=BLOCKS))
    order, blocks = (
        [],
        [module for module in reference.modules() if isinstance(module, torch_nets.Block)],
    )
    hooks = [
        block.register_forward_hook(lambda module, *_: order.append(module)) for block in blocks
    ]
    images = np.random.default_rng(0).normal(size=(2, 67, 67, 3)).astype(np.float32)
    expected = torch_nets.logits(reference, images)
    for hook in hooks:
        hook.remove()
    layers, factor = (
        [],
        np.array([7.0], np.float32),
    )  # Caffe keeps sums: both statistics are divided by the third blob
    for number, block in enumerate(order, start=1):
        arrays = {name: value.numpy() for name, value in block.state_dict().items()}
        statistics = [arrays["bn.running_mean"] * factor, arrays["bn.running_var"] * factor, factor]
        layers += [
            (f"Convolution{number}", "Convolution", [arrays["conv.weight"]]),
            (f"BatchNorm{number}", "BatchNorm", statistics),
            (f"Scale{number}", "Scale", [arrays["bn.weight"], arrays["bn.bias"]]),
        ]
    layers += [
        ("Eltwise1", "Eltwise", []),
        ("fc1000", "InnerProduct", [reference.output.weight.detach().numpy()]),
    ]
    assert len(order) == 1 + 4 + 5 * sum(BLOCKS) + 1
    net = import_network(
        written(tmp_path, encoders.caffemodel(layers)), "squeezenext_23", {"blocks": BLOCKS}
    )
    assert np.max(np.abs(verify.logits(net, images) - expected)) < 1e-4 * np.max(np.abs(expected))
