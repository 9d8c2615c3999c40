"""Times the logits of a batch in squeeze_jax, PyTorch and onnxruntime.

All of them run SqueezeNet v1.0 with the same weights at 227 x 227. onnxruntime runs the file that
`squeeze-jax export --format onnx` writes, which is what users deploy on a CPU.
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
MODEL = "squeezenet_v1_0"
# (setting, images a call, calls in a row, rounds). The first call after a rest also wakes threads
# and fills caches.
SETTINGS = (
    ("batch 1", 1, 1, 60),
    ("batch 1, ten calls in a row", 1, 10, 30),
    ("batch 32", 32, 1, 12),
)


def rows() -> list[interleaved.Row]:
    """Measures batch 1, ten calls of batch 1 in a row, and batch 32."""
    _, params, stats = split_model(build_model({"name": MODEL}, 1000))
    network = Network({"name": MODEL}, imagenet.class_names(), imagenet.CAFFE, params, stats)
    module = (
        torch_nets.with_weights(params, torch_nets.IMAGENET[MODEL])
        .eval()
        .to(memory_format=torch.channels_last)
    )
    session = onnxruntime.InferenceSession(
        exporter.to_onnx(network).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    own, compiled, result = network.classifier().run, torch.compile(module), []
    for setting, batch, calls, rounds in SETTINGS:
        size = models.find(MODEL)[1].input_size
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
    """Calls a function `calls` times."""
    for _ in range(calls):
        run()


def torch_logits(module: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    """Returns the logits of float32 images [N, 3, H, W]."""
    with torch.inference_mode():
        return module(images).numpy()
