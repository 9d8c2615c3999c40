"""Nets in .sqz files and back."""

import struct
import zlib
from dataclasses import replace

import jax
import numpy as np
import pytest

from squeeze_jax import cli
from squeeze_jax.compress import quantize
from squeeze_jax.compress.sqz import container, delta, file_format, tensor_table
from squeeze_jax.compress.sqz.coders import CODERS
from squeeze_jax.compress.sqz.quantized_tensor import (
    Codebook,
    QuantizedTensor,
    TensorSpec,
    UniformScale,
)
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, replace_leaves, weight_shapes
from squeeze_jax.train import checkpoint

PREPROCESSING = Preprocessing(64, 72, "short", "bgr", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0))
V11 = {"name": "squeezenet_v1_1", "num_fire": 2, "base_e": 16, "pool_after": ["conv1"]}
NORMED = {"name": "squeezenext_23", "blocks": [1, 1, 1, 1], "width": 0.25}
CLASSES = {"letters": tuple("abcde")}


def random_net(model, few_values, classes=tuple("abcde"), seed=0):
    """A net of random weights; of few distinct ones, most of them zero, if so."""
    random = np.random.default_rng(seed)
    shapes = weight_shapes({"model": model, "num_classes": len(classes)})
    params, stats = jax.tree.map(
        lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), shapes
    )
    if few_values:
        params = jax.tree.map(
            lambda leaf: np.where(abs(leaf) > 0.1, np.round(leaf, 2), 0).astype(np.float32) + 0,
            params,
        )
    return Network(model, classes, PREPROCESSING, params, stats, source="a test")


def same_net(a, b):
    trees = (a.params, a.stats), (b.params, b.stats)
    same = (
        jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])
        and a.metadata() == b.metadata()
    )
    return same and all(
        x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(*map(jax.tree.leaves, trees), strict=True)
    )


@pytest.mark.parametrize("model", [V11, NORMED], ids=["v1.1", "BatchNorm"])
@pytest.mark.parametrize("coder", ["arithmetic", "huffman"])
@pytest.mark.parametrize("few_values", [True, False])
def test_a_net_comes_back_bit_for_bit(model, coder, few_values):
    net = random_net(model, few_values)
    data = container.lossless(net, coder=coder, bits=12)
    assert same_net(container.read(data), net)
    dense = sum(4 * leaf.size for leaf in jax.tree.leaves((net.params, net.stats)))
    assert len(data) < (0.6 if few_values else 1.1) * dense


def test_levels_become_weights():
    """Uniform steps and half precision: the net that is read has the weights that they say."""
    net = random_net(V11, few_values=False)
    coded = {}
    for path, leaf in container.paths(net.params, net.stats).items():
        levels = np.round(leaf * 50).astype(np.int32)
        coded[path] = (
            QuantizedTensor(levels, UniformScale(0.02))
            if path.endswith("kernel")
            else leaf.astype(np.float16)
        )
    found = container.paths(
        *(lambda net: (net.params, net.stats))(container.read(container.write(net, coded)))
    )
    for path, leaf in container.paths(net.params, net.stats).items():
        expected = (
            np.round(leaf * 50) * np.float32(0.02)
            if path.endswith("kernel")
            else leaf.astype(np.float16)
        )
        np.testing.assert_array_equal(found[path], expected.astype(np.float32))


@pytest.mark.parametrize("bits", [3, 5, 9])
@pytest.mark.parametrize("model", [V11, NORMED], ids=["v1.1", "BatchNorm"])
def test_a_lossy_file_comes_back_losslessly_as_small(model, bits):
    """Steps and half precision are found again among the weights."""
    data = container.write(
        net := random_net(model, few_values=False), quantize.to_bits(net, None, bits)
    )
    decoded = container.read(data)
    again = container.lossless(decoded)
    assert same_net(container.read(again), decoded)
    assert abs(len(again) - len(data)) <= 0.01 * len(data)


