"""Nets in .sqz files and back."""

import struct
import zlib
from dataclasses import replace

import jax
import numpy as np
import pytest

from squeeze_jax.compress import container, table
from squeeze_jax.compress.levels import Levels, Outline, Uniform
from squeeze_jax.errors import UserError
from squeeze_jax.net import Net, Preprocessing, weight_shapes

PREPROCESSING = Preprocessing(64, 72, "short", "bgr", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0))
V11 = {"name": "squeezenet_v1_1", "num_fire": 2, "base_e": 16, "pool_after": ["conv1"]}
NORMED = {"name": "squeezenext_23", "blocks": [1, 1, 1, 1], "width": 0.25}
CLASSES = {"letters": tuple("abcde")}


def random_net(model, few_values, classes=tuple("abcde"), seed=0):
    """A net of random weights; of few distinct ones, most of them zero, if so."""
    random = np.random.default_rng(seed)
    shapes = weight_shapes({"model": model, "num_classes": len(classes)})
    params, stats = jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    if few_values:
        params = jax.tree.map(lambda leaf: np.where(abs(leaf) > 0.1, np.round(leaf, 2), 0).astype(np.float32) + 0, params)
    return Net(model, classes, PREPROCESSING, params, stats, source="a test")


def same_net(a, b):
    trees = (a.params, a.stats), (b.params, b.stats)
    same = jax.tree.structure(trees[0]) == jax.tree.structure(trees[1]) and a.record() == b.record()
    return same and all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(*map(jax.tree.leaves, trees)))


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
        coded[path] = Levels(levels, Uniform(0.02)) if path.endswith("kernel") else leaf.astype(np.float16)
    found = container.paths(*(lambda net: (net.params, net.stats))(container.read(container.write(net, coded))))
    for path, leaf in container.paths(net.params, net.stats).items():
        expected = np.round(leaf * 50) * np.float32(0.02) if path.endswith("kernel") else leaf.astype(np.float16)
        np.testing.assert_array_equal(found[path], expected.astype(np.float32))


def test_known_classes_cost_next_to_nothing():
    classes = tuple(f"n{i:08} {hash(i * 7919) % 10**9}" for i in range(1000))
    net = random_net(V11, few_values=True, classes=classes)
    known = {"thousand": classes}
    data = container.lossless(net, known_classes=known)
    assert len(data) < len(container.lossless(net)) - 3000
    assert container.read(data, known).class_names == classes
    for others in (None, {"thousand": classes[::-1]}):
        with pytest.raises(UserError, match="a list called 'thousand'"):
            container.read(data, others)


@pytest.fixture(scope="module")
def small():
    net = random_net(V11, few_values=True)
    return net, container.lossless(net, bits=10)


def resealed(data, **places):
    """With numbers of the header replaced and the check sum put right."""
    changed = bytearray(data[:-4])
    for place, number in places.items():
        form, offset = {"v": "B", "u": "I"}[place[0]], int(place[1:])
        struct.pack_into(f"<{form}", changed, offset, number)
    return bytes(changed) + struct.pack("<I", zlib.crc32(changed))


@pytest.mark.parametrize(
    "places, words",
    [
        ({"v4": 2}, "version 2"),
        ({"v5": 2}, "flags 2"),
        ({"v6": 40}, "2\\^40 contexts"),
        ({"v7": 1}, "version 1"),
        ({"u8": 100}, "should have 100"),
        ({"u12": 0}, "more than 0 tensors"),
        ({"u12": 2**32 - 1}, "ends early"),
        ({"u16": 2**32 - 1}, "256 MiB"),
        ({"u16": 7}, "7 weights in all"),
        ({"u20": 2**32 - 1}, "bytes and should have"),
        ({"u24": 0}, "table of tensors"),
    ],
)
def test_headers_that_disagree_are_refused(small, places, words):
    with pytest.raises(UserError, match=words):
        container.read(resealed(small[1], **places))


def test_a_file_that_ends_early_is_refused(small):
    for size in np.linspace(0, len(small[1]), 100, endpoint=False, dtype=int):
        with pytest.raises(UserError):
            container.read(small[1][:size])


def test_arrays_have_to_be_the_nets(small):
    coded = container.paths(small[0].params, small[0].stats)
    with pytest.raises(UserError, match="1 arrays are missing.*conv1/kernel"):
        container.write(small[0], {path: leaf for path, leaf in coded.items() if path != "params/conv1/kernel"})
    with pytest.raises(UserError, match="2\\^9"):
        container.write(small[0], coded, bits=9)


@pytest.mark.parametrize(
    "changed", [{"source": 5}, {"model": {"name": "no such net"}}, {"model": V11 | {"base_e": 10**9}}, {"class_names": []}]
)
def test_records_of_no_net_are_refused(small, changed):
    net = small[0]
    odd = replace(net, **changed)
    with pytest.raises(UserError, match="record|no such net|model"):
        container.read(container.lossless(odd, bits=10))


def test_a_record_of_another_net_is_refused(small):
    with pytest.raises(UserError, match="not those of the net in its record"):
        container.read(container.lossless(replace(small[0], model=V11 | {"base_e": 32}), bits=10))


def test_tables_come_back():
    outlines = {
        "params/a/kernel": Outline((3, 3, 200, 70_000), "uniform", 300, 2**24 - 1, 0.1015625, 1),
        "params/a/bias": Outline((), "float16"),
        "stats/ä": Outline((0, 5), "shared", 0, 255),
        "t": Outline((2**31 - 1,), "float32"),
    }
    packed = table.pack(outlines)
    assert table.unpack(packed, 4) == outlines
    for size in range(len(packed)):
        with pytest.raises(UserError):
            table.unpack(packed[:size], 4)
    for name in ("", "x" * 256, "a\0b"):
        with pytest.raises(UserError, match="name"):
            table.pack({name: Outline((1,), "float32")})
