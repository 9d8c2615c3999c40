"""Feeds damaged and hostile weight files to the importers.

Run from the repository's root:

    python -m experiments.convert.fuzz --count 2000

A file must be rejected with one line or give exactly the weights that it holds. Where bits of a
weight were flipped and the format has no checksum, the values of weights may differ and nothing
else. Anything else is a failure, and the exit status is 1.
"""

import argparse
import collections
import io
import json
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
import torch

from experiments.damage import cut_out, flipped, inserted, peak, table, truncated
from squeeze_jax.convert import import_network
from squeeze_jax.convert.metadata import KEY, METADATA
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network
from tests.convert import encoders

OPTIONS = {key: value for key, value in encoders.TINY.items() if key != "name"}
Layers = list[tuple[str, np.ndarray, np.ndarray]]  # (Caffe's name, weights [O, I, H, W], biases)
TORCH_NAMES = {
    "conv1": "features.0",
    "fire2/squeeze1x1": "features.3.squeeze",
    "fire2/expand1x1": "features.3.expand1x1",
    "fire2/expand3x3": "features.3.expand3x3",
    "conv10": "classifier.1",
}


def state_dict(layers: Layers) -> dict[str, np.ndarray]:
    """Returns arrays under torchvision's names; unknown layers keep theirs."""
    pairs = ((TORCH_NAMES.get(name, name), weights, biases) for name, weights, biases in layers)
    return {
        f"{name}.{leaf}": array
        for name, *arrays in pairs
        for leaf, array in zip(("weight", "bias"), arrays, strict=True)
    }


def pth(layers: Layers, zipped: bool) -> bytes:
    """Writes a .pth file, as a zip archive or in PyTorch's old format."""
    content = io.BytesIO()
    tensors = {
        name: torch.from_numpy(np.array(array)) for name, array in state_dict(layers).items()
    }
    torch.save(tensors, content, _use_new_zipfile_serialization=zipped)
    return content.getvalue()


def metadata() -> str:
    """Returns the metadata of a network as the exporters of squeeze_jax write them."""
    preprocessing = dict(
        image_size=64,
        resize=64,
        resize_mode="squash",
        channel_order="rgb",
        mean=[0.0] * 3,
        std=[1.0] * 3,
    )
    classes = [f"class {i}" for i in range(5)]
    record = {
        "model": encoders.TINY,
        "data": preprocessing,
        "num_classes": 5,
        "class_names": classes,
        "source": "fuzz",
    }
    return json.dumps(record)


def described(layers: Layers) -> bytes:
    """Writes a .safetensors file with metadata."""
    return safetensors.numpy.save(state_dict(layers), {"format": "pt", KEY: metadata()})


def described_pth(layers: Layers) -> bytes:
    """Writes a .pth file with metadata."""
    content = io.BytesIO(pth(layers, zipped=True))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(zipfile.ZipInfo(f"archive/{METADATA}"), metadata())
    return content.getvalue()


def caffemodel(layers: Layers, old: bool) -> bytes:
    """Writes a .caffemodel file, with the layer messages of old or new Caffe."""
    return encoders.caffemodel(
        [(name, "Convolution", list(arrays)) for name, *arrays in layers], old
    )


class Format(NamedTuple):
    """Describes a kind of file and how it is imported."""

    suffix: str
    write: Callable[[Layers], bytes]
    model: str | None = "squeezenet_v1_0"
    named: bool = True  # the file names its arrays and gives their shapes
    classes: int = 5


FORMATS = {
    ".caffemodel": Format(".caffemodel", lambda layers: caffemodel(layers, old=False)),
    ".caffemodel, old": Format(".caffemodel", lambda layers: caffemodel(layers, old=True)),
    ".net": Format(
        ".net",
        lambda layers: encoders.deep_compressed([layer[1:] for layer in layers]),
        named=False,
        classes=1000,
    ),
    ".pth": Format(".pth", lambda layers: pth(layers, zipped=True)),
    ".pth, old": Format(".pth", lambda layers: pth(layers, zipped=False)),
    ".safetensors": Format(
        ".safetensors", lambda layers: safetensors.numpy.save(state_dict(layers))
    ),
    ".safetensors, ours": Format(".safetensors", described, model=None),
    ".pth, ours": Format(".pth", described_pth, model=None),
}