def test_known_classes_cost_next_to_nothing():
    classes = tuple(f"n{i:08} {hash(i * 7919) % 10**9}" for i in range(1000))
    net = random_net(V11, few_values=True, classes=classes)
    known = {"thousand": classes}
    data = container.lossless(net, known_classes=known)
    assert len(data) < len(container.lossless(net)) - 3000
    assert container.read(data, known).class_names == classes
    for others in (None, {"thousand": classes[::-1]}):
        with pytest.raises(UserError, match="the list 'thousand'"):
            container.read(data, others)


@pytest.fixture(scope="module")
def small():
    net = random_net(V11, few_values=True)
    return net, container.lossless(net, bits=10)


def reseal(data, **places):
    """With numbers of the header replaced and the checksum put right."""
    changed = bytearray(data[:-4])
    for place, number in places.items():
        form, offset = {"v": "B", "u": "I"}[place[0]], int(place[1:])
        struct.pack_into(f"<{form}", changed, offset, number)
    return bytes(changed) + struct.pack("<I", zlib.crc32(changed))


@pytest.mark.parametrize(
    "places, words",
    [
        ({"v4": 1}, "version 1"),
        ({"v5": 4}, "flags 4"),
        ({"v5": 2}, "it is a delta"),
        ({"v6": 40}, "not 2\\^40"),
        ({"v7": 1}, "version 2"),
        ({"u8": 100}, "instead of 100"),
        ({"u12": 0}, "more than 0 tensors"),
        ({"u12": 2**32 - 1}, "ends early"),
        ({"u16": 2**32 - 1}, "256 MiB"),
        ({"u16": 7}, "the 7 weights of its head"),
        ({"u20": 2**32 - 1}, "bytes instead of"),
        ({"u24": 0}, "table of tensors"),
        ({"u28": 1}, "flags 0"),
    ],
)
def test_headers_that_disagree_are_refused(small, places, words):
    with pytest.raises(UserError, match=words):
        container.read(reseal(small[1], **places))


def test_a_file_that_ends_early_is_refused(small):
    for size in np.linspace(0, len(small[1]), 100, endpoint=False, dtype=int):
        with pytest.raises(UserError):
            container.read(small[1][:size])


def test_arrays_have_to_be_the_nets(small):
    coded = container.paths(small[0].params, small[0].stats)
    with pytest.raises(UserError, match="1 arrays are missing.*conv1/kernel"):
        container.write(
            small[0], {path: leaf for path, leaf in coded.items() if path != "params/conv1/kernel"}
        )
    with pytest.raises(UserError, match="2\\^9"):
        container.write(small[0], coded, bits=9)


@pytest.mark.parametrize(
    "changed",
    [
        {"source": 5},
        {"model": {"name": "no such net"}},
        {"model": V11 | {"base_e": 10**9}},
        {"class_names": []},
    ],
)
def test_headers_of_no_network_are_refused(small, changed, monkeypatch):
    """By the reader: the file may be another program's, which does not look before it writes."""
    odd = replace(small[0], **changed)
    monkeypatch.setattr(type(odd), "stored_metadata", type(odd).metadata)
    with pytest.raises(UserError, match="header|no such net|model"):
        container.read(container.lossless(odd, bits=10))


def test_a_header_of_another_network_is_refused(small):
    with pytest.raises(UserError, match="not those of the network in its header"):
        container.read(container.lossless(replace(small[0], model=V11 | {"base_e": 32}), bits=10))


def arrays_of(net):
    return container.paths(net.params, net.stats)


def with_arrays(net, arrays):
    return replace(net, **replace_leaves({"params": net.params, "stats": net.stats}, arrays))


def fine_net(model):
    """Returns a network of multiples of 2^-14, so that sums are exact.

    One tensor also has -0.0, NaN and infinity.
    """
    net = random_net(model, few_values=False)
    arrays = {
        path: np.round(leaf * 2**14) / np.float32(2**14) for path, leaf in arrays_of(net).items()
    }
    next(leaf for leaf in arrays.values() if leaf.size > 10).reshape(-1)[:3] = -0.0, np.nan, np.inf
    return with_arrays(net, arrays)


