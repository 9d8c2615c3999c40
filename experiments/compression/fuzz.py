"""Feeds damaged and hostile .sqz files to both decoders.

Run from the repository's root:

    python -m experiments.compression.fuzz --count 10000

Both decoders get every file; the one in C is built with the address and undefined-behaviour
sanitizers where the compiler has them. A damaged file must be rejected with one line and an exit
status, or give the right weights. A file whose length and checksum were corrected after the damage
may mean anything: if Python accepts it, it must be a network of the shapes in its header, and C
must read the same weights. Anything else is a failure, and the exit status is 1. Every other file
is a delta, and both decoders have its base.
"""

import argparse
import collections
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.damage import cut_out, flipped, inserted, peak, table, truncated
from squeeze_jax.compress.sqz import container
from squeeze_jax.compress.sqz.coders import CODERS
from squeeze_jax.compress.sqz.quantized_tensor import (
    Codebook,
    QuantizedTensor,
    UniformScale,
    find_codebook,
)
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, replace_leaves, weight_shapes

SOURCES = [Path(__file__).parents[2] / "c" / name for name in ("sqz_main.c", "sqz.c")]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
MODEL = {
    "name": "squeezenet_v1_1",
    "num_fire": 1,
    "base_e": 16,
    "conv1_filters": 8,
    "pool_after": ["conv1"],
}
PREPROCESSING = Preprocessing(64, 64, "squash", "rgb", (0.0,) * 3, (1.0,) * 3)
HEADER = 32  # bytes
# The step of uniform scales. Its multiples are rounded, so the order of roundings matters.
STEP = float(np.float32(0.1))
MOST_SECONDS = 5.0  # of CPU time for a file in Python, and for one in C on average


def compiler() -> str | None:
    """Returns the path of a C compiler, or None."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def build(folder: Path, *flags: str) -> Path:
    """Builds the program of c/ and returns its path.

    It has the sanitizers if the compiler knows them.
    """
    program = folder / "sqz"
    command = [compiler(), "-std=c99", "-O1", "-g", *flags, "-o", str(program), *map(str, SOURCES)]
    if subprocess.run([*command, *SANITIZERS], capture_output=True).returncode:
        subprocess.run(command, check=True)
    return program


def small_net(seed: int) -> tuple[Network, dict[str, QuantizedTensor | np.ndarray]]:
    """Returns a network with every kind of tensor, and its tensors by path."""
    random = np.random.default_rng(seed)
    params, stats = weight_shapes({"model": MODEL, "num_classes": 5})
    coded = {}
    for number, (path, leaf) in enumerate(container.paths(params, stats).items()):
        values = random.normal(0, 1, leaf.shape) * (random.random(leaf.shape) < 0.5)
        if path.endswith("bias"):
            coded[path] = values.astype(np.float16 if number % 4 else np.float32)
        elif number % 4 == 1:
            coded[path] = QuantizedTensor(
                np.round(values * 10).astype(np.int32), UniformScale(STEP)
            )
        else:
            found = find_codebook(np.round(values * 4).astype(np.float32) / 3)
            coded[path] = found or QuantizedTensor(
                np.zeros(leaf.shape, np.int32), Codebook(np.zeros(1, np.float32))
            )
    arrays = {
        path: tensor.values() if isinstance(tensor, QuantizedTensor) else tensor.astype(np.float32)
        for path, tensor in coded.items()
    }
    filled = replace_leaves({"params": params, "stats": stats}, arrays)
    return Network(MODEL, tuple("abcde"), PREPROCESSING, **filled, source="fuzz"), coded


def small_delta(seed: int, base: Network, coder: str) -> tuple[Network, bytes]:
    """Returns a network with equal, added and independent tensors, and its file."""
    random = np.random.default_rng(seed)
    net, coded = small_net(seed)
    added = [
        path
        for path, tensor in coded.items()
        if isinstance(tensor, QuantizedTensor) and random.random() < 0.6
    ]
    kept = [path for path in coded if path not in added and random.random() < 0.5]
    coded |= {
        path: QuantizedTensor(np.zeros(coded[path].shape, np.int32), UniformScale(1.0))
        for path in kept
        if not isinstance(coded[path], QuantizedTensor)
    }
    data = container.write(
        net,
        coded,
        coder=coder,
        bits=10,
        base=base,
        added=[path for path in coded if path in added or path in kept],
    )
    return container.read(data, base=base), data


def weights_of(net: Network) -> np.ndarray:
    """Returns all weights of a network in the file's order, float32 [weights]."""
    return np.concatenate(
        [
            np.ascontiguousarray(leaf).reshape(-1)
            for leaf in container.paths(net.params, net.stats).values()
        ]
    )