class Case(NamedTuple):
    """Holds a damaged file and what an importer may make of it."""

    format: str
    damage: str
    content: bytes
    layers: Layers  # the weights that the file should hold
    values_may_differ: bool = False


def flipped_head(content: bytes, random: np.random.Generator) -> bytes:
    """Flips bits in the first 400 bytes, which hold lengths, shapes and names."""
    size = min(len(content), 400)
    return flipped(content[:size], random) + content[size:]


def huge_length(content: bytes, random: np.random.Generator) -> bytes:
    """Writes a number that is far too large where a length may be."""
    width = int(random.choice([1, 2, 4, 8]))
    offset = random.integers(max(1, min(len(content) - width, 600)))
    return (
        content[:offset]
        + b"\xff" * (width - 1)
        + bytes([random.choice([0x7F, 0xFF, 0x0F])])
        + content[offset + width :]
    )


def wrong_magic(content: bytes, random: np.random.Generator) -> bytes:
    """Puts the magic number of another format in front."""
    magic = [
        b"PK\x03\x04",
        b"\x89HDF",
        b"\x80\x02}q",
        b"\0" * 8,
        b"\xff" * 8,
        b"GIF8",
        b"ustar",
        b'{"a":',
    ]
    return magic[random.integers(len(magic))] + content[4 * int(random.integers(3)) :]


def noise(content: bytes, random: np.random.Generator) -> bytes:
    """Returns random bytes."""
    return random.bytes(random.integers(0, 4000))


BYTES = [truncated, flipped, flipped_head, huge_length, wrong_magic, cut_out, inserted, noise]
# These may hit a weight, which only a checksum would show.
SILENT = {flipped, flipped_head, huge_length}


def shuffled(layers: Layers, random: np.random.Generator) -> Layers:
    """Permutes the layers' names."""
    order = random.permutation(len(layers))
    return [(layers[index][0], *layer[1:]) for index, layer in zip(order, layers, strict=True)]


def reordered(layers: Layers, random: np.random.Generator) -> Layers:
    """Permutes the layers, which keep their names."""
    return [layers[index] for index in random.permutation(len(layers))]


def without_one(layers: Layers, random: np.random.Generator) -> Layers:
    """Removes a layer."""
    index = random.integers(len(layers))
    return layers[:index] + layers[index + 1 :]


def one_more(layers: Layers, random: np.random.Generator) -> Layers:
    """Adds a layer with a hostile name."""
    name, *arrays = layers[random.integers(len(layers))]
    return [*layers, (f"{name}\n\0{'x' * int(random.integers(300))}", *arrays)]


def transposed(layers: Layers, random: np.random.Generator) -> Layers:
    """Permutes the axes of a layer's weights."""
    index = random.integers(len(layers))
    name, weights, biases = layers[index]
    changed = (name, weights.transpose(random.permutation(4)).copy(), biases)
    return [*layers[:index], changed, *layers[index + 1 :]]


def not_a_number(layers: Layers, random: np.random.Generator) -> Layers:
    """Sets the first bias of a layer to NaN."""
    index = random.integers(len(layers))
    name, weights, biases = layers[index]
    changed = (name, weights, np.where(np.arange(len(biases)) == 0, np.float32("nan"), biases))
    return [*layers[:index], changed, *layers[index + 1 :]]


# MB by which peak memory may grow. Every file is below 1 MB; the rest is what the allocator keeps
# after many thousands of imports.
MOST_MEMORY = 64

LAYERS = [shuffled, reordered, without_one, one_more, transposed, not_a_number]


