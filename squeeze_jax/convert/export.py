"""A net as a file for another world, checked on the spot against the Flax net."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from squeeze_jax.convert import verify
from squeeze_jax.errors import UserError
from squeeze_jax.network import Classifier, Network

Precision = Literal["float32", "float16", "int8"]
Runner = Callable[
    [np.ndarray], np.ndarray
]  # preprocessed images [N, H, W, 3] -> logits [N, classes]

# How far logits may lie from the net's, relative to the largest. int8 is judged on real images: on noise it has nothing to go by.
TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "float16": 1e-2, "int8": 0.2}


class Settings(NamedTuple):
    """What a format may be asked for."""

    opset: int | None = None  # of ONNX; None: 17
    batch: int | None = None  # None: any (.tflite: 1)
    precision: Precision = "float32"
    calibration: np.ndarray | None = None  # preprocessed images [N, H, W, 3], for int8


def export(
    net: Network, format: str, settings: Settings, images: np.ndarray
) -> tuple[bytes, float]:
    """A net as the content of a file.

    Design point, preprocessing and class names travel inside: in ONNX's and safetensors' metadata, and in a zip archive behind the
    content of .tflite and .stablehlo, which their loaders pass over.

    Args:
      net: the net.
      format: a key of FORMATS.
      settings: see there.
      images: real ones, preprocessed, [N, H, W, 3], for the check.

    Returns:
      The content, and the largest deviation of its logits from the net's on `images` and on noise, relative to the largest logit.

    Raises:
      UserError: the file does not compute what the net computes; the format has no such setting; its library is missing.
    """
    write, takes = FORMATS[format]
    for name in ("opset", "batch", "precision"):
        if name not in takes and getattr(settings, name) != Settings._field_defaults[name]:
            raise UserError(f"--format {format} has no {name}")
    try:
        content, run = write(net, settings)
    except ImportError as e:
        raise UserError(f"--format {format} needs {e.name}: pip install -e '.[export]'") from e
    return content, verify.check(
        net, run, images, TOLERANCES[settings.precision], noise=settings.precision != "int8"
    )


def open_exported(path: Path) -> Classifier:
    """The net in a file that `export` made, .onnx, .tflite or .stablehlo, run by the engine it is for.

    Raises:
      UserError: it is no such file, it can't be read, or a library is missing.
    """
    try:
        content = path.read_bytes()
        match path.suffix:
            case ".onnx":
                from squeeze_jax.convert import onnx

                return Classifier.from_metadata(onnx.record(content), onnx.runner(content))
            case ".tflite":
                from squeeze_jax.convert import litert, metadata

                return Classifier.from_metadata(metadata.read(content), litert.runner(content))
            case ".stablehlo":
                from squeeze_jax.convert import metadata, stablehlo

                return Classifier.from_metadata(metadata.read(content), stablehlo.runner(content))
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}") from e
    except ImportError as e:
        raise UserError(f"{path} needs {e.name}: pip install -e '.[export]'") from e
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
    raise UserError(f"{path} is neither a checkpoint's folder nor .onnx, .tflite or .stablehlo")


def _onnx(net: Network, settings: Settings) -> tuple[bytes, Runner]:
    from squeeze_jax.convert import onnx

    quantize = settings.precision == "int8"
    if quantize and settings.calibration is None:
        raise UserError("int8 is calibrated on real images: give --data NAME and --data-dir DIR")
    dtype = "float32" if quantize else settings.precision
    model = onnx.to_onnx(net, opset=settings.opset or 17, batch=settings.batch, dtype=dtype)
    if quantize:
        model = onnx.quantized(model, settings.calibration)
    content = model.SerializeToString()
    return content, onnx.runner(content)


def _litert(net: Network, settings: Settings) -> tuple[bytes, Runner]:
    from squeeze_jax.convert import litert, metadata

    content = metadata.attach(litert.to_litert(net, batch=settings.batch or 1), net)
    return content, litert.runner(content)


def _stablehlo(net: Network, settings: Settings) -> tuple[bytes, Runner]:
    from squeeze_jax.convert import metadata, stablehlo

    content = metadata.attach(stablehlo.to_stablehlo(net, batch=settings.batch), net)
    return content, stablehlo.runner(content)


def _weights(suffix: str) -> Callable[[Network, Settings], tuple[bytes, Runner]]:
    def write(net: Network, settings: Settings) -> tuple[bytes, Runner]:
        from squeeze_jax.convert import load, torch

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"net{suffix}"
            {".safetensors": torch.write_safetensors, ".pth": torch.write_pth}[suffix](net, path)
            again = load.import_network(
                path,
                net.model["name"],
                {key: value for key, value in net.model.items() if key != "name"},
            )
            return path.read_bytes(), lambda images: verify.logits(again, images)

    return write


# format -> (what makes content and a way to run it, the settings it has)
FORMATS: Mapping[str, tuple[Callable[[Network, Settings], tuple[bytes, Runner]], set[str]]] = {
    "onnx": (_onnx, {"opset", "batch", "precision"}),
    "tflite": (_litert, {"batch"}),
    "stablehlo": (_stablehlo, {"batch"}),
    "safetensors": (_weights(".safetensors"), set()),
    "pth": (_weights(".pth"), set()),
}
