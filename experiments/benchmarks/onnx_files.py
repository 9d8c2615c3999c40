"""Times the ONNX files of squeeze_jax and of PyTorch in onnxruntime.

`squeeze_jax.convert.exporters.onnx` and `torch.onnx.export` write the same SqueezeNet with the same
weights. PyTorch writes it by tracing (`dynamo=False`) and, where onnxscript is installed, with its
newer exporter (`dynamo=True`). All files accept any batch size.
"""

import functools
import importlib.util
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from experiments.benchmarks import interleaved, torch_nets
from squeeze_jax import models
from squeeze_jax.convert.exporters import onnx_model as exporter
from squeeze_jax.network import Network, build_model, imagenet, split_model

DYNAMO = bool(importlib.util.find_spec("onnxscript"))
PACKAGES = ("onnx", "onnxruntime", "torch", *(["onnxscript"] if DYNAMO else []))
# Measure -> (threads, where 0 is one a core; clock; batch size -> rounds). CPU time does not count
# the waits of a busy machine.
MEASURES = {
    "wall, all cores": (0, time.perf_counter, {1: 60, 32: 10}),
    "CPU time, one thread": (1, time.process_time, {1: 40, 32: 5}),
}
OPSET = 18  # the oldest that PyTorch's newer exporter writes


def rows() -> list[interleaved.Row]:
    """Measures both networks with both clocks and both batch sizes."""
    result = []
    for name, settings in torch_nets.IMAGENET.items():
        size = models.find(name)[1].input_size
        _, params, stats = split_model(build_model({"name": name}, 1000))
        network = Network({"name": name}, imagenet.class_names(), imagenet.CAFFE, params, stats)
        files = {"ours": exporter.to_onnx(network, opset=OPSET).SerializeToString()}
        files |= torch_files(torch_nets.with_weights(params, settings).eval(), size)
        for measure, (threads, clock, rounds_by_batch) in MEASURES.items():
            sessions = {who: open_session(file, threads) for who, file in files.items()}
            for batch, rounds in rounds_by_batch.items():
                feed = {
                    "images": np.random.default_rng(0)
                    .normal(0, 50, (batch, 3, size, size))
                    .astype(np.float32)
                }
                runs = {
                    who: functools.partial(session.run, ["logits"], feed)
                    for who, session in sessions.items()
                }
                logits = {who: run()[0] for who, run in runs.items()}
                for found in logits.values():
                    np.testing.assert_allclose(
                        found, logits["ours"], rtol=0, atol=1e-4 * np.abs(logits["ours"]).max()
                    )
                result += interleaved.compare(
                    f"{name}, batch {batch}, {measure}", runs, rounds, images=batch, clock=clock
                )
    return result


def torch_files(module: nn.Module, size: int) -> dict[str, bytes]:
    """Exports a module at `size` x `size` with each of PyTorch's exporters."""
    example, files = torch.zeros(2, 3, size, size), {}
    names = dict(input_names=["images"], output_names=["logits"], opset_version=OPSET)
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (example,),
        buffer,
        dynamo=False,
        dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
        **names,
    )
    files["torch, dynamo=False"] = buffer.getvalue()
    if DYNAMO:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            shapes = ({0: torch.export.Dim("N", min=1, max=1024)},)
            torch.onnx.export(
                module,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
                **names,
            )
            files["torch, dynamo=True"] = path.read_bytes()
    return files


def open_session(file: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Opens an ONNX file in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
