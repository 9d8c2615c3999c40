"""The ONNX format: float32, float16, or int8 with calibrated activations.

Needs onnx and onnxruntime, which onnx_model.py loads.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from squeeze_jax.convert.options import Option
from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    from squeeze_jax.network import Classifier, Network

NAME = "onnx"
SUFFIX = ".onnx"
OPTIONS = {
    "opset": Option(int, 17, "version of the ONNX operators (default 17)"),
    "batch": Option(int, None, "a fixed batch size (default: any)"),
    "precision": Option(
        str, "float32", "of the weights and the computation", ("float32", "float16", "int8")
    ),
}


def write(network: "Network", options: Mapping[str, Any]) -> bytes:
    """Returns the content of an .onnx file.

    Args:
      network: the network.
      options: values of OPTIONS, and under "calibration" preprocessed images for int8.

    Raises:
      UserError: no such opset, no images for int8, or the module computes what ONNX export does
        not know.
    """
    from squeeze_jax.convert.exporters import onnx_model

    precision, calibration = options["precision"], options.get("calibration")
    if precision == "int8" and calibration is None:
        raise UserError("int8 is calibrated on real images: give --data NAME and --data-dir DIR")
    model = onnx_model.to_onnx(
        network,
        opset=options["opset"],
        batch=options["batch"],
        dtype="float16" if precision == "float16" else "float32",
    )
    if calibration is not None and precision == "int8":
        model = onnx_model.quantize(model, calibration, network.preprocessing)
    return model.SerializeToString()


def open(content: bytes) -> "Classifier":
    """Opens an .onnx file of ours in onnxruntime.

    Raises:
      UserError: onnxruntime cannot load it, or it is not ours.
    """
    from squeeze_jax.convert.exporters import onnx_model
    from squeeze_jax.network import Classifier

    return Classifier.from_metadata(
        onnx_model.read_metadata(content), onnx_model.make_runner(content)
    )
