"""What an exported file's numbers mean, inside the file: design point, preprocessing and class names, in a zip behind the model.

`unzip` and `zipfile` open the file as an archive, since those read from the end; LiteRT and `jax.export` read from the start and
stop at the model's end. It is how LiteRT carries associated files (ai.google.dev/edge/litert/conversion/tensorflow/metadata), whose
tools find labels.txt there. Members are stored uncompressed: MediaPipe's reader takes no others.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from squeeze_jax.errors import UserError
from squeeze_jax.network import Network

RECORD, LABELS = "metadata.json", "labels.txt"
LIMIT = 1 << 22  # bytes of the archive; the thousand ImageNet classes take 45 KB


def attach(data: bytes, net: Network) -> bytes:
    """A model file with the net's record (metadata.json) and class names (labels.txt, a line a class) behind it.

    Raises:
      UserError: the record takes more than LIMIT bytes, which `read` would not open.
    """
    labels = "".join(" ".join(name.splitlines()) + "\n" for name in net.class_names)
    file = io.BytesIO()
    file.write(data)
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in ((RECORD, json.dumps(net.metadata())), (LABELS, labels)):
            # A ZipInfo of our own has a fixed date: equal nets give equal files.
            archive.writestr(zipfile.ZipInfo(name), text)
    if file.tell() - len(data) > LIMIT:
        raise UserError(
            f"the net's record and class names take more than the {LIMIT} bytes that are kept for them"
        )
    return file.getvalue()


def read(file: bytes | str | Path) -> dict[str, Any]:
    """The record in a model file, `Network.metadata()` of the net that was exported.

    Args:
      file: its path or its bytes; at most LIMIT bytes from the end are looked at.

    Raises:
      UserError: it can't be read, holds no record, or something else in its place.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(_tail(file))) as archive:
            member = archive.getinfo(RECORD)
            # Stored means that nothing unpacks to more than was read above.
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{RECORD} is compressed")
            record = json.loads(archive.read(member))
    # ArithmeticError: an offset of 64 bits. RuntimeError: an encrypted member, an unknown kind of zip, JSON nested too deep.
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        ArithmeticError,
        EOFError,
        RuntimeError,
        OSError,
    ) as e:
        raise UserError(
            f"no record of a net in {'the file' if isinstance(file, bytes) else file}: {e!s:.200}"
        ) from e
    if not isinstance(record, dict):
        raise UserError(f"{RECORD} holds no record of a net")
    return record


def _tail(file: bytes | str | Path) -> bytes:
    """The last LIMIT bytes of a file, or all of a smaller one."""
    if isinstance(file, bytes):
        return file[-LIMIT:]
    with open(file, "rb") as stream:
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - LIMIT))
        return stream.read(LIMIT)
