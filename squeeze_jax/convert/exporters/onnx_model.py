"""Makes and runs ONNX models.

A model takes preprocessed images "images" [N, 3, H, W] and returns "logits" [N, classes], both
float32 whatever it computes in. Its metadata hold the network's as JSON.
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import helper
from onnxruntime import quantization

from squeeze_jax.convert.exporters import onnx_graph
from squeeze_jax.convert.exporters.fixed_batch import run_in_batches
from squeeze_jax.convert.folding import fold_batch_norm
from squeeze_jax.convert.metadata import KEY
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, Tree, forward
from squeeze_jax.signals import held_signals

OPSETS = range(13, onnx.defs.onnx_opset_version() + 1)


def to_onnx(
    network: Network,
    *,
    opset: int = 17,
    batch: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> onnx.ModelProto:
    """Converts a network to an ONNX model with BatchNorm folded.

    Args:
      network: what is exported.
      opset: version of the ONNX operators, one of OPSETS. The IR version is the oldest that has
        it, so that old runtimes load the file.
      batch: images a call; None for any number.
      dtype: of the weights and the computation. The mean over positions is float32 in any case,
        as in the modules.

    Raises:
      UserError: no such opset, or the module computes what the export does not know.
    """
    if opset not in OPSETS:
        raise UserError(f"ONNX opset {opset}: {OPSETS[0]} to {OPSETS[-1]} can be written")
    graphdef, params = fold_batch_norm(network)

    def run(params: Tree, images: jax.Array) -> jax.Array:
        return forward(graphdef, params, {}, images.astype(dtype))[0].astype(jnp.float32)

    graph = onnx_graph.make_graph(onnx_graph.trace(run, params, network.input_shape), batch)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        graph,
        opset_imports=imports,
        ir_version=helper.find_min_ir_version_for(imports),
        producer_name="squeeze_jax",
        producer_version=version("squeeze_jax"),
        doc_string=_description(network.preprocessing),
    )
    helper.set_model_props(model, {KEY: json.dumps(network.metadata())})
    onnx.checker.check_model(model, full_check=True)
    return model


def _description(preprocessing: Preprocessing) -> str:
    """Describes the input in words."""
    p = preprocessing
    resized = (
        f"squashed to {p.resize}x{p.resize}"
        if p.resize_mode == "squash"
        else f"resized to a short side of {p.resize}"
    )
    size, order, mean, std = (
        f"{p.image_size}x{p.image_size}",
        p.channel_order.upper(),
        list(p.mean),
        list(p.std),
    )
    return (
        f"images: float32 [N, 3, {p.image_size}, {p.image_size}] (NCHW), channels {order}. "
        f"An image is {resized}, cropped in the middle to {size}, then (x - mean) / std for each "
        f"channel, with x in 0..255, mean {mean} and std {std} in the order {order}. "
        "logits: float32 [N, classes], before the softmax."
    )


class _Calibration(quantization.CalibrationDataReader):
    """Yields images [N, 3, H, W] in batches; the first images fill up the last batch."""

    def __init__(self, images: np.ndarray, batch: int):
        self.batches = (
            images[np.arange(start, start + batch) % len(images)]
            for start in range(0, len(images), batch)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next batch, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def quantize(model: onnx.ModelProto, calibration: np.ndarray) -> onnx.ModelProto:
    """Returns a float32 model in int8, in the QDQ form that engines read.

    Weights are signed and have a scale for each output channel. Activations are unsigned and range
    from the smallest to the largest value met in calibration. The mean over positions stays
    float32, so that the logits are not rounded to 8 bits. On x86 processors without VNNI, products
    of such numbers can saturate.

    Args:
      model: from `to_onnx`; not changed.
      calibration: preprocessed real images float32 [N, H, W, 3], about 200, like those that the
        network will see.

    Raises:
      UserError: there are no images, or they are of another size than the model's.
    """
    images = np.ascontiguousarray(calibration.transpose(0, 3, 1, 2), np.float32)
    batch, *shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    if not len(images) or list(images.shape[1:]) != shape:
        raise UserError(
            f"int8 needs calibration images of {shape[1]}x{shape[2]}, got {len(images)} of "
            f"{images.shape[2]}x{images.shape[3]}"
        )
    mean = [node.name for node in model.graph.node if node.op_type == "GlobalAveragePool"]
    after = [
        node.name
        for node in model.graph.node
        if node.op_type == "Flatten" and node.input[0] in mean
    ]
    with held_signals(), tempfile.TemporaryDirectory() as folder, _without_warnings():
        full, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        # A file, because from a model the library moves the weights into files of its own.
        onnx.save(model, full)
        quantization.quantize_static(
            full,
            small,
            _Calibration(images, batch or 1),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            nodes_to_exclude=[*mean, *after],
        )
        result = onnx.load(small)
    for name in ("producer_name", "producer_version", "doc_string"):
        setattr(result, name, getattr(model, name))
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    onnx.checker.check_model(result, full_check=True)
    return result


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences the library's advice to simplify the graph first: nothing can be simplified."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def read_metadata(model: bytes) -> dict[str, Any]:
    """Returns `Network.metadata()` of the network in an ONNX file of ours.

    Raises:
      UserError: it is no ONNX file, or none of ours.
    """
    try:
        properties = {
            entry.key: entry.value for entry in onnx.load_from_string(model).metadata_props
        }
        return json.loads(properties[KEY])
    except (DecodeError, KeyError, ValueError) as e:
        raise UserError("not an ONNX file of a squeeze_jax network") from e


def make_runner(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs an ONNX file in onnxruntime on the CPU.

    It takes preprocessed images float32 [N, H, W, 3] and returns logits float32 [N, classes].

    Raises:
      UserError: onnxruntime cannot load it.
    """
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as e:  # a class of its own for each kind of fault
        raise UserError(
            f"onnxruntime cannot load the file: {str(e).strip().partition(chr(10))[0]}"
        ) from e
    fixed = session.get_inputs()[0].shape[0]

    def run(images: np.ndarray) -> np.ndarray:
        nchw = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
        return np.asarray(session.run(["logits"], {"images": nchw})[0])

    return (lambda images: run_in_batches(run, images, fixed)) if isinstance(fixed, int) else run