def change_some(net):
    """A fiftieth of the weights, each by one of three amounts."""
    random = np.random.default_rng(1)
    amounts = np.array([-0.5, 0.25, 2], np.float32)
    arrays = {
        path: np.where(
            random.random(leaf.shape) < 0.02, leaf + random.choice(amounts, leaf.shape), leaf
        )
        for path, leaf in arrays_of(net).items()
    }
    return with_arrays(net, arrays)


DELTAS = {
    "nothing": lambda base: base,
    "all": lambda base: random_net(V11, few_values=False, seed=1),
    "few values": lambda base: random_net(V11, few_values=True, seed=1),
    "some weights": change_some,
    "another classifier": lambda base: replace(
        random_net(V11, few_values=False, classes=tuple("xyz")),
        params=base.params
        | {
            "conv10": random_net(V11, few_values=False, classes=tuple("xyz"), seed=2).params[
                "conv10"
            ]
        },
    ),
    "another net": lambda base: random_net(V11 | {"num_fire": 3}, few_values=True, seed=0),
    "a net without these paths": lambda base: random_net(NORMED, few_values=False),
}


@pytest.mark.parametrize("coder", ["arithmetic", "huffman"])
@pytest.mark.parametrize("change", DELTAS)
def test_a_delta_comes_back_bit_for_bit(coder, change):
    for base in (random_net(V11, few_values=True), fine_net(V11)):
        net = DELTAS[change](base)
        data = container.lossless(net, coder=coder, bits=10, base=base)
        assert same_net(container.read(data, base=base), net)
        assert len(data) <= len(container.lossless(net, coder=coder, bits=10)) + 8


def test_what_stays_costs_next_to_nothing():
    """Equal tensors cost one entry of the table together; a classifier amid them a second one."""
    base = fine_net(NORMED)
    assert len(arrays_of(base)) > 50
    frame = 32 + 4 + len(file_format.unpack(container.lossless(base)).header)
    assert len(container.lossless(base, base=base)) < frame + 40
    arrays = dict(arrays_of(base))
    path = next(path for path, leaf in arrays.items() if path.endswith("bias") and leaf.size > 4)
    arrays[path] = np.zeros_like(arrays[path])
    assert len(container.lossless(with_arrays(base, arrays), base=base)) < frame + 120


def test_few_changed_weights_cost_little():
    base = fine_net(V11)
    changed = change_some(base)
    assert len(container.lossless(changed, base=base)) < 0.2 * len(container.lossless(changed))


@pytest.mark.parametrize("coder", ["arithmetic", "huffman"])
def test_levels_are_added_in_one_float32_sum_each(coder):
    """Compares with scalar sums: steps and codebooks, equal tensors and an independent one."""
    base = random_net(V11, few_values=False)
    base.params["conv1"]["kernel"][0, 0, 0, :3] = -0.0, np.nan, 3e38
    random = np.random.default_rng(5)
    book = np.array([-1e-3, 0, 1 / 3, 7e7], np.float32)
    coded, expected = {}, {}
    for number, (path, leaf) in enumerate(arrays_of(base).items()):
        levels = random.integers(-1, 3, leaf.shape).astype(np.int32) * (number % 4 != 3)
        coded[path] = QuantizedTensor(levels, Codebook(book) if number % 2 else UniformScale(0.1))
        values = [
            book[level + 1] if number % 2 else np.float32(level) * np.float32(0.1)
            for level in levels.reshape(-1)
        ]
        sums = [
            old + value if level else old
            for old, value, level in zip(leaf.reshape(-1), values, levels.reshape(-1), strict=True)
        ]
        expected[path] = np.array(sums, np.float32).reshape(leaf.shape)
    alone = "params/fire2/squeeze/kernel"
    expected[alone] = coded[alone].values()
    data = container.write(
        base, coded, coder=coder, bits=10, base=base, added=coded.keys() - {alone}
    )
    assert same_net(container.read(data, base=base), with_arrays(base, expected))


