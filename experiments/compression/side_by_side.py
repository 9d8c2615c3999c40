"""Compares ways to compress the released SqueezeNet: bytes, accuracy, divergence, seconds.

    python -m experiments.compression.side_by_side CHECKPOINT RELEASED.net --data NAME \
        --data-dir DIR --nncodec PYTHON --csv FILE

Prints a markdown table. CHECKPOINT is the result of `squeeze-jax import RELEASED.net`. PYTHON is
the interpreter of an environment with nncodec, which needs PyTorch; without --nncodec, the table
has no rows for it. zstd needs the package zstandard.

Encoders and decoders run in turn, in an order drawn anew each round. Times are medians, so that
compilation in the first call does not count. Ways that calibrate encode once, before the rounds.
Accuracy is measured on the images that calibration did not see.
"""

import argparse
import csv
import functools
import gzip
import io
import lzma
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard
from safetensors import numpy as safetensors

from experiments.compression.accuracy import Images, compare, outputs
from squeeze_jax.compress import calibrate, rate_search
from squeeze_jax.compress.sqz import container
from squeeze_jax.convert import import_network
from squeeze_jax.data import Source, load_split, relabel
from squeeze_jax.files import write_atomically
from squeeze_jax.network import Network, imagenet, preprocessing, replace_leaves
from squeeze_jax.report.tables import markdown
from squeeze_jax.train.checkpoint import load_network

