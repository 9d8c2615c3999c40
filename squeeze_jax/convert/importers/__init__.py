"""Readers of other libraries' weight files, one module a format.

A module has NAME, the format in words; SUFFIXES, of its files; `recognizes(head)`, which tells
whether a file that begins so is of this format whatever its suffix; and `read(path, wanted)`, which
returns what is in a file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from squeeze_jax.convert.imported import Imported, Wanted, complete
from squeeze_jax.convert.importers import caffe, deep_compression, pth, safetensors
from squeeze_jax.errors import UserError
from squeeze_jax.storage import as_path, local_file

if TYPE_CHECKING:
    from squeeze_jax.network import Network

HEAD = 64  # bytes that `recognizes` gets


class Importer(Protocol):
    """What a format's module provides."""

    @property
    def NAME(self) -> str: ...  # noqa: D102

    @property
    def SUFFIXES(self) -> tuple[str, ...]: ...  # noqa: D102

    def recognizes(self, head: bytes) -> bool: ...  # noqa: D102

    def read(self, path: Path, wanted: Wanted) -> Imported: ...  # noqa: D102


_MODULES: tuple[Importer, ...] = (deep_compression, caffe, pth, safetensors)
# By suffix, in lower case.
IMPORTERS: dict[str, Importer] = {
    suffix: module for module in _MODULES for suffix in module.SUFFIXES
}


def import_network(
    path: Path | str, model: str | None = None, options: Mapping[str, Any] | None = None
) -> "Network":
    """Returns the network in a weight file; see `read_network`."""
    return read_network(path, model, options).network


def read_network(
    path: Path | str,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    num_classes: int | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> Imported:
    """Returns the network in a weight file, and what had to be changed and assumed for it.

    The content tells the format, or else the suffix; the names in the file tell the library that
    it comes from, and the classifier's shape the number of classes. Files of `export_network` say
    all of it themselves. To others, networks from Caffe get Caffe's preprocessing, those from
    PyTorch torchvision's. 1,000 classes are ImageNet's; others are called by their number.

    Args:
      path: a file.
      model: a registered name, where the file does not tell which network it holds.
      options: of that model.
      num_classes: where the file does not tell.
      preprocessing: values by field of `Preprocessing`, in place of the file's or the assumed ones.
      class_names: by label, likewise.

    Raises:
      UserError: no such file, model or option; the file is damaged or holds another model; it does
        not tell and no model is given; or a value does not fit the network.
    """
    from squeeze_jax import models

    path, options = as_path(path), dict(options or {})
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file of weights")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if options and model is None:
        raise UserError("options are those of a model: give --model as well")
    option = options.pop("num_classes", num_classes)
    if num_classes not in (None, option):
        raise UserError(f"num_classes is given twice: as {num_classes} and as {option}")
    num_classes = option
    if model is not None:
        models.check_options(model, options)
    wanted = Wanted(None if model is None else {"name": model, **options}, num_classes)
    try:
        with local_file(path) as local:
            found = find_importer(local).read(local, wanted)
    except OSError as e:
        raise UserError(f"{path}: {e.strerror or e}") from e
    if num_classes not in (None, len(found.network.class_names)):
        raise UserError(
            f"{path} has {len(found.network.class_names)} classes, not the {num_classes} given"
        )
    return complete(found, preprocessing or {}, class_names)


def find_importer(path: Path) -> Importer:
    """Returns the importer of a file's content, or else of its suffix.

    Raises:
      UserError: there is none.
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    for importer in IMPORTERS.values():
        if importer.recognizes(head):
            return importer
    if path.suffix.lower() not in IMPORTERS:
        raise UserError(f"{path}: its suffix is none of {', '.join(IMPORTERS)}")
    return IMPORTERS[path.suffix.lower()]
