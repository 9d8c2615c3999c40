"""Logits of a batch, ours beside PyTorch's and onnxruntime's.

The same SqueezeNet v1.0 with the same weights, at 227 x 227.

onnxruntime runs the file that `squeeze-jax export --format onnx` writes: it is what users deploy on
a CPU.
"""

import functools
from collections.abc import Callable

import numpy as np
import onnxruntime
import torch

from experiments.benchmarks import interleaved, torch_nets
from squeeze_jax import models
from squeeze_jax.convert.exporters import onnx_model as exporter
from squeeze_jax.network import Network, build_model, imagenet, split_model

PACKAGES = ("torch", "onnx", "onnxruntime")
NET = "squeezenet_v1_0"
# Setting, images a call, calls in a row, rounds. A first call after the rest also wakes threads and
# fills caches.
SETTINGS = (
    ("batch 1", 1, 1, 60),
    ("batch 1, ten calls in a row", 1, 10, 30),
    ("batch 32", 32, 1, 12),
)


def rows() -> list[interleaved.Row]:
    """One image, ten one after another, and 32 together."""
    _, params, stats = split_model(build_model({"name": NET}, 1000))
    net = Network({"name": NET}, imagenet.class_names(), imagenet.CAFFE, params, stats)
    module = (
        torch_nets.same_net(params, torch_nets.IMAGENET[NET])
        .eval()
        .to(memory_format=torch.channels_last)
    )
    session = onnxruntime.InferenceSession(
        exporter.to_onnx(net).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    own, compiled, result = net.classifier().run, torch.compile(module), []
    for setting, batch, calls, rounds in SETTINGS:
        size = models.find(NET)[1].input_size
        images = np.random.default_rng(0).normal(0, 50, (batch, size, size, 3)).astype(np.float32)
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        tensor = torch.from_numpy(planes).to(memory_format=torch.channels_last)
        runs = {
            "squeeze_jax": functools.partial(own, images),
            "onnxruntime, the exported file": lambda planes=planes: session.run(
                ["logits"], {"images": planes}
            )[0],
            "PyTorch, channels-last": functools.partial(torch_logits, module, tensor),
            "PyTorch, channels-last, compiled": functools.partial(torch_logits, compiled, tensor),
        }
        expected = runs["squeeze_jax"]()
        for run in runs.values():
            np.testing.assert_allclose(run(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        result += interleaved.compare(
            setting,
            {who: functools.partial(repeat, run, calls) for who, run in runs.items()},
            rounds,
            images=batch * calls,
            warm_up=3,
        )
    return result


def repeat(run: Callable[[], object], calls: int) -> None:
    """`run` so many times."""
    for _ in range(calls):
        run()


def torch_logits(module: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    """Logits of images [N, 3, H, W]."""
    with torch.inference_mode():
        return module(images).numpy()