def test_a_delta_knows_its_base():
    """By the weights alone, wherever they come from, and in the words of the format."""
    base, net = random_net(V11, few_values=True), random_net(V11, few_values=True, seed=1)
    data = container.lossless(net, bits=10, base=base)
    weights = b"".join(leaf.astype("<f4").tobytes() for leaf in arrays_of(base).values())
    assert struct.unpack_from("<I", data, 28)[0] == zlib.crc32(weights)
    again = replace(container.read(container.lossless(base, coder="huffman")), source="elsewhere")
    assert same_net(container.read(data, base=again), net)
    assert same_net(container.read(container.lossless(net, bits=10), base=base), net)
    with pytest.raises(UserError, match="^it is a delta.*decompress it with --base"):
        container.read(data)
    for other in (net, random_net(NORMED, few_values=False)):
        with pytest.raises(UserError, match="^it is a delta from another network"):
            container.read(data, base=other)
    with pytest.raises(UserError, match="flags 0"):
        container.read(reseal(data, v5=0), base=base)


def test_a_delta_takes_what_the_base_has(small):
    """And nothing else, in writing; in reading, whatever its table says."""
    net = small[0]
    coded = dict(arrays_of(net))
    same = QuantizedTensor(np.zeros(coded["params/conv1/bias"].shape, np.int32), UniformScale(1.0))
    for base, path in (
        (None, "params/conv1/bias"),
        (net, "params/conv1/kernel"),
        (random_net(NORMED, False), "params/conv1/bias"),
    ):
        with pytest.raises(UserError, match=f"{path} cannot be added to the base"):
            container.write(net, coded | {"params/conv1/bias": same}, base=base, added=[path])


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"a": TensorSpec((5,), "kept", base_offset=0)},
        {"a": TensorSpec((7,), "kept", base_offset=0)},
        {"a": TensorSpec((6,), "kept", base_offset=1)},
        {"b": TensorSpec((6,), "kept", base_offset=0)},
        {
            "a": TensorSpec((4,), "kept", base_offset=0),
            "b": TensorSpec((2,), "kept", base_offset=3),
        },
        {
            "a": TensorSpec((4,), "kept", base_offset=0),
            "b": TensorSpec((2, 1), "uniform", base_offset=4),
        },
        {"a": TensorSpec((2, 2), "codebook", base_offset=1), "b": TensorSpec((2,), "float32")},
        {
            "a": TensorSpec((6,), "kept", base_offset=0),
            "b": TensorSpec((0,), "kept", base_offset=6),
        },
    ],
)
def test_tables_that_do_not_fit_the_base_are_refused(entries):
    base = delta.BaseWeights.of({"a": np.ones((2, 2)), "b": np.zeros(2)})
    shapes = {path: item.shape for path, item in base.specs.items()}
    assert delta.resolve(shapes, {"a": TensorSpec((6,), "kept", base_offset=0)}, base) == base.specs
    with pytest.raises(UserError, match="not those of the network|that its base lacks"):
        delta.resolve(shapes, entries, base)


def test_a_base_that_saves_nothing_is_not_needed(tmp_path, monkeypatch, capsys):
    base, net = random_net(V11, few_values=True), random_net(V11, few_values=False, seed=1)
    checkpoint.save_network(base, tmp_path / "old")
    checkpoint.save_network(net, tmp_path / "new")
    command = ["compress", tmp_path / "new", "-o", tmp_path / "new.sqz", "--base", tmp_path / "old"]
    assert cli.main(list(map(str, command))) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"{tmp_path / 'old'} saves nothing: the file does not need it"
    assert same_net(container.read((tmp_path / "new.sqz").read_bytes()), net)


