"""The .tflite format of LiteRT (formerly TensorFlow Lite), written without TensorFlow.

litert-converter turns StableHLO into LiteRT's operators. It has no documented interface: the calls
below are those that the converter of PyTorch models makes (github.com/google-ai-edge/litert-torch,
litert_torch/_convert), so its version is fixed.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from squeeze_jax.convert import metadata
from squeeze_jax.convert.exporters import stablehlo
from squeeze_jax.convert.exporters.fixed_batch import run_in_batches
from squeeze_jax.convert.options import Option
from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    from squeeze_jax.network import Classifier, Network

NAME = "tflite"
SUFFIX = ".tflite"
OPTIONS = {
    "batch": Option(int, 1, "a fixed batch size (default 1)"),
    "precision": Option(
        str,
        "float32",
        "of the weights and the computation; int16 is that of activations over int8 weights",
        ("float32", "float16", "int8", "int16"),
    ),
    "pixels": Option(
        bool, False, "images are RGB of 0 to 255, normalised in the file, as MediaPipe needs"
    ),
    "float_io": Option(bool, False, "float32 images and logits around int8 or int16"),
}
CONVERTER_VERSION = "0.5.0"
INPUT, OUTPUT = "images", "logits"


def write(network: "Network", options: Mapping[str, Any]) -> bytes:
    """Returns the content of a .tflite file with LiteRT's metadata in it and ours behind it.

    Args:
      network: the network.
      options: values of OPTIONS, and under "calibration" preprocessed images for int8 and int16.

    Raises:
      UserError: no images for int8 or int16; or litert-converter is not installed, cannot be
        loaded, or is another version.
    """
    from squeeze_jax.convert.exporters import tflite_metadata, tflite_quantization
    from squeeze_jax.network.preprocessing import renormalise

    precision, images = options["precision"], options.get("calibration")
    is_integer = precision in ("int8", "int16")
    if is_integer and not (isinstance(images, np.ndarray) and len(images)):
        raise UserError(
            f"{precision} is calibrated on real images: give --data NAME and --data-dir DIR"
        )
    if options["float_io"] and not is_integer:
        raise UserError(f"--float-io is for int8 and int16; images are float32 with {precision}")
    model = to_litert(network, batch=options["batch"], pixels=options["pixels"])
    given = network.preprocessing
    if options["pixels"]:
        preprocessing = dataclasses.replace(
            given, mean=(0.0,) * 3, std=(1.0,) * 3, channel_order="rgb"
        )
        network = dataclasses.replace(network, preprocessing=preprocessing)
    if precision == "float16":
        model = tflite_quantization.to_float16(model)
    elif is_integer and images is not None:
        images = renormalise(images, given, network.preprocessing)
        model = tflite_quantization.quantize(
            model, int(precision[3:]), images, network.preprocessing, options["float_io"]
        )
    return metadata.attach(tflite_metadata.add(model, network, INPUT, OUTPUT), network)


def open(content: bytes) -> "Classifier":
    """Opens a .tflite file of ours in LiteRT's interpreter.

    Raises:
      UserError: ai-edge-litert is missing, or it is not such a file.
    """
    from squeeze_jax.network import Classifier

    return Classifier.from_metadata(metadata.read(content), make_runner(content))


def to_litert(network: "Network", *, batch: int = 1, pixels: bool = False) -> bytes:
    """Converts a network to a float32 LiteRT model.

    It takes preprocessed "images" [batch, H, W, 3] and returns "logits" [batch, classes].

    Args:
      network: what is exported.
      batch: images a call; LiteRT's shapes are fixed.
      pixels: whether the images are RGB of 0..255, normalised in the model.

    Raises:
      UserError: litert-converter is not installed, cannot be loaded, or is another version.
    """
    ir = _converter("mlir.ir")
    passmanager = _converter("mlir.passmanager")
    dialect = _converter("mlir.dialects.stablehlo")
    api = _converter("mlir._mlir_libs.converter_api_ext")
    # The portable form: JAX and the converter need not agree on a version of StableHLO.
    program = stablehlo.lower(network, batch, ("cpu",), pixels).mlir_module_serialized
    context = ir.Context()
    api.prepare_mlir_context(context)
    with context:
        module = dialect.deserialize_portable_artifact(context, program)
        api.set_signature(module.operation, "serving_default", [INPUT], [OUTPUT])
        api.run_convert_to_tfl_passes(module, passmanager.PassManager(), api.ConvertToTFLConfig())
        _fuse_relu_through_concatenation(module, ir.StringAttr.get("RELU"))
        _separate_pools(module, ir)
        return api.export_flatbuffer_to_bytes(module.operation)


def _converter(name: str) -> ModuleType:
    """Imports a module of litert-converter.

    Raises:
      UserError: it is not installed, or another version than the one whose interface is known.
    """
    wanted = (
        f"LiteRT files need litert-converter {CONVERTER_VERSION} "
        f"(pip install litert-converter=={CONVERTER_VERSION})"
    )
    try:
        installed = version("litert-converter")
        module = import_module(f"litert_converter.{name}")
    except ImportError as e:
        raise UserError(f"{wanted}: {e}") from e
    if installed != CONVERTER_VERSION:
        raise UserError(f"{wanted}; {installed} is installed")
    return module


def _fuse_relu_through_concatenation(module: Any, relu: Any) -> None:
    """Makes the ReLU of a concatenation the activation of the convolutions concatenated.

    That costs LiteRT's operators nothing. The converter fuses a ReLU only into the operator
    directly before it, so each Fire module would keep an operator of its own.

    Args:
      module: the converted module, changed in place.
      relu: the attribute value "RELU".
    """
    for op in _named(module, "tfl.relu"):
        concat = op.operands[0].owner
        # A block argument's owner is a block, which has no name.
        if getattr(concat, "name", None) != "tfl.concatenation" or _uses(concat) > 1:
            continue
        parts = [operand.owner for operand in concat.operands]
        if all(
            getattr(part, "name", None) == "tfl.conv_2d"
            and _uses(part) == 1
            and not _has_activation(part)
            for part in parts
        ):
            for part in parts:
                part.attributes["fused_activation_function"] = relu
            op.results[0].replace_all_uses_with(concat.results[0])
            op.erase()


def _separate_pools(module: Any, ir: ModuleType) -> None:
    """Pools rows, then columns, where a max pool is padded along one axis only.

    The converter writes padding SAME for such a pool, which LiteRT then pads along both axes. Along
    each axis by itself the padding is that of VALID or of SAME, and the maximum is the same.

    Args:
      module: the converted module, changed in place.
      ir: MLIR's classes.
    """
    one = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 1)
    names = {1: ("filter_height", "stride_h"), 2: ("filter_width", "stride_w")}

    def pool_along(axis: int, op: Any, source: Any) -> Any:
        given, size = ir.RankedTensorType(source.type), shape_of(op.results[0])[axis]
        shape = [size if index == axis else n for index, n in enumerate(given.shape)]
        is_padded = size == rounded_up(op, axis)
        others = {name: one for index, pair in names.items() if index != axis for name in pair}
        return ir.Operation.create(
            op.name,
            results=[ir.RankedTensorType.get(shape, given.element_type)],
            operands=[source],
            attributes={
                "fused_activation_function": op.attributes["fused_activation_function"],
                "padding": ir.StringAttr.get("SAME" if is_padded else "VALID"),
                **{name: op.attributes[name] for name in names[axis]},
                **others,
            },
        ).results[0]

    def shape_of(value: Any) -> list[int]:
        return ir.RankedTensorType(value.type).shape

    def rounded_up(op: Any, axis: int) -> int:
        """Returns the size along an axis that SAME means."""
        return -(-shape_of(op.operands[0])[axis] // op.attributes[names[axis][1]].value)

    for op in _named(module, "tfl.max_pool_2d"):
        sizes = shape_of(op.results[0])
        if op.attributes["padding"].value == "SAME" and any(
            sizes[axis] != rounded_up(op, axis) for axis in names
        ):
            with op.location, ir.InsertionPoint(op):
                rows = pool_along(1, op, op.operands[0])
                op.results[0].replace_all_uses_with(pool_along(2, op, rows))
            op.erase()


def _named(module: Any, name: str) -> list[Any]:
    """Returns the operations of that name in the functions of a module."""
    blocks = [
        block
        for function in module.body.operations
        for region in function.operation.regions
        for block in region
    ]
    return [
        op.operation for block in blocks for op in block.operations if op.operation.name == name
    ]


def _uses(op: Any) -> int:
    return sum(1 for _ in op.results[0].uses)


def _has_activation(op: Any) -> bool:
    return op.attributes["fused_activation_function"].value != "NONE"


def make_runner(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs a .tflite file of ours; integer images and logits are scaled.

    It takes preprocessed images float32 [N, H, W, 3], N >= 1, and returns logits [N, classes].

    Raises:
      UserError: ai-edge-litert is missing, or this is no such file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as e:
        raise UserError(
            f"running LiteRT files needs ai-edge-litert (pip install ai-edge-litert): {e}"
        ) from e
    try:
        call = Interpreter(model_content=bytes(model)).get_signature_runner()
        first, last = call.get_input_details()[INPUT], call.get_output_details()[OUTPUT]
    except (ValueError, KeyError) as e:
        raise UserError(f"not a LiteRT export of a network: {e}") from e

    def run(images: np.ndarray) -> np.ndarray:
        # The interpreter returns a view of memory that its next call overwrites.
        return _dequantize(call(**{INPUT: _quantize(images, first)})[OUTPUT].copy(), last)

    return lambda images: run_in_batches(run, images, int(first["shape"][0]))


def _quantize(values: np.ndarray, tensor: Mapping[str, Any]) -> np.ndarray:
    """Rounds values to a tensor's integers; float32 tensors take them as they are.

    Args:
      values: float32.
      tensor: its details, as the interpreter tells them.
    """
    scale, zero = tensor["quantization"]
    if not scale:
        return values
    limits = np.iinfo(tensor["dtype"])
    levels = np.round(values / np.float32(scale)) + zero
    return np.clip(levels, limits.min, limits.max).astype(tensor["dtype"])


def _dequantize(values: np.ndarray, tensor: Mapping[str, Any]) -> np.ndarray:
    """Returns a tensor's integers as the float32 that they stand for; see `_quantize`."""
    scale, zero = tensor["quantization"]
    return np.float32(scale) * (values.astype(np.float32) - zero) if scale else values


def operators(model: bytes) -> Counter[str]:
    """Counts the operators in a .tflite file by LiteRT's names: {"CONV_2D": 26, ...}.

    Raises:
      UserError: litert-converter is missing, or this is no .tflite file.
    """
    schema = _converter("schema_py_generated")
    if model[4:8] != b"TFL3":
        raise UserError("not a .tflite file")
    names = {
        code: name
        for name, code in vars(schema.BuiltinOperator).items()
        if not name.startswith("_")
    }
    flat = schema.Model.GetRootAs(model, 0)
    graphs = [flat.Subgraphs(index) for index in range(flat.SubgraphsLength())]
    used = [
        graph.Operators(index).OpcodeIndex()
        for graph in graphs
        for index in range(graph.OperatorsLength())
    ]
    # Codes up to 126 stand in the older, smaller field.
    return Counter(
        names[
            max(
                flat.OperatorCodes(index).BuiltinCode(),
                flat.OperatorCodes(index).DeprecatedBuiltinCode(),
            )
        ]
        for index in used
    )
