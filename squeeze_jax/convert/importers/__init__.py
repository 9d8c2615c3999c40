"""Readers of other libraries' weight files, one module a format.

A module has NAME, the format in words; SUFFIXES, of its files; and `read(path, model)`, which
returns the network in a file. `model` is the name and the options that the caller gave, or None
where the file has to tell.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from squeeze_jax.convert.importers import caffe, deep_compression, pth, safetensors
from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    from squeeze_jax.network import Network


class Importer(Protocol):
    """What a format's module provides."""

    @property
    def NAME(self) -> str: ...  # noqa: D102

    @property
    def SUFFIXES(self) -> tuple[str, ...]: ...  # noqa: D102

    def read(self, path: Path, model: Mapping[str, Any] | None) -> "Network": ...  # noqa: D102


_MODULES: tuple[Importer, ...] = (deep_compression, caffe, pth, safetensors)
# By suffix.
IMPORTERS: dict[str, Importer] = {
    suffix: module for module in _MODULES for suffix in module.SUFFIXES
}


def import_network(
    path: Path | str, model: str | None = None, options: Mapping[str, Any] | None = None
) -> "Network":
    """Returns the network in a weight file.

    The suffix tells the format, the names in the file tell the library that it comes from, and the
    classifier's shape tells the number of classes. Networks from Caffe get Caffe's preprocessing,
    those from PyTorch torchvision's. 1,000 classes are ImageNet's; others are called by their
    number. A .safetensors file that `export_network` wrote says all of this itself.

    Args:
      path: a file with a suffix of IMPORTERS.
      model: a registered name, where the file does not tell which network it holds.
      options: of that model.

    Raises:
      UserError: no such file, model or option; the file is damaged or holds another model; or it
        does not tell and no model is given.
    """
    path, options = Path(path), dict(options or {})
    if path.suffix not in IMPORTERS:
        raise UserError(f"{path}: its suffix is none of {', '.join(IMPORTERS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if options and model is None:
        raise UserError("options are those of a model: give --model as well")
    try:
        return IMPORTERS[path.suffix].read(
            path, None if model is None else {"name": model, **options}
        )
    except OSError as e:
        raise UserError(f"{path}: {e.strerror or e}") from e
