"""Writers of files for other libraries and engines, one module a format.

A module has NAME; SUFFIX, of its files; OPTIONS by name; `write(network, options)`, which returns
a file's content; and `open(content)`, which returns a classifier that the format's engine runs.
`open` is None where the file holds weights only, which an importer reads. Where SUFFIX is empty,
the content is a zip archive of a folder.
"""

import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from squeeze_jax.convert.exporters import c, onnx, pth, safetensors, stablehlo, tflite
from squeeze_jax.convert.importers import IMPORTERS, import_network
from squeeze_jax.convert.options import Option, complete_options
from squeeze_jax.errors import UserError
from squeeze_jax.files import check_file, check_new, new_folder, write_atomically, write_errors
from squeeze_jax.signals import held_signals
from squeeze_jax.storage import as_path

if TYPE_CHECKING:
    import numpy as np

    from squeeze_jax.network import Classifier, Network


class Exporter(Protocol):
    """What a format's module provides."""

    @property
    def NAME(self) -> str: ...  # noqa: D102

    @property
    def SUFFIX(self) -> str: ...  # noqa: D102

    @property
    def OPTIONS(self) -> Mapping[str, Option]: ...  # noqa: D102

    def write(self, network: "Network", options: Mapping[str, Any]) -> bytes: ...  # noqa: D102

    @property
    def open(self) -> "Callable[[bytes], Classifier] | None": ...  # noqa: D102


_MODULES: tuple[Exporter, ...] = (onnx, tflite, c, stablehlo, safetensors, pth)
CALIBRATED = ("int8", "int16")  # precisions that need real images
EXPORTERS: dict[str, Exporter] = {module.NAME: module for module in _MODULES}


def export_network(
    network: "Network", format: str, options: Mapping[str, Any], images: "np.ndarray"
) -> tuple[bytes, float]:
    """Writes a network in another format and checks that the file computes the same logits.

    Model, preprocessing and class names travel inside: in the metadata of .onnx and .safetensors,
    and in a zip archive behind the content of .tflite and .stablehlo, whose loaders ignore it.

    Args:
      network: the network.
      format: a key of EXPORTERS.
      options: the format's, by name. "calibration" may hold preprocessed images [N, H, W, 3], on
        which int8 is calibrated.
      images: preprocessed real images float32 [N, H, W, 3], for the check.

    Returns:
      The content, and the largest deviation of its logits on `images` and on noise, relative to
      the largest logit.

    Raises:
      UserError: no such format or option; the file does not compute what the network computes; or
        a library is missing.
    """
    from squeeze_jax.convert import verify

    if format not in EXPORTERS:
        raise UserError(f"no format {format!r}; there are {', '.join(EXPORTERS)}")
    exporter, given = EXPORTERS[format], dict(options)
    calibration = given.pop("calibration", None)
    values = complete_options(format, exporter.OPTIONS, given)
    try:
        content = exporter.write(network, values | {"calibration": calibration})
        classifier = _reopen(exporter, content, network)
    except ImportError as e:
        raise UserError(f"--format {format} needs {_installation(e)}") from e
    precision = values.get("precision", "float32")
    return content, verify.check(network, adapt(classifier, network), images, precision)


def adapt(classifier: "Classifier", network: "Network") -> "Callable[[np.ndarray], np.ndarray]":
    """Returns a file's `Classifier.run` for images that the network's preprocessing made."""
    from squeeze_jax.network.preprocessing import renormalise

    return lambda images: classifier.run(
        renormalise(images, network.preprocessing, classifier.preprocessing)
    )


def needs_calibration(format: str, options: Mapping[str, Any]) -> bool:
    """Returns whether a format with these options, by name, is calibrated on images.

    Raises:
      UserError: no such format or option.
    """
    if format not in EXPORTERS:
        raise UserError(f"no format {format!r}; there are {', '.join(EXPORTERS)}")
    values = complete_options(format, EXPORTERS[format].OPTIONS, options)
    return values.get("precision") in CALIBRATED


def check_output(path: Path, format: str) -> None:
    """Rejects, with a UserError, a path that a format's file or folder cannot be written to."""
    if format in EXPORTERS and is_folder(EXPORTERS[format]):
        check_new(path)
    else:
        check_file(path)


def save(content: bytes, path: Path, format: str) -> None:
    """Writes the content of an exported file, or the files of an exported folder.

    Raises:
      UserError: the folder exists already.
      WriteError: something cannot be written; nothing is left behind.
    """
    if not is_folder(EXPORTERS[format]):
        write_atomically(path, content)
        return
    with new_folder(path) as folder, zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            (folder / name).write_bytes(archive.read(name))


def is_folder(exporter: Exporter) -> bool:
    """Returns whether a format is a folder of files."""
    return not exporter.SUFFIX


def _installation(error: ImportError) -> str:
    """Returns the library that is missing and the command that installs it."""
    extra = "torch" if error.name == "torch" else "export"
    return f"{error.name}: pip install 'squeeze_jax[{extra}]'"


def suffixes(exporter: Exporter) -> tuple[str, ...]:
    """Returns the suffixes by which a file of the format is opened, or imported, again."""
    return (exporter.SUFFIX,) if exporter.open else IMPORTERS[exporter.SUFFIX].SUFFIXES


def _reopen(exporter: Exporter, content: bytes, network: "Network") -> "Classifier":
    """Opens a written file: with its engine, or by importing the weights again."""
    if exporter.open is not None:
        return exporter.open(content)
    options = dict(network.model)
    with held_signals(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{exporter.SUFFIX}"
        with write_errors(path):
            path.write_bytes(content)
        return import_network(path, options.pop("name"), options).classifier()


def _openers() -> "dict[str, Callable[[bytes], Classifier]]":
    """Returns what opens the files that can be run, by suffix."""
    return {
        module.SUFFIX: module.open
        for module in EXPORTERS.values()
        if module.open and not is_folder(module)
    }


def runnable_suffixes() -> str:
    """Returns the suffixes of the files that `open_exported` opens, as words: .onnx or .tflite."""
    *suffixes, last = _openers()
    return f"{', '.join(suffixes)} or {last}"


def open_exported(path: Path | str) -> "Classifier":
    """Opens a file that `export_network` wrote, with the engine that it is for.

    Raises:
      UserError: the file cannot be read or is of no such format, or a library is missing.
    """
    path = as_path(path)
    openers = _openers()
    suffix = path.suffix.lower()
    if suffix not in openers:
        is_weights = suffix in IMPORTERS
        hint = "; `squeeze-jax import` makes a checkpoint of it" if is_weights else ""
        raise UserError(f"{path} is neither a checkpoint's folder nor {runnable_suffixes()}{hint}")
    try:
        return openers[suffix](path.read_bytes())
    except OSError as e:
        raise UserError(f"{path}: {e.strerror or e}") from e
    except ImportError as e:
        raise UserError(f"{path} needs {_installation(e)}") from e
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
