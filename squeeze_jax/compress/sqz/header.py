"""The record of a net in few bytes: JSON, deflated, with a list of classes that both sides know given by name only."""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_jax.compress.sqz.quantized_tensor import TensorSpec
from squeeze_jax.errors import UserError
from squeeze_jax.network import validate_metadata

LARGEST = 4 * 2**20  # bytes of JSON

KnownClasses = Mapping[str, Sequence[str]]  # lists of class names, by what they are called


def pack(record: Mapping[str, Any], known: KnownClasses) -> bytes:
    """`Net.metadata()` in few bytes.

    Args:
      record: of the net.
      known: lists of class names that the reader has too.

    Raises:
      UserError: the record is out of all proportion.
    """
    record = dict(record)
    for name, names in known.items():
        if list(names) == record["class_names"]:
            record["class_names"] = {"known": name, "digest": _digest(names)}
            break
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > LARGEST:
        raise UserError(f"the net's record has {len(text):,} bytes; {LARGEST:,} at most fit")
    return zlib.compress(text, 9)


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def unpack(data: bytes, known: KnownClasses, tensors: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """The record.

    Args:
      data: `pack`'s bytes.
      known: lists of class names, by what they are called.
      tensors: of the same file; a record out of all proportion to them is refused before it costs anything.

    Raises:
      UserError: it is no record of a net, or names a list of classes that is not among the known.
    """
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(data, LARGEST + 1)
        if len(text) > LARGEST or not inflate.eof or inflate.unused_data:
            raise ValueError("it is not all there, or too long")
        record = json.loads(text)
        listed = record["class_names"]
        if isinstance(listed, dict):
            name, digest = listed["known"], listed["digest"]
            if name not in known or digest != _digest(known[name]):
                raise UserError(
                    f"its classes are a list called {str(name)[:40]!r}, which is not at hand"
                )
            record["class_names"] = list(known[name])
        validate_metadata(record, [item.shape for item in tensors.values()])
    except (
        zlib.error,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as e:
        raise UserError(f"its record describes no net: {str(e)[:80]!r}") from e
    return record
