"""Smaller LiteRT models: int8, int16 activations over int8 weights, float16 weights.

ai-edge-quantizer rewrites the float32 model. The ranges of the activations are ours, see
`activation_ranges`: its own are those of a moving average, which cost the released SqueezeNet
17 points of top-1. Weights are int8 with a scale for each output channel.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import quantizer

from squeeze_jax.convert.activation_ranges import LEVELS, Range, find_ranges, input_range
from squeeze_jax.convert.weight_scales import LARGEST, least_scales, raise_weights
from squeeze_jax.network import Preprocessing

# Operators with weights and a bias -> the axis of the weights' output channels.
_WITH_BIAS = {
    schema.BuiltinOperator.CONV_2D: 0,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: 3,
    schema.BuiltinOperator.FULLY_CONNECTED: 0,
}


def quantize(
    model: bytes, bits: int, images: np.ndarray, preprocessing: Preprocessing, float_io: bool
) -> bytes:
    """Returns a float32 LiteRT model with integer activations and int8 weights.

    Args:
      model: from `tflite.to_litert`.
      bits: of the activations, 8 or 16.
      images: real ones, preprocessed, float32 [N, H, W, 3], N >= 1, to calibrate on.
      preprocessing: what made them.
      float_io: whether images and logits stay float32.
    """
    # 16 bits have levels enough for outliers.
    ranges = calibrate(model, images, preprocessing, clips=bits == 8)
    calibration = {
        name: {"min": np.full(1, low, np.float32), "max": np.full(1, high, np.float32)}
        for name, (low, high) in ranges.items()
    }
    rule = _rule(
        "*",
        "min_max_uniform_quantize",
        activation_tensor_config=_type("INT", bits, symmetric=bits == 16),
        weight_tensor_config=_type("INT", 8, granularity="CHANNELWISE"),
        compute_precision="INTEGER",
        explicit_dequantize=False,
    )
    ends = [_rule(end, "no_quantize") for end in ("INPUT", "OUTPUT")] if float_io else []
    return _rewrite(_keep_biases(model, ranges, bits), [rule, *ends], calibration)


def _keep_biases(model: bytes, ranges: Mapping[str, Range], bits: int) -> bytes:
    """Returns a model whose weights are large enough for biases of 32 bits; see `weight_scales`.

    ai-edge-quantizer stores biases that overflow as the least integer.
    """
    found: Any = flatbuffer_utils.convert_bytearray_to_object(model)
    graph = found.subgraphs[0]
    for operator in graph.operators:
        code = found.operatorCodes[operator.opcodeIndex].builtinCode
        if code not in _WITH_BIAS or len(operator.inputs) < 3 or operator.inputs[2] < 0:
            continue
        inputs, kernel, bias = (graph.tensors[index] for index in operator.inputs[:3])
        low, high = ranges[inputs.name.decode()]
        scale = (high - low) / LEVELS if bits == 8 else max(-low, high) / 32767
        weights, biases = (
            np.frombuffer(bytes(found.buffers[tensor.buffer].data), np.float32).reshape(
                tensor.shape
            )
            for tensor in (kernel, bias)
        )
        least = LARGEST * least_scales(biases, scale)
        raised = raise_weights(weights, least, _WITH_BIAS[code])
        found.buffers[kernel.buffer].data = np.frombuffer(raised.tobytes(), np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(found))


def to_float16(model: bytes) -> bytes:
    """Returns a float32 LiteRT model whose weights are stored in float16."""
    return _rewrite(
        model,
        [
            _rule(
                operator,
                "float_casting",
                weight_tensor_config=_type("FLOAT", 16),
                compute_precision="FLOAT",
                explicit_dequantize=True,
            )
            for operator in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        ],
        None,
    )


def _rewrite(model: bytes, rules: list[dict[str, Any]], calibration: Any) -> bytes:
    """Applies rules of ai-edge-quantizer; later ones override earlier ones."""
    worker = quantizer.Quantizer(bytearray(model), rules)
    # The library warns of memory that it takes itself, and shows progress bars in any case.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        result = worker.quantize(
            calibration, enable_progress_bar=False, enable_progress_report=False
        )
    return bytes(result.quantized_model or b"")


def _rule(operator: str, algorithm: str, **config: Any) -> dict[str, Any]:
    return dict(regex=".*", operation=operator, algorithm_key=algorithm, op_config=config)


def _type(
    dtype: str, bits: int, symmetric: bool = True, granularity: str = "TENSORWISE"
) -> dict[str, Any]:
    return dict(dtype=dtype, num_bits=bits, symmetric=symmetric, granularity=granularity)


def calibrate(
    model: bytes, images: np.ndarray, preprocessing: Preprocessing, clips: bool = True
) -> dict[str, Range]:
    """Returns the range of each activation of a float32 LiteRT model, by the tensor's name.

    Args:
      model: from `tflite.to_litert`.
      images: preprocessed, float32 [N, H, W, 3].
      preprocessing: what made them.
      clips: see `find_ranges`.
    """
    observe, first = _observer(model)
    return find_ranges(observe, images, clips) | {first: input_range(preprocessing)}


def _observer(
    model: bytes,
) -> tuple[Callable[[np.ndarray], Mapping[str, np.ndarray]], str]:
    """Returns a function that computes all activations of a model, and the name of its input."""
    found: Any = flatbuffer_utils.convert_bytearray_to_object(model)
    graph = found.subgraphs[0]
    made = {int(index) for operator in graph.operators for index in operator.outputs}
    names = {index: graph.tensors[index].name.decode() for index in made}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the memory that keeping all tensors takes
        interpreter = Interpreter(
            model_content=model,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    interpreter.allocate_tensors()
    (first,) = interpreter.get_input_details()
    batch = int(first["shape"][0])

    def observe(images: np.ndarray) -> dict[str, np.ndarray]:
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names.values()}
        for start in range(0, len(images), batch):
            # The first images fill up the last batch.
            chosen = images[np.arange(start, start + batch) % len(images)]
            interpreter.set_tensor(first["index"], np.ascontiguousarray(chosen, np.float32))
            interpreter.invoke()
            for index, name in names.items():
                parts[name].append(interpreter.get_tensor(index))
        return {name: np.concatenate(values) for name, values in parts.items()}

    return observe, first["name"]
