"""Measures the C engine: RAM and time beside tflite-micro, coded bytes, and an emulated run.

    python -m experiments.engine ram -o experiments/engine/ram.csv
    python -m experiments.engine code NET ...
    python -m experiments.engine time NET --data cifar10 --data-dir DIR
    python -m experiments.engine emulator FOLDER

`code` and `time` take anything that `squeeze_jax.load` opens, `emulator` what
`squeeze-jax export --format c` wrote.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import squeeze_jax
from experiments.engine import emulator
from experiments.ram import __main__ as tflm
from squeeze_jax.compress import rans
from squeeze_jax.compress.sqz import arithmetic
from squeeze_jax.compress.sqz.quantized_tensor import QuantizedTensor, UniformScale
from squeeze_jax.convert.c_engine import host, integer_net, project
from squeeze_jax.convert.options import complete_options
from squeeze_jax.cost import engine
from squeeze_jax.network import abstract_model

CODE_BYTES = 16  # of an engine_code, one a layer
ROUNDS = 40


def ram(output: Path | None) -> None:
    """Compares the arena with tflite-micro's, for each net of experiments/ram."""
    rows = []
    for name, (model, options, size) in tflm.NETS.items():
        network = tflm.random_network(model, options, size, 10)
        ours = engine.ram_bytes(abstract_model(network.model, 10), network.input_shape)
        arena = tflm.arena_bytes(tflm.int8_file(network))
        rows.append(dict(net=name, engine=ours, tflm=arena, ratio=round(ours / arena, 3)))
        print(*rows[-1].values(), sep=" | ", flush=True)
    if output:
        with output.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def code(paths: list[str]) -> None:
    """Compares the coded weights with the arithmetic coder's bytes of the same integers."""
    for path in paths:
        network = squeeze_jax.load(path).whole()
        noise = np.random.default_rng(0).normal(0, 1, (1, *network.input_shape))
        net = integer_net.quantize(network, noise.astype(np.float32))
        arrays = [conv.weights for conv in net.convolutions.values()]
        tables, choice = rans.make_tables(arrays)
        coded = sum(
            len(rans.encode(array, tables[number]))
            for array, number in zip(arrays, choice, strict=True)
        )
        coded += sum(table.size for table in tables) + CODE_BYTES * len(arrays)
        levels = [np.moveaxis(array, 0, -1).astype(np.int32) for array in arrays]
        tensors = [QuantizedTensor(each, UniformScale(1.0)) for each in levels]
        packed = len(arithmetic.encode(tensors)[1])
        weights = sum(array.size for array in arrays)
        print(
            f"{path}: {weights:,} weights, coded {coded:,} bytes in {len(tables)} tables, "
            f"arithmetic {packed:,}, ratio {coded / packed:.3f}"
        )


def compare_time(path: str, data: str, data_dir: str) -> None:
    """Compares one inference with tflite-micro's, in turns; prints the least of ROUNDS."""
    from tflite_micro.python.tflite_micro import runtime

    from squeeze_jax.convert import EXPORTERS
    from squeeze_jax.data import load_split, sample

    network = squeeze_jax.load(path).whole()
    source = load_split(data, data_dir, "test", network.preprocessing.background)
    images = sample(source, network.preprocessing, 40)
    exporter = EXPORTERS["tflite"]
    options = complete_options("tflite", exporter.OPTIONS, {"precision": "int8"})
    content = exporter.write(network, {**options, "calibration": images})
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 24)

    def run_tflm(image: np.ndarray) -> np.ndarray:
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        return interpreter.get_output(0)[0]

    net = integer_net.quantize(network, images)
    levels = net.input_scale.quantize(images)
    runs: dict[str, Callable[[np.ndarray], np.ndarray]] = {"tflite-micro": run_tflm}
    for name, coded in (("plain", False), ("coded", True)):
        plan = engine.make_plan(net.graph, coded)
        runs[name] = host.Library(project.write(network, net, plan, levels[:1])).run
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run(levels[0])
            seconds[name].append(time.perf_counter() - start)
    least = {name: 1000 * min(each) for name, each in seconds.items()}
    print({name: f"{each:.2f} ms" for name, each in least.items()}, end=" ")
    print({name: round(each / least["tflite-micro"], 3) for name, each in least.items()})
    outputs = {name: np.stack([run(image) for image in levels]) for name, run in runs.items()}
    apart = np.abs(outputs["plain"].astype(int) - outputs["tflite-micro"])
    print(f"levels apart from tflite-micro: {np.bincount(apart.reshape(-1)).tolist()}")
    print(f"coded equals plain: {np.array_equal(outputs['plain'], outputs['coded'])}")


def emulate(folder: Path) -> None:
    """Runs a project on each emulated microcontroller."""
    for cpu in emulator.CPUS:
        found: Any = emulator.run(folder, cpu)
        print(
            f"{cpu}: {found.instructions[0]:,} instructions, arena {found.arena:,}, stack "
            f"{found.stack:,}, code {found.code:,}, program with test images {found.flash:,} bytes"
        )


def main() -> None:
    """Runs one of the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ram").add_argument("-o", "--output", type=Path)
    commands.add_parser("code").add_argument("nets", nargs="+")
    timed = commands.add_parser("time")
    timed.add_argument("net")
    timed.add_argument("--data", default="cifar10")
    timed.add_argument("--data-dir", default="")
    commands.add_parser("emulator").add_argument("folder", type=Path)
    arguments = parser.parse_args()
    match arguments.command:
        case "ram":
            ram(arguments.output)
        case "code":
            code(arguments.nets)
        case "time":
            compare_time(arguments.net, arguments.data, arguments.data_dir)
        case _:
            emulate(arguments.folder)


if __name__ == "__main__":
    main()
