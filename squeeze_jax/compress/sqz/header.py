"""Packs and unpacks the header of a .sqz file: the network's metadata as deflated JSON.

A list of class names that readers have too is stored as the list's name and a digest.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_jax.compress.sqz.quantized_tensor import TensorSpec
from squeeze_jax.errors import UserError
from squeeze_jax.network import validate_metadata

MAX_JSON_BYTES = 4 * 2**20

KnownClasses = Mapping[str, Sequence[str]]  # name of the list -> class names


def pack(metadata: Mapping[str, Any], known: KnownClasses) -> bytes:
    """Returns `Network.metadata()` as deflated JSON.

    Args:
      metadata: what `Network.metadata()` returned.
      known: lists of class names that readers have too.

    Raises:
      UserError: the metadata is too large.
    """
    metadata = dict(metadata)
    for name, names in known.items():
        if list(names) == metadata["class_names"]:
            metadata["class_names"] = {"known": name, "digest": _digest(names)}
            break
    text = json.dumps(metadata, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > MAX_JSON_BYTES:
        raise UserError(
            f"the network's metadata has {len(text):,} bytes; a file holds {MAX_JSON_BYTES:,}"
        )
    return zlib.compress(text, 9)


def unpack(data: bytes, known: KnownClasses, tensors: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Returns the metadata in a header.

    Args:
      data: what `pack` returned.
      known: lists of class names, by name.
      tensors: the tensors of the same file, by path. Metadata of a much larger network is rejected
        before memory is allocated for it.

    Raises:
      UserError: the bytes are not the metadata of a network, or name an unknown list of classes.
    """
    try:
        metadata = json.loads(_inflate(data))
        listed = metadata["class_names"]
        if isinstance(listed, dict):
            metadata["class_names"] = _look_up(listed["known"], listed["digest"], known)
        validate_metadata(metadata, [spec.shape for spec in tensors.values()])
    except (
        zlib.error,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as e:
        raise UserError(f"its header describes no network: {str(e)[:80]!r}") from e
    return metadata


def _inflate(data: bytes) -> bytes:
    inflate = zlib.decompressobj()
    text = inflate.decompress(data, MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES or not inflate.eof or inflate.unused_data:
        raise ValueError("it is incomplete or too long")
    return text


def _look_up(name: str, digest: str, known: KnownClasses) -> list[str]:
    if name not in known or digest != _digest(known[name]):
        raise UserError(f"its class names are the list {str(name)[:40]!r}, which is unknown here")
    return list(known[name])


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