ROUNDS = 3
CALIBRATION_IMAGES = 200  # as `squeeze-jax compress` takes them
GOALS = (400_000, 320_000, 290_000)  # bytes
GENERAL = {  # compressors of any bytes
    "gzip -9": (functools.partial(gzip.compress, compresslevel=9, mtime=0), gzip.decompress),
    "xz -9e": (functools.partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
    "zstd -22": (zstandard.ZstdCompressor(level=22).compress, zstandard.decompress),
}
# Settings of nncodec: the defaults, and the best ones without training, which were chosen on 96
# calibration images.
NNCODEC = {
    "nncodec": [{"qp": qp} for qp in (-36, -32, -28)],
    "nncodec, RDOQ": [
        {"qp": qp, "lambda-scale": 0.5, "nonweight-qp": -45} for qp in (-36, -33, -29)
    ],
}

Encode = Callable[[], tuple[bytes, float]]  # () -> (stream, seconds)
Decode = Callable[[bytes], tuple[Network, float]]  # stream -> (network, seconds)


class Way(NamedTuple):
    """Describes one way to compress the network."""

    name: str
    encode: Encode
    decode: Decode
    once: bool = False  # encode only once, because it takes minutes


def timed(function: Callable[..., Any]) -> Callable[..., tuple[Any, float]]:
    """Wraps a function so that it returns (result, seconds)."""

    def run(*arguments: Any) -> tuple[Any, float]:
        start = time.perf_counter()
        result = function(*arguments)
        return result, time.perf_counter() - start

    return run


def split(source: Source, net: Network) -> tuple[Images, Images]:
    """Returns the images that `squeeze-jax compress` calibrates on, and all others."""
    examples = relabel(source, net.class_names).read(range(len(source)))
    images = np.stack([preprocessing.preprocess(image, net.preprocessing) for image, _ in examples])
    labels = np.array([label for _, label in examples], np.int32)
    count = min(2 * CALIBRATION_IMAGES, len(examples))
    seen = np.isin(
        np.arange(len(examples)), [len(examples) * i // count for i in range(0, count, 2)]
    )
    return Images(images[seen], labels[seen]), Images(images[~seen], labels[~seen])


def dense(net: Network) -> bytes:
    """Returns the network's weights as a float32 .safetensors file."""
    return safetensors.save(
        {
            path: np.ascontiguousarray(leaf, np.float32)
            for path, leaf in container.paths(net.params, net.stats).items()
        }
    )


def with_weights(net: Network, arrays: dict[str, np.ndarray]) -> Network:
    """Returns a copy of a network with other weights, given by path."""
    return Network.from_metadata(
        net.metadata(), **replace_leaves({"params": net.params, "stats": net.stats}, arrays)
    )


def from_released(content: bytes) -> Network:
    """Reads the network in the bytes of a .net file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.net"
        path.write_bytes(content)
        return import_network(path)


def torch_layout(array: np.ndarray) -> np.ndarray:
    """Transposes HWIO to OIHW; returns arrays of other ranks as they are."""
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1)) if array.ndim == 4 else array


def own_layout(array: np.ndarray) -> np.ndarray:
    """Reverts `torch_layout`."""
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0)) if array.ndim == 4 else array


def general_ways(net: Network, released: bytes) -> list[Way]:
    """Returns the ways that store float32 weights or the released file, also with GENERAL."""
    sources = {
        "float32": (
            functools.partial(dense, net),
            lambda content: with_weights(net, safetensors.load(content)),
        ),
        "released": (lambda: released, from_released),
    }
    ways = []
    for source, (write, read) in sources.items():
        ways.append(Way(source, timed(write), timed(read)))
        for name, (compress, decompress) in GENERAL.items():
            ways.append(
                Way(
                    f"{source}, {name}",
                    timed(chain(write, compress)),
                    timed(chain(decompress, read)),
                )
            )
    return ways


def chain(first: Callable[..., Any], then: Callable[[Any], Any]) -> Callable[..., Any]:
    """Composes two functions."""
    return lambda *arguments: then(first(*arguments))


def own_ways(net: Network, calibrated: calibrate.Calibration) -> list[Way]:
    """Returns the ways of squeeze_jax."""
    options = {"known_classes": {"imagenet": imagenet.class_names()}}
    read = timed(functools.partial(container.read, known_classes=options["known_classes"]))
    ways = [
        Way(
            ".sqz, Huffman as published",
            timed(functools.partial(container.lossless, net, coder="huffman", **options)),
            read,
        ),
        Way(".sqz, lossless", timed(functools.partial(container.lossless, net, **options)), read),
        Way(
            ".sqz, 8 bits, no data",
            timed(functools.partial(rate_search.to_bits, net, None, 8, **options)),
            read,
        ),
    ]
    for goal in GOALS:
        ways.append(
            Way(
                f".sqz, at most {goal:,}",
                timed(functools.partial(rate_search.to_size, net, calibrated, goal, **options)),
                read,
                once=True,
            )
        )
    return ways


def nncodec_ways(net: Network, python: str, folder: Path) -> list[Way]:
    """Returns the ways of nncodec, one for each of the settings in NNCODEC."""
    weights = folder / "weights.npz"
    own = container.paths(net.params, net.stats)
    np.savez(
        weights, **{path: torch_layout(np.asarray(leaf, np.float32)) for path, leaf in own.items()}
    )

    def call(direction: str, source: Path, target: Path, settings: dict[str, float]) -> float:
        flags = [f"--{name}={value}" for name, value in settings.items()]
        script = Path(__file__).with_name("nncodec_stream.py")
        done = subprocess.run(
            [python, script, direction, source, target, *flags],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return float(done.stdout.split()[-1])

    def encode(settings: dict[str, float]) -> tuple[bytes, float]:
        seconds = call("encode", weights, folder / "stream.nnc", settings)
        return (folder / "stream.nnc").read_bytes(), seconds

    def decode(content: bytes) -> tuple[Network, float]:
        (folder / "stream.nnc").write_bytes(content)
        seconds = call("decode", folder / "stream.nnc", folder / "decoded.npz", {})
        with np.load(folder / "decoded.npz", allow_pickle=False) as file:
            return with_weights(
                net,
                {path: own_layout(file[path]).reshape(leaf.shape) for path, leaf in own.items()},
            ), seconds

    return [
        Way(f"{name}, qp {settings['qp']}", functools.partial(encode, settings), decode)
        for name, each in NNCODEC.items()
        for settings in each
    ]


def run_in_turn(
    ways: Sequence[Way],
) -> tuple[dict[str, tuple[bytes, Network]], dict[str, tuple[float, float]]]:
    """Encodes and decodes in every way, ROUNDS times in turn.

    Returns:
      Name -> (stream, decoded network), and name -> (median seconds of encoding, of decoding).
    """
    random, seconds, results = np.random.default_rng(0), {way.name: ([], []) for way in ways}, {}
    fixed = {way.name: say(way.name, way.encode()) for way in ways if way.once}
    for _ in range(ROUNDS):
        for i in random.permutation(len(ways)):
            way = ways[i]
            content, encoding = fixed[way.name] if way.once else way.encode()
            net, decoding = way.decode(content)
            seconds[way.name][0].append(encoding)
            seconds[way.name][1].append(decoding)
            results[way.name] = content, net
    return results, {
        name: (statistics.median(encodings), statistics.median(decodings))
        for name, (encodings, decodings) in seconds.items()
    }


def say(name: str, measured: tuple[Any, float]) -> tuple[Any, float]:
    """Logs the seconds of a slow step and returns (result, seconds)."""
    print(f"{name}: {measured[1]:.0f} s", file=sys.stderr, flush=True)
    return measured


def same_weights(net: Network, other: Network) -> bool:
    """Returns whether two networks have the same float32 weights bit for bit."""
    own, others = (container.paths(each.params, each.stats) for each in (net, other))
    return all(
        np.asarray(leaf, np.float32).tobytes() == np.asarray(others[path], np.float32).tobytes()
        for path, leaf in own.items()
    )


def csv_row(
    name: str,
    content: bytes,
    seconds: tuple[float, float],
    exact: bool,
    comparison: dict[str, float],
) -> dict[str, Any]:
    """Returns a row of the CSV file."""
    rounded = {key: round(value, 5) for key, value in comparison.items()}
    return {
        "way": name,
        "bytes": len(content),
        "encode_s": round(seconds[0], 4),
        "decode_s": round(seconds[1], 4),
        "exact": exact,
        **rounded,
    }


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a row of the markdown table."""

    def accuracy(k: int) -> str:
        return (
            f"{row[f'top{k}']:.1f}"
            if row["exact"]
            else f"{row[f'top{k}']:.1f} ({row[f'top{k}_change']:+.1f} "
            f"± {row[f'top{k}_change_error']:.1f})"
        )

    times = [
        f"{row[key]:.0f}" if row[key] >= 10 else f"{row[key]:.2g}"
        for key in ("encode_s", "decode_s")
    ]
    return [
        row["way"],
        f"{row['bytes']:,}",
        accuracy(1),
        accuracy(5),
        "0" if row["exact"] else f"{row['kl_nats']:.4f}",
        *times,
    ]


def main() -> None:
    """Prints the table and writes the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "released", type=Path, help="the .net file that the checkpoint was imported from"
    )
    parser.add_argument(
        "--data", required=True, metavar="NAME", help="labelled images: a prepared TFDS data set"
    )
    parser.add_argument("--data-dir", required=True, metavar="DIR")
    parser.add_argument(
        "--nncodec", metavar="PYTHON", help="the interpreter of an environment with nncodec"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    net = load_network(arguments.checkpoint)
    seen, others = split(load_split(arguments.data, arguments.data_dir, None), net)
    calibrated, _ = say(
        f"calibrated on {len(seen.images)} images", timed(calibrate.calibrate)(net, seen.images)
    )
    with tempfile.TemporaryDirectory() as folder:
        ways = general_ways(net, arguments.released.read_bytes()) + own_ways(net, calibrated)
        if arguments.nncodec:
            ways += nncodec_ways(net, arguments.nncodec, Path(folder))
        results, seconds = run_in_turn(ways)
    own, rows = outputs(net, others), []
    for name, (content, decoded) in results.items():
        exact = same_weights(net, decoded)
        rows.append(
            csv_row(
                name,
                content,
                seconds[name],
                exact,
                compare(own, own if exact else outputs(decoded, others)),
            )
        )
        print(rows[-1], file=sys.stderr, flush=True)
    rows.sort(key=lambda row: -row["bytes"])
    if arguments.csv:
        table = io.StringIO()
        writer = csv.DictWriter(table, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(arguments.csv, table.getvalue())
    head = [
        "way",
        "bytes",
        "top-1 (change)",
        "top-5 (change)",
        "KL, nats",
        "encode, s",
        "decode, s",
    ]
    print(
        f"{len(others.images)} images that calibration did not see\n\n"
        f"{markdown([head, *map(cells, rows)])}",
        end="",
    )


if __name__ == "__main__":
    main()