def zip_bomb(content: bytes, random: np.random.Generator) -> bytes:
    """Returns an archive whose entries expand to thousands of times its size, or claim to."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(
                name,
                bytes(1 << int(random.integers(20, 27)))
                if name.endswith(f"data/{random.integers(10)}")
                else data,
            )
    if random.random() < 0.5:
        return bomb.getvalue()
    changed = bytearray(content)  # declared sizes of the central directory's entries
    offset = changed.find(b"PK\x01\x02", int(random.integers(len(changed) // 2)))
    struct.pack_into("<II", changed, offset + 20, *random.integers(1 << 20, 1 << 31, 2).tolist())
    return bytes(changed)


def cases(count: int, seed: int) -> Iterator[Case]:
    """Yields `count` damaged files, taking formats and damages in turn."""
    random = np.random.default_rng(seed)
    turns = [(name, damage) for damage in (*BYTES, *LAYERS, zip_bomb) for name in FORMATS]
    turns = [(name, damage) for name, damage in turns if damage is not zip_bomb or name == ".pth"]
    turns = [
        (name, damage)
        for name, damage in turns
        if damage not in LAYERS or FORMATS[name].named or damage is not_a_number
    ]
    for number in range(count):
        name, damage = turns[number % len(turns)]
        layers = encoders.squeezenet_layers(
            classes=FORMATS[name].classes, seed=int(random.integers(1 << 30)), sparse=name == ".net"
        )
        if damage in LAYERS:
            changed = damage(layers, random)
            yield Case(name, damage.__name__, FORMATS[name].write(changed), changed)
        else:
            yield Case(
                name,
                damage.__name__,
                damage(FORMATS[name].write(layers), random),
                layers,
                damage in SILENT,
            )


def outcome(case: Case, folder: Path) -> str:
    """Returns "refused", "right", "value" if weights have other values, or the failure."""
    form = FORMATS[case.format]
    path = folder / f"damaged{form.suffix}"
    path.write_bytes(case.content)
    try:
        net = import_network(path, form.model, OPTIONS if form.model else None)
    except UserError as e:
        return (
            "refused"
            if "\n" not in str(e) and len(str(e)) < 2000
            else f"a message that is not one line: {str(e)[:100]!r}"
        )
    except Exception:
        return traceback.format_exc().strip()
    return compare(net, case)


def compare(net: Network, case: Case) -> str:
    """Compares a network with the weights of its file and returns the outcome."""
    expected = {}
    for name, weights, biases in case.layers:
        expected[name.replace("squeeze1x1", "squeeze")] = {
            "kernel": weights.transpose(2, 3, 1, 0),
            "bias": biases,
        }
    differing = 0
    for name, layer in expected.items():
        found: Any = net.params
        for key in name.split("/"):
            found = found[key]
        for leaf, array in layer.items():
            if found[leaf].shape != array.shape or not np.isfinite(found[leaf]).all():
                return f"{name}/{leaf} is no array of finite numbers of its shape"
            differing += int(np.sum(found[leaf] != array))
    if len(jax.tree.leaves(net.params)) != 2 * len(expected):
        return "layers too many"
    return (
        "right"
        if not differing
        else "value"
        if case.values_may_differ
        else f"{differing} numbers differ"
    )


def run(
    count: int, seed: int
) -> tuple[dict[str, collections.Counter], list[tuple[Case, str]], float]:
    """Imports `count` damaged files.

    Returns:
      The outcomes of each format, the failures, and the CPU seconds of the slowest file.
    """
    counts: dict[str, collections.Counter] = {name: collections.Counter() for name in FORMATS}
    failures, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(count, seed):
            start = time.process_time()
            found = outcome(case, Path(folder))
            slowest = max(slowest, time.process_time() - start)
            if found not in ("refused", "right", "value"):
                failures.append((case, found))
                found = "failed"
            counts[case.format][found] += 1
    return counts, failures, slowest


def main() -> int:
    """Runs the fuzzer and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    run(
        len(FORMATS) * 4, args.seed
    )  # loads libraries and builds tables of names before memory is measured
    before = peak()
    counts, failures, slowest = run(args.count, args.seed)
    headings = {
        "refused": "refused",
        "right": "right weights",
        "value": "numbers as flipped",
        "failed": "failed",
    }
    print(table(counts, headings))
    grown = peak() - before
    print(f"Slowest file: {slowest:.2f} s of CPU time.")
    print(
        f"Peak memory: {before:.0f} MB with the libraries loaded, {grown:.0f} MB more in the end."
    )
    for case, found in failures[:20]:
        print(f"\nFAILED: {case.format}, {case.damage}: {found}", file=sys.stderr)
    return int(bool(failures) or grown > MOST_MEMORY)


if __name__ == "__main__":
    sys.exit(main())
