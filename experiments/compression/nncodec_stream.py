"""Encodes and decodes a stream of nncodec.

    python nncodec_stream.py encode WEIGHTS.npz STREAM.nnc --qp -32
    python nncodec_stream.py decode STREAM.nnc WEIGHTS.npz

side_by_side.py runs this script in an environment that has nncodec. It prints the seconds that the
call took, without Python's start and the imports. Weights are float32 by name, in PyTorch's layout.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

# nncodec imports torchvision for its training sets, which this script does not use. PyPI's build of
# torchvision does not load beside PyTorch for CPUs.
with mock.patch.dict(sys.modules, {"torchvision": mock.MagicMock()}):
    from nncodec import nnc


def encode(weights: dict[str, np.ndarray], settings: dict[str, float]) -> tuple[bytes, float]:
    """Encodes weights; returns the stream and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        stream = nnc.compress(
            weights, bitstream_path=f"{folder}/stream.nnc", return_bitstream=True, **settings
        )
        return bytes(stream), time.perf_counter() - start


def decode(stream: bytes) -> tuple[dict[str, np.ndarray], float]:
    """Decodes a stream; returns the weights and the seconds that it took."""
    start = time.perf_counter()
    weights = nnc.decompress(bytearray(stream))
    return weights, time.perf_counter() - start


def main() -> None:
    """Encodes or decodes as the command line says, and prints the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("direction", choices=("encode", "decode"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--qp", type=int, help="kernels' quantization parameter; higher is coarser")
    parser.add_argument(
        "--nonweight-qp",
        type=int,
        default=-75,
        help="quantization parameter of biases (default -75)",
    )
    parser.add_argument(
        "--lambda-scale",
        type=float,
        default=0.0,
        help="weight of the rate in rate-distortion optimised quantization (default 0: none)",
    )
    arguments = parser.parse_args()
    if arguments.direction == "encode":
        with np.load(arguments.source, allow_pickle=False) as file:
            weights = dict(file)
        settings = {
            name: getattr(arguments, name) for name in ("qp", "nonweight_qp", "lambda_scale")
        }
        stream, seconds = encode(weights, settings)
        arguments.target.write_bytes(stream)
    else:
        weights, seconds = decode(arguments.source.read_bytes())
        np.savez(arguments.target, **weights)
    print(seconds)


if __name__ == "__main__":
    main()