@pytest.mark.slow
def test_deltas_on_the_command_line(tmp_path, monkeypatch, capsys):
    """A checkpoint as the base of writing, a .sqz file as that of reading."""
    base, other = random_net(V11, few_values=True), random_net(V11, few_values=False, seed=1)
    net = replace(base, params=base.params | {"conv10": other.params["conv10"]})

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["squeeze-jax", *map(str, arguments)])
        return cli.main(), *capsys.readouterr()

    checkpoint.save_network(base, tmp_path / "old")
    checkpoint.save_network(net, tmp_path / "new")
    assert run("compress", tmp_path / "old", "-o", tmp_path / "old.sqz")[0] == 0
    code, out, _ = run(
        "compress", tmp_path / "new", "-o", tmp_path / "delta.sqz", "--base", tmp_path / "old"
    )
    assert code == 0 and f"{(tmp_path / 'delta.sqz').stat().st_size:,} bytes" in out
    assert "saves nothing" not in out
    assert (
        run(
            "decompress",
            tmp_path / "delta.sqz",
            "--base",
            tmp_path / "old.sqz",
            "-o",
            tmp_path / "again",
        )[0]
        == 0
    )
    assert same_net(checkpoint.load_network(tmp_path / "again"), net)
    for arguments, words in (
        (
            ("decompress", tmp_path / "delta.sqz", "-o", tmp_path / "x"),
            "decompress it with --base",
        ),
        (("evaluate", tmp_path / "delta.sqz", "--data", "digits"), "decompress it with --base"),
        (
            ("export", tmp_path / "delta.sqz", "--format", "onnx", "-o", tmp_path / "x.onnx"),
            "decompress it with --base",
        ),
        (
            (
                "decompress",
                tmp_path / "delta.sqz",
                "--base",
                tmp_path / "new",
                "-o",
                tmp_path / "x",
            ),
            "a delta from another network",
        ),
    ):
        code, out, err = run(*arguments)
        assert code == 2 and out == "" and err.count("\n") == 1 and words in err


def test_tables_come_back():
    specs = {
        "params/a/kernel": TensorSpec((3, 3, 200, 70_000), "uniform", 300, 2**24 - 1, 0.1015625, 1),
        "params/a/bias": TensorSpec((), "float16"),
        "params/b": TensorSpec((1000,), "kept", base_offset=7),
        "stats/ä": TensorSpec((0, 5), "codebook", 0, 255),
        "stats/b": TensorSpec((4, 5), "codebook", 3, 2, base_offset=1007),
        "stats/c": TensorSpec((2, 2), "uniform", 3, 2, 0.5, base_offset=70_000),
        "t": TensorSpec((2**31 - 1,), "float32"),
    }
    packed = tensor_table.pack(specs)
    assert tensor_table.unpack(packed, 7, is_delta=True) == specs
    for size in range(len(packed)):
        with pytest.raises(UserError):
            tensor_table.unpack(packed[:size], 7, is_delta=True)
    for name in ("", "x" * 256, "a\0b"):
        with pytest.raises(UserError, match="name"):
            tensor_table.pack({name: TensorSpec((1,), "float32")})


@pytest.mark.parametrize(
    "item",
    [
        TensorSpec((3,), "kept", base_offset=0),
        TensorSpec((3,), "uniform", 1, 1, 0.5, base_offset=0),
        TensorSpec((3,), "float32", base_offset=0),
    ],
)
def test_only_deltas_and_only_levels_are_added(item):
    with pytest.raises(UserError, match="damaged"):
        tensor_table.unpack(tensor_table.pack({"a": item}), 1, is_delta=item.kind == "float32")


def test_a_coder_added_from_outside_is_written_and_read(monkeypatch):
    """One entry of the dict is enough; without it the file is refused."""
    huffman = CODERS["huffman"]
    toy = huffman._replace(
        flag=4,
        encode=lambda tensors, bits: (
            (found := huffman.encode(tensors, bits))[0],
            found[1][::-1],
        ),
        decode=lambda payload, specs, bits: huffman.decode(payload[::-1], specs, bits),
    )
    net = random_net(V11, few_values=True)
    monkeypatch.setitem(CODERS, "toy", toy)
    data = container.lossless(net, coder="toy")
    assert data[5] == 4 and same_net(container.read(data), net)
    assert same_net(container.read(container.lossless(net, coder="toy", base=net), base=net), net)
    monkeypatch.delitem(CODERS, "toy")
    with pytest.raises(UserError, match="flags 4"):
        container.read(data)
    with pytest.raises(UserError, match="unknown coder 'toy'; choose one of arithmetic, huffman"):
        container.lossless(net, coder="toy")
