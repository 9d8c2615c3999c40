"""Compares the RAM that `cost.memory` predicts with what tflite-micro reports, net by net.

python -m experiments.ram [--only NAME ...] [-o experiments/ram/results.csv]

Each net gets random weights, is written as int8 .tflite and run once by tflite-micro's interpreter,
whose recording allocator tells the arena's bytes.
"""

import argparse
import csv
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from squeeze_jax.convert.exporters import tflite
from squeeze_jax.cost import design_costs
from squeeze_jax.network import Network, Preprocessing, build_model, split_model
from squeeze_jax.network.preprocessing import Size, in_grey

# name -> registered model, its options, image size
NETS: dict[str, tuple[str, Mapping[str, Any], Size]] = {
    "SqueezeNet v1.0": ("squeezenet_v1_0", {}, 227),
    "SqueezeNet v1.0, released": ("squeezenet_v1_0_released", {}, 227),
    "SqueezeNet v1.1": ("squeezenet_v1_1", {}, 227),
    "v1.1, BatchNorm, 96 pixels": ("squeezenet_v1_1", {"batch_norm": True}, 96),
    "v1.0, simple bypass, 64 pixels": ("squeezenet_v1_0", {"bypass": "simple"}, 64),
    "v1.0, complex bypass, 64 pixels": ("squeezenet_complex_bypass", {}, 64),
    "cifar10-48k's": (
        "squeezenet_v1_0",
        {
            "conv1_filters": 32,
            "conv1_kernel": 3,
            "conv1_stride": 1,
            "conv1_pad": 1,
            "base_e": 32,
            "incr_e": 32,
            "squeeze_ratio": 0.25,
            "batch_norm": True,
            "bypass": "complex",
            "pool_after": ("fire2", "fire5"),
        },
        32,
    ),
    "v1.1, 4 Fire modules, 32 pixels": (
        "squeezenet_v1_1",
        {"num_fire": 4, "base_e": 16, "incr_e": 16, "conv1_filters": 16},
        32,
    ),
    "v1.0, 3 Fire modules, 24x40 pixels": (
        "squeezenet_v1_0",
        {
            "num_fire": 3,
            "base_e": 8,
            "incr_e": 8,
            "conv1_filters": 8,
            "conv1_kernel": 3,
            "pool_after": ("conv1", "fire3"),
        },
        (24, 40),
    ),
    "SqueezeNext-23": ("squeezenext_23", {}, 227),
    "SqueezeNext-23 v5, 64 pixels": ("squeezenext_23_v5", {}, 64),
    "MobileNet v1, 96 pixels": ("mobilenet_v1", {}, 96),
    "v1.1, grey, 160x120 pixels": ("squeezenet_v1_1", {"in_channels": 1}, (160, 120)),
    "MobileNet v1, grey, 120x160 pixels": ("mobilenet_v1", {"in_channels": 1}, (120, 160)),
}
PIXELS = dict(mean=(127.5,) * 3, std=(127.5,) * 3)


def main() -> None:
    """Prints the table, and writes it where -o says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.only:
        rows.append({"net": name} | compare(*NETS[name], arguments.classes))
        print(*rows[-1].values(), sep=" | ", flush=True)
    if arguments.output:
        with arguments.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def compare(model: str, options: Mapping[str, Any], size: Size, classes: int) -> dict[str, Any]:
    """Returns a row: predicted and reported bytes of the arena and of the file."""
    network = random_network(model, options, size, classes)
    costs = design_costs(network.model, classes, network.input_shape)
    content = int8_file(network)
    arena = arena_bytes(content)
    predicted, flash = costs["ram_bytes"], costs["flash_bytes"]
    return {
        "predicted_ram": predicted,
        "tflm_arena": arena,
        "ram_error_percent": round(100 * (predicted / arena - 1), 2),
        "predicted_flash": flash,
        "tflite_bytes": len(content),
        "flash_error_percent": round(100 * (flash / len(content) - 1), 2),
    }


def random_network(model: str, options: Mapping[str, Any], size: Size, classes: int) -> Network:
    """Returns a network with random weights, biases and statistics: equal ones share a record."""
    section = {"name": model, **options}
    rng = np.random.default_rng(0)

    def drawn(path: tuple[jax.tree_util.DictKey, ...], leaf: np.ndarray) -> np.ndarray:
        if (name := path[-1].key) in ("kernel", "scale"):
            return leaf
        mean, deviation = (1, 0.1) if name == "var" else (0, 0.2)
        return rng.normal(mean, deviation, leaf.shape).astype(np.float32)

    _, *trees = split_model(build_model(section, classes))
    params, stats = (jax.tree_util.tree_map_with_path(drawn, tree) for tree in trees)
    preprocessing = Preprocessing(size, size, "squash", "rgb", PIXELS["mean"], PIXELS["std"])
    if options.get("in_channels") == 1:
        preprocessing = in_grey(preprocessing)
    names = tuple(str(label) for label in range(classes))
    return Network(section, names, preprocessing, params, stats)


def int8_file(network: Network) -> bytes:
    """Returns a network's int8 .tflite file, calibrated on noise."""
    noise = np.random.default_rng(0).uniform(-1, 1, (2, *network.input_shape))
    return tflite.write(
        network,
        dict(
            batch=1,
            precision="int8",
            float_io=False,
            pixels=False,
            calibration=noise.astype(np.float32),
        ),
    )


def arena_bytes(content: bytes) -> int:
    """Returns the bytes of the arena that tflite-micro reports for a file."""
    return report(content)["Arena allocation total"]


def report(content: bytes) -> dict[str, int]:
    """Returns what tflite-micro's recording allocator reports, by what it calls it."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 26)
    text = captured_stderr(interpreter.print_allocations)
    lines = re.findall(r"\[RecordingMicroAllocator\] (.+?)'? (?:used )?(\d+) bytes", text)
    return {name.strip("'"): int(count) for name, count in lines}


def captured_stderr(function: Callable[[], object]) -> str:
    """Calls a function and returns what it, or C code under it, writes on stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            function()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read().decode(errors="replace")


if __name__ == "__main__":
    main()
