"""Our ONNX files beside PyTorch's own, in onnxruntime on the CPU: python experiments/benchmarks/onnx_export.py

Prints the table of README.md and writes onnx_export.json.

The same SqueezeNet with the same weights is written by `squeeze_jax.interop.onnx` and by `torch.onnx.export`, by tracing
(`dynamo=False`) and, where onnxscript is installed, by its exporter (`dynamo=True`). All files take any batch. They run in turn, in
an order that is drawn anew each round, and a ratio is taken within its round, so that a busy machine slows all of them alike.
"""

import functools
import importlib.util
import io
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from squeeze_jax.analysis.tables import markdown
from squeeze_jax.files import write_atomically
from squeeze_jax.interop import imagenet
from squeeze_jax.interop import onnx as exporter
from squeeze_jax.models import REGISTRY
from squeeze_jax.models.fire import fire_widths
from squeeze_jax.net import Net, build_model, split_model
from squeeze_jax.sweep.results import environment

NETS = {
    "squeezenet_v1_0": (96, 7, (0, 3, 7)),
    "squeezenet_v1_1": (64, 3, (0, 2, 4)),
}  # conv1's filters and kernel; which Fires follow a pool
# What is measured -> (threads, 0 is one a core; the clock; rounds by batch). CPU time does not count the waits of a busy machine.
MEASURES = {
    "wall, all cores": (0, time.perf_counter, {1: 60, 32: 10}),
    "CPU time, one thread": (1, time.process_time, {1: 40, 32: 5}),
}
OPSET = 18  # the oldest that PyTorch's newer exporter writes


class Fire(nn.Module):
    """Squeeze and expand, each with its ReLU."""

    def __init__(self, channels: int, squeeze: int, expand1x1: int, expand3x3: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand1x1, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand3x3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """The net of NETS in PyTorch, as its users write it."""

    def __init__(self, filters: int, kernel: int, pooled: tuple[int, ...]):
        super().__init__()
        self.conv1, self.pooled = nn.Conv2d(3, filters, kernel, stride=2), pooled
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        for index in range(8):
            widths = fire_widths(index, 128, 128, 2, 0.5, 0.125)
            setattr(self, f"fire{index + 2}", Fire(filters, *widths))
            filters = widths.expand1x1 + widths.expand3x3
        self.conv10 = nn.Conv2d(filters, 1000, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1(x))
        for index in range(8):
            x = getattr(self, f"fire{index + 2}")(self.pool(x) if index in self.pooled else x)
        return torch.flatten(nn.functional.adaptive_avg_pool2d(torch.relu(self.conv10(x)), 1), 1)


def same_net(net: Net, settings: tuple) -> nn.Module:
    """The PyTorch module with the net's weights."""
    module = SqueezeNet(*settings).eval()
    for name, parameter in module.named_parameters():
        *path, kind = name.split(".")
        node = net.params
        for part in path:
            node = node[part]
        array = np.asarray(node["kernel"]).transpose(3, 2, 0, 1) if kind == "weight" else np.asarray(node["bias"])
        parameter.data = torch.from_numpy(np.ascontiguousarray(array))
    return module


def torch_files(module: nn.Module, size: int) -> dict[str, bytes]:
    """What PyTorch's exporters write."""
    example, files = torch.zeros(2, 3, size, size), {}
    names = dict(input_names=["images"], output_names=["logits"], opset_version=OPSET)
    buffer = io.BytesIO()
    torch.onnx.export(module, (example,), buffer, dynamo=False, dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}}, **names)
    files["torch, dynamo=False"] = buffer.getvalue()
    if importlib.util.find_spec("onnxscript"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            shapes = ({0: torch.export.Dim("N", min=1, max=1024)},)
            torch.onnx.export(module, (example,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False, **names)
            files["torch, dynamo=True"] = path.read_bytes()
    return files


def open_session(file: bytes, threads: int) -> onnxruntime.InferenceSession:
    """The file in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def optimised_operators(file: bytes) -> dict[str, int]:
    """What onnxruntime makes of a file before it runs it: operators and how many of each."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 3  # that the file suits this machine alone is known
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath).graph
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))


def run_in_turn(runs: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each, in every round; a round before them is thrown away."""
    random, seconds = np.random.default_rng(0), {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name in random.permutation(list(runs)):
            start = clock()
            runs[name]()
            if round_ >= 1:
                seconds[name].append(clock() - start)
    return seconds


def quartiles(values: np.ndarray) -> list[float]:
    """The first, the median and the third."""
    return [round(float(q), 3) for q in np.quantile(values, (0.25, 0.5, 0.75))]


def main() -> None:
    rows, operators = [], {}
    for name, settings in NETS.items():
        model, size = {"name": name}, REGISTRY[name].input_size
        _, params, stats = split_model(build_model(model, 1000))
        net = Net(model, imagenet.class_names(), imagenet.CAFFE, params, stats)
        files = {"ours": exporter.to_onnx(net, opset=OPSET).SerializeToString(), **torch_files(same_net(net, settings), size)}
        operators[name] = {who: optimised_operators(file) for who, file in files.items()}
        for measure, (threads, clock, rounds_by_batch) in MEASURES.items():
            sessions = {who: open_session(file, threads) for who, file in files.items()}
            for batch, rounds in rounds_by_batch.items():
                feed = {"images": np.random.default_rng(0).normal(0, 50, (batch, 3, size, size)).astype(np.float32)}
                runs = {who: functools.partial(session.run, ["logits"], feed) for who, session in sessions.items()}
                logits = {who: run()[0] for who, run in runs.items()}
                for found in logits.values():
                    np.testing.assert_allclose(found, logits["ours"], rtol=0, atol=1e-4 * np.abs(logits["ours"]).max())
                seconds = run_in_turn(runs, rounds, clock)
                for who, times in seconds.items():
                    row = {"net": name, "batch": batch, "measure": measure, "file": who, "rounds": rounds, "bytes": len(files[who])}
                    row["milliseconds_quartiles"] = quartiles(np.multiply(1000, times))
                    row["ours_over_it_quartiles"] = quartiles(np.divide(seconds["ours"], times))
                    rows.append(row)
                    print(row, file=sys.stderr, flush=True)
    record = environment("python experiments/benchmarks/onnx_export.py") | {"load_average": round(os.getloadavg()[0], 1)}
    packages = ("onnx", "onnxruntime", "torch", *(["onnxscript"] if importlib.util.find_spec("onnxscript") else []))
    record["versions"] |= {package: version(package) for package in packages}
    write_atomically(Path(__file__).with_suffix(".json"), json.dumps(record | {"operators": operators, "results": rows}, indent=1))
    table = [["net", "batch", "measure", "file", "ms: median (quartiles)", "ours / it: median (quartiles)"]]
    for row in rows:
        ms, ratio = row["milliseconds_quartiles"], row["ours_over_it_quartiles"]
        cells = [f"{q[1]:.{digits}f} ({q[0]:.{digits}f} to {q[2]:.{digits}f})" for q, digits in ((ms, 1), (ratio, 3))]
        table.append([row["net"], str(row["batch"]), row["measure"], row["file"], cells[0], "" if row["file"] == "ours" else cells[1]])
    print(markdown(table))
    for name, of_files in operators.items():
        print(f"{name}, operators after onnxruntime's optimisation:")
        print("\n".join(f"- {who}: " + ", ".join(f"{count} {op}" for op, count in found.items()) for who, found in of_files.items()) + "\n")


if __name__ == "__main__":
    main()