def sum_of(net: Network) -> int:
    """Returns the sum that the C program prints for these weights."""
    bits = weights_of(net).view(np.uint32).astype(np.uint64)
    return int((bits * (2 * np.arange(len(bits), dtype=np.uint64) + 1)).sum())


def flip_header(content: bytes, random: np.random.Generator) -> bytes:
    """Flips bits in the first HEADER bytes."""
    return flipped(content[:HEADER], random) + content[HEADER:]


def flip_table(content: bytes, random: np.random.Generator) -> bytes:
    """Flips bits in the tensor table: names, shapes, kinds and sizes of codebooks."""
    metadata_bytes, size = struct.unpack_from("<II", content, 20)
    start = HEADER + metadata_bytes
    return (
        content[:start] + flipped(content[start : start + size], random) + content[start + size :]
    )


def flip_payload(content: bytes, random: np.random.Generator) -> bytes:
    """Flips bits in the coded weights."""
    start = HEADER + sum(struct.unpack_from("<II", content, 20))
    return content[:start] + flipped(content[start:], random)


def huge_number(content: bytes, random: np.random.Generator) -> bytes:
    """Writes the largest integer of 1, 2 or 4 bytes into the first 600 bytes."""
    width = int(random.choice([1, 2, 4]))
    offset = random.integers(min(len(content) - width, 600))
    return (
        content[:offset]
        + b"\xff" * (width - 1)
        + bytes([random.choice([0x7F, 0xFF, 0x0F])])
        + content[offset + width :]
    )


def noise(content: bytes, random: np.random.Generator) -> bytes:
    """Replaces all but the first bytes of a file by random ones."""
    return content[: random.integers(60)] + random.bytes(random.integers(0, 4000))


DAMAGES = [
    truncated,
    flipped,
    flip_header,
    flip_table,
    flip_payload,
    huge_number,
    cut_out,
    inserted,
    noise,
]


def mend_checksum(content: bytes) -> bytes:
    """Writes a damaged file's length and checksum anew."""
    if len(content) < HEADER + 4:
        return content
    content = content[:8] + struct.pack("<I", len(content)) + content[12:-4]
    return content + struct.pack("<I", zlib.crc32(content))


class Case(NamedTuple):
    """Holds a damaged file and what a decoder may make of it."""

    kind: str
    damage: str
    content: bytes
    sum: int  # `sum_of` the undamaged file
    mended: bool  # its length and checksum were corrected


def cases(count: int, seed: int, base: Network) -> Iterator[Case]:
    """Yields `count` damaged files.

    They alternate between coders, whole files and deltas, damages, and corrected checksums or not.
    """
    random = np.random.default_rng(seed)
    files = []
    for number in range(1, 5):
        net, coded = small_net(seed + number)
        for coder in ("arithmetic", "huffman"):
            files.append((coder, sum_of(net), container.write(net, coded, coder=coder, bits=10)))
            decoded, data = small_delta(seed + number, base, coder)
            files.append((f"{coder}, delta", sum_of(decoded), data))
    for number in range(count):
        kind, total, content = files[random.integers(len(files))]
        damage = DAMAGES[number % len(DAMAGES)]
        mend = number // len(DAMAGES) % 2 == 1
        changed = damage(content, random)
        yield Case(
            f"{kind}{', checksum mended' if mend else ''}",
            damage.__name__,
            mend_checksum(changed) if mend else changed,
            total,
            mend,
        )


