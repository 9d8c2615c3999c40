"""Opens a network from any file or folder that holds its weights."""

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeeze_jax import zoo
from squeeze_jax.errors import UserError
from squeeze_jax.files import is_sqz
from squeeze_jax.network import Network, imagenet
from squeeze_jax.storage import as_path
from squeeze_jax.train.checkpoint import load_network
from squeeze_jax.train.decoded_weights import decode_once


def open_weights(path: Path, model: Mapping[str, Any] | None = None) -> Network:
    """Returns the network of a checkpoint's folder, a .sqz file, or a file that importers read.

    The name of a bundled network will do, see `squeeze_jax.zoo`.

    What an importer changed and assumed is printed.

    Args:
      path: the folder or file.
      model: name and options, for a file of another library that does not tell.

    Raises:
      UserError: there is none, or it is damaged, of no known kind, or of another model.
    """
    path = zoo.locate(path)
    if path.is_dir() or not path.exists():
        return load_network(path)
    if is_sqz(path):
        return load_sqz_file(path)
    from squeeze_jax.convert import read_network

    options = dict(model or {})
    found = read_network(path, options.pop("name", None), options)
    for line in found.remarks():
        print(f"{path}: {line}", file=sys.stderr)
    return found.network


# A study starts all its trials from one network, and has them learn from one teacher.
@functools.lru_cache(maxsize=2)
def open_once(path: str, model: str | None = None) -> Network:
    """Returns `open_weights` of a path, reading one of the latest two paths no more.

    Args:
      path: the folder or file.
      model: name and options, as JSON.

    Raises:
      UserError: see `open_weights`.
    """
    return open_weights(as_path(path).expanduser(), None if model is None else json.loads(model))


def load_sqz_file(path: Path, base: Network | None = None) -> Network:
    """Returns the network of a .sqz file, whatever its suffix.

    Args:
      path: the file.
      base: the network that the file is a delta from.

    Raises:
      UserError: it cannot be read, is damaged, or is a delta from another network.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: {e.strerror or e}") from e

    def decode() -> Network:
        from squeeze_jax.compress.sqz import container  # takes numba along

        return container.read(content, known_classes(), base)

    try:
        return decode_once(content, decode) if base is None else decode()
    except UserError as e:
        raise UserError(f"{path}: {e}") from e


def known_classes() -> Mapping[str, Sequence[str]]:
    """Returns the lists of class names that a .sqz file may leave out."""
    return {"imagenet": imagenet.class_names()}
