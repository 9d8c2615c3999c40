"""A net as a .tflite file for LiteRT (formerly TensorFlow Lite), written without TensorFlow.

`litert-converter` turns StableHLO into LiteRT's operators. It has no documented interface: the calls below are those that the
converter of PyTorch models makes (github.com/google-ai-edge/litert-torch, litert_torch/_convert), so its version is fixed.
"""

from collections import Counter
from collections.abc import Callable
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

import numpy as np

from squeeze_jax.convert import stablehlo
from squeeze_jax.convert.verify import in_batches
from squeeze_jax.errors import UserError
from squeeze_jax.network import Network

CONVERTER_VERSION = "0.5.0"
INPUT, OUTPUT = "images", "logits"


def to_litert(net: Network, *, batch: int = 1) -> bytes:
    """The bytes of a .tflite file, float32: "images" [batch, H, W, 3], preprocessed, -> "logits" [batch, classes].

    Args:
      net: what to export.
      batch: images a call; LiteRT's shapes are fixed.

    Raises:
      UserError: litert-converter is not installed, cannot be loaded, or is another version.
    """
    ir = _converter("mlir.ir")
    passmanager = _converter("mlir.passmanager")
    dialect = _converter("mlir.dialects.stablehlo")
    api = _converter("mlir._mlir_libs.converter_api_ext")
    # The portable form: JAX and the converter need not agree on a version of StableHLO.
    program = stablehlo.exported(net, batch, ("cpu",)).mlir_module_serialized
    context = ir.Context()
    api.prepare_mlir_context(context)
    with context:
        module = dialect.deserialize_portable_artifact(context, program)
        api.set_signature(module.operation, "serving_default", [INPUT], [OUTPUT])
        api.run_convert_to_tfl_passes(module, passmanager.PassManager(), api.ConvertToTFLConfig())
        _fuse_relu_through_concatenation(module, ir.StringAttr.get("RELU"))
        return api.export_flatbuffer_to_bytes(module.operation)


def _converter(name: str) -> ModuleType:
    """A module of litert-converter.

    Raises:
      UserError: there is none, or it is another version than the one whose interface is known.
    """
    wanted = f"LiteRT files need litert-converter {CONVERTER_VERSION} (pip install litert-converter=={CONVERTER_VERSION})"
    try:
        installed = metadata.version("litert-converter")
        module = import_module(f"litert_converter.{name}")
    except ImportError as e:
        raise UserError(f"{wanted}: {e}") from e
    if installed != CONVERTER_VERSION:
        raise UserError(f"{wanted}; {installed} is installed")
    return module


def _fuse_relu_through_concatenation(module: Any, relu: Any) -> None:
    """ReLU of a concatenation becomes the activation of what is concatenated, which costs LiteRT's operators nothing.

    The converter fuses a ReLU only into the operator directly before it, so each Fire module would keep one of its own.

    Args:
      module: the converted module, changed in place.
      relu: the attribute value "RELU".
    """
    for op in _named(module, "tfl.relu"):
        joined = op.operands[0].owner
        # A block argument's owner is a block, which has no name.
        if getattr(joined, "name", None) != "tfl.concatenation" or _uses(joined) > 1:
            continue
        parts = [operand.owner for operand in joined.operands]
        if all(
            getattr(part, "name", None) == "tfl.conv_2d"
            and _uses(part) == 1
            and not _activated(part)
            for part in parts
        ):
            for part in parts:
                part.attributes["fused_activation_function"] = relu
            op.results[0].replace_all_uses_with(joined.results[0])
            op.erase()


def _named(module: Any, name: str) -> list[Any]:
    """The operations of that name in the functions of a module."""
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


def _activated(op: Any) -> bool:
    return op.attributes["fused_activation_function"].value != "NONE"


def runner(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """A .tflite file of ours as a function: preprocessed images float32 [N, H, W, 3] -> logits [N, classes], N >= 1.

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
        raise UserError(f"not a LiteRT export of a net: {e}") from e
    # The interpreter answers with a view of memory that its next call writes to.
    return lambda images: in_batches(
        lambda chunk: call(**{INPUT: chunk})[OUTPUT].copy(), images, batch
    )


def operators(model: bytes) -> Counter[str]:
    """How many of which operator a .tflite file holds, by LiteRT's names: {"CONV_2D": 26, ...}.

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