def read_in_c(program: Path, contents: Sequence[bytes], base: Network) -> list[tuple[int, int]]:
    """Decodes files in C and returns the (status, sum) of each.

    Args:
      program: what `build` made with -DSQZ_FUZZ.
      contents: the files.
      base: the base of the deltas.

    Raises:
      RuntimeError: the program died or took too long.
    """
    bundle = b"".join(struct.pack("<I", len(content)) + content for content in contents)
    path = program.with_name("base.f32")
    path.write_bytes(weights_of(base).tobytes())
    try:
        done = subprocess.run(
            [str(program), str(path)],
            input=bundle,
            capture_output=True,
            timeout=60 + MOST_SECONDS * len(contents),
        )
    except subprocess.TimeoutExpired as e:
        raise RuntimeError("the decoder in C hangs") from e
    lines = done.stdout.decode().splitlines()
    if done.returncode or len(lines) != len(contents):
        raise RuntimeError(
            f"the decoder in C died at file {len(lines)}: {done.stderr.decode()[:2000]}"
        )
    return [(int(status), int(total, 16)) for status, total in map(str.split, lines)]


def outcome(case: Case, in_c: tuple[int, int] | None, base: Network) -> str:
    """Returns "refused", "right", "other weights" if the checksum was corrected, or the failure."""
    status, total = in_c or (None, 0)
    accepted = status == 0
    try:
        net = container.read(case.content, base=base)
    except UserError as e:
        if "\n" in str(e) or len(str(e)) > 500:
            return f"a message that is not one line: {str(e)[:100]!r}"
        # Only Python reads the metadata; C accepts what it never reads.
        return "refused" if not accepted or case.mended else "C accepts what Python refuses"
    except Exception:
        return traceback.format_exc().strip()
    found = sum_of(net)
    if in_c and not case.content[5] & CODERS["huffman"].flag and (not accepted or total != found):
        return f"C has status {status} or other weights where Python accepts"
    if found == case.sum:
        return "right"
    return "other weights" if case.mended else "wrong weights"


def run(
    count: int, seed: int, program: Path | None
) -> tuple[dict[str, collections.Counter], list[tuple[Case, str]], float]:
    """Decodes `count` damaged files.

    Returns:
      The outcomes of each kind of file, the failures, and the CPU seconds of the slowest file in
      Python.
    """
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    failures, slowest = [], 0.0
    base, _ = small_net(seed)
    every = list(cases(count, seed, base))
    in_c = read_in_c(program, [case.content for case in every], base) if program else [None] * count
    for case, status in zip(every, in_c, strict=True):
        start = time.process_time()
        found = outcome(case, status, base)
        slowest = max(slowest, time.process_time() - start)
        if found not in ("refused", "right", "other weights"):
            failures.append((case, found))
            found = "failed"
        counts[case.kind][found] += 1
        if status:
            counts[case.kind]["refused by C"] += status[0] != 0
    return dict(sorted(counts.items())), failures, slowest


def main() -> int:
    """Runs the fuzzer and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder), "-DSQZ_FUZZ") if compiler() else None
        run(36, args.seed, program)  # compiles before memory is measured
        before = peak()
        counts, failures, slowest = run(args.count, args.seed, program)
    headings = {
        name: name for name in ("refused", "right", "other weights", "failed", "refused by C")
    }
    print(table(counts, headings | {"right": "right weights"}))
    print(
        f"Slowest file in Python: {slowest:.2f} s of CPU time; "
        f"peak memory grew by {peak() - before:.0f} MB."
    )
    for case, found in failures[:20]:
        print(f"\nFAILED: {case.kind}, {case.damage}: {found}", file=sys.stderr)
    return int(bool(failures) or slowest > MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
