"""Makes and runs ONNX models.

A model takes preprocessed images "images" [N, C, H, W] and returns "logits" [N, classes], both
float32 whatever it computes in. Its metadata hold the network's as JSON.
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
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

from squeeze_jax.convert.activation_ranges import find_ranges, input_range
from squeeze_jax.convert.exporters import onnx_graph
from squeeze_jax.convert.exporters.fixed_batch import run_in_batches
from squeeze_jax.convert.folding import fold_batch_norm
from squeeze_jax.convert.metadata import KEY
from squeeze_jax.convert.weight_scales import raise_weights
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network, Preprocessing, Tree, forward
from squeeze_jax.network.preprocessing import format_size
from squeeze_jax.signals import held_signals

_LEAST_WEIGHT = 1e-20  # rounds to 0
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
    if p.resize_mode == "squash":
        resized = f"squashed to {format_size(p.resize)}"
    elif isinstance(p.resize, int):
        resized = f"resized to a short side of {p.resize}"
    else:
        resized = f"resized to cover {format_size(p.resize)} (height x width)"
    size, order = format_size(p.image_size), p.channel_order.upper()
    height, width, channels = p.input_shape
    mean, std = list(p.mean), list(p.std)
    return (
        f"images: float32 [N, {channels}, {height}, {width}] (NCHW), channels {order}. "
        f"An image is {resized}, cropped in the middle to {size}, then (x - mean) / std for each "
        f"channel, with x in 0..255, mean {mean} and std {std} in the order {order}. "
        "logits: float32 [N, classes], before the softmax."
    )


class _NoCalibration(quantization.CalibrationDataReader):
    """Yields an image of zeros once: the ranges are given, but the library looks for some."""

    def __init__(self, shape: Sequence[int]):
        self.images = iter([np.zeros(shape, np.float32)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the image, then None."""
        image = next(self.images, None)
        return None if image is None else {"images": image}


def quantize(
    model: onnx.ModelProto, calibration: np.ndarray, preprocessing: Preprocessing
) -> onnx.ModelProto:
    """Returns a float32 model in int8, in the QDQ form that engines read.

    Weights are signed and have a scale for each output channel. Activations are unsigned, with the
    ranges of `activation_ranges`; what is concatenated has the range of the whole. The mean over
    positions stays float32, so that the logits are not rounded to 8 bits. On x86 processors
    without VNNI, sums of such products saturate unless the session's option
    session.x64quantprecision is 1.

    Args:
      model: from `to_onnx`; not changed.
      calibration: preprocessed real images float32 [N, H, W, 3], about 200, like those that the
        network will see.
      preprocessing: what made them.

    Raises:
      UserError: there are no images, or they are of another size than the model's.
    """
    batch, *shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    found = [calibration.shape[axis] for axis in (3, 1, 2)]
    if not len(calibration) or found != shape:
        raise UserError(
            f"int8 needs calibration images of {shape[1]}x{shape[2]}, got {len(calibration)} of "
            f"{found[1]}x{found[2]}"
        )
    ranges = find_ranges(_observer(model), calibration)
    ranges["images"] = input_range(preprocessing)
    for node in reversed(model.graph.node):
        if node.op_type == "Concat":
            ranges.update(dict.fromkeys(node.input, ranges[node.output[0]]))
    mean = [node.name for node in model.graph.node if node.op_type == "GlobalAveragePool"]
    after = [
        node.name
        for node in model.graph.node
        if node.op_type == "Flatten" and node.input[0] in mean
    ]
    with held_signals(), tempfile.TemporaryDirectory() as folder, _without_warnings():
        full, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        # A file, because from a model the library moves the weights into files of its own.
        onnx.save(_keep_biases(model), full)
        quantization.quantize_static(
            full,
            small,
            _NoCalibration([batch or 1, *shape]),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            nodes_to_exclude=[*mean, *after],
            extra_options={
                "TensorQuantOverrides": {
                    name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
                    for name, (low, high) in ranges.items()
                }
            },
        )
        result = onnx.load(small)
    for name in ("producer_name", "producer_version", "doc_string"):
        setattr(result, name, getattr(model, name))
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    onnx.checker.check_model(result, full_check=True)
    return result


def _keep_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a model in which no output channel has only zeros for weights.

    onnxruntime gives such a channel a scale of 1, to which the bias is rounded; other scales it
    makes as large as the bias needs.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    arrays = {array.name: array for array in result.graph.initializer}
    for node in result.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            array = arrays[node.input[1]]
            kernel = onnx.numpy_helper.to_array(array)
            axis = 0 if node.op_type == "Conv" else 1
            least = np.full(kernel.shape[axis], _LEAST_WEIGHT, np.float32)
            raised = raise_weights(kernel, least, axis)
            array.CopyFrom(onnx.numpy_helper.from_array(raised, array.name))
    return result


def _observer(model: onnx.ModelProto) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function that computes the output of every operator of a float32 model."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    names = [name for node in whole.graph.node for name in node.output]
    known = {output.name for output in whole.graph.output}
    whole.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    fixed = session.get_inputs()[0].shape[0]

    def observe(images: np.ndarray) -> dict[str, np.ndarray]:
        if isinstance(fixed, int):  # the first images fill up the last batch
            images = images[np.arange(-(-len(images) // fixed) * fixed) % len(images)]
        nchw = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
        size = fixed if isinstance(fixed, int) else len(nchw)
        parts = [
            session.run(names, {"images": nchw[start : start + size]})
            for start in range(0, len(nchw), size)
        ]
        return {
            name: np.concatenate([np.asarray(part[i]) for part in parts])
            for i, name in enumerate(names)
        }

    return observe


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
    except (DecodeError, KeyError, ValueError, RecursionError) as e:
        raise UserError("not an ONNX file of a squeeze_jax network") from e


def make_runner(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs an ONNX file in onnxruntime on the CPU.

    It takes preprocessed images float32 [N, H, W, 3] and returns logits float32 [N, classes].

    Raises:
      UserError: onnxruntime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    # Without it, sums of int8 products saturate on x86 processors that lack VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # a class of its own for each kind of fault
        raise UserError(
            f"onnxruntime cannot load the file: {str(e).strip().partition(chr(10))[0]}"
        ) from e
    fixed = session.get_inputs()[0].shape[0]

    def run(images: np.ndarray) -> np.ndarray:
        nchw = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
        return np.asarray(session.run(["logits"], {"images": nchw})[0])

    return (lambda images: run_in_batches(run, images, fixed)) if isinstance(fixed, int) else run
