"""Keeps decoded .sqz files beside JAX's compiled programs: loading the decoder takes a second."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from squeeze_jax.errors import UserError
from squeeze_jax.files import new_file
from squeeze_jax.network import Network, leaves_by_path, nest_leaves

_FOLDER = "decoded"  # of JAX's compilation cache
_LARGEST = 2**20  # bytes of a .sqz file that is kept
_MOST = 64  # files
_VERSION = 1  # of the decoder's results


def decode_once(content: bytes, decode: Callable[[], Network]) -> Network:
    """Returns `decode()`, or what it returned in an earlier process for the same bytes.

    Without a JAX compilation cache on a disk, nothing is kept. A kept file that cannot be read
    counts as none.

    Args:
      content: of the .sqz file.
      decode: decodes it.
    """
    cache = jax.config.values["jax_compilation_cache_dir"]
    if not cache or "://" in cache or len(content) > _LARGEST:
        return decode()
    path = Path(cache) / _FOLDER / f"{hashlib.sha256(content).hexdigest()}-{_VERSION}.npz"
    with contextlib.suppress(Exception):  # damaged, or of another version: it is decoded again
        return _read(path)
    network = decode()
    with contextlib.suppress(OSError, UserError):  # it is only for speed
        _write(path, network)
        for old in sorted(path.parent.glob("*.npz"), key=lambda p: -p.stat().st_mtime)[_MOST:]:
            old.unlink()
    return network


def _read(path: Path) -> Network:
    with np.load(path, allow_pickle=False) as file:  # checks a CRC of each array
        arrays = {name: file[name] for name in file.files}
    metadata = json.loads(arrays.pop("metadata").tobytes())
    weights = nest_leaves(arrays)
    return Network.from_metadata(metadata, weights["params"], weights.get("stats", {}))


def _write(path: Path, network: Network) -> None:
    leaves = leaves_by_path({"params": network.params, "stats": network.stats})
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    arrays["metadata"] = np.frombuffer(json.dumps(network.metadata()).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)
