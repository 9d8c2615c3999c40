"""The .tflite format of LiteRT (formerly TensorFlow Lite), written without TensorFlow.

litert-converter turns StableHLO into LiteRT's operators. It has no documented interface: the calls
below are those that the converter of PyTorch models makes (github.com/google-ai-edge/litert-torch,
litert_torch/_convert), so its version is fixed.
"""

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
OPTIONS = {"batch": Option(int, 1, "a fixed batch size (default: any; tflite: 1)")}
CONVERTER_VERSION = "0.5.0"
INPUT, OUTPUT = "images", "logits"


def write(network: "Network", options: Mapping[str, Any]) -> bytes:
    """Returns the content of a .tflite file with the network's metadata behind it.

    Raises:
      UserError: litert-converter is not installed, cannot be loaded, or is another version.
    """
    return metadata.attach(to_litert(network, batch=options["batch"]), network)


def open(content: bytes) -> "Classifier":
    """Opens a .tflite file of ours in LiteRT's interpreter.

    Raises:
      UserError: ai-edge-litert is missing, or it is not such a file.
    """
    from squeeze_jax.network import Classifier

    return Classifier.from_metadata(metadata.read(content), make_runner(content))


def to_litert(network: "Network", *, batch: int = 1) -> bytes:
    """Converts a network to a float32 LiteRT model.

    It takes preprocessed "images" [batch, H, W, 3] and returns "logits" [batch, classes].

    Args:
      network: what is exported.
      batch: images a call; LiteRT's shapes are fixed.

    Raises:
      UserError: litert-converter is not installed, cannot be loaded, or is another version.
    """
    ir = _converter("mlir.ir")
    passmanager = _converter("mlir.passmanager")
    dialect = _converter("mlir.dialects.stablehlo")
    api = _converter("mlir._mlir_libs.converter_api_ext")
    # The portable form: JAX and the converter need not agree on a version of StableHLO.
    program = stablehlo.lower(network, batch, ("cpu",)).mlir_module_serialized
    context = ir.Context()
    api.prepare_mlir_context(context)
    with context:
        module = dialect.deserialize_portable_artifact(context, program)
        api.set_signature(module.operation, "serving_default", [INPUT], [OUTPUT])
        api.run_convert_to_tfl_passes(module, passmanager.PassManager(), api.ConvertToTFLConfig())
        _fuse_relu_through_concatenation(module, ir.StringAttr.get("RELU"))
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
    """Returns a function that runs a .tflite file of ours.

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
        batch = int(call.get_input_details()[INPUT]["shape"][0])
        call.get_output_details()[OUTPUT]
    except (ValueError, KeyError) as e:
        raise UserError(f"not a LiteRT export of a network: {e}") from e
    # The interpreter returns a view of memory that its next call overwrites.
    return lambda images: run_in_batches(
        lambda chunk: call(**{INPUT: chunk})[OUTPUT].copy(), images, batch
    )


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
