"""How a network's metadata (model, preprocessing, class names) travel in an exported file.

.onnx and .safetensors have room for them, under KEY. Other files get a zip archive behind the
model. `unzip` and `zipfile` open such a file, since they read from the end; LiteRT and `jax.export`
read from the start and stop at the model's end. LiteRT carries associated files in the same way
(ai.google.dev/edge/litert/conversion/tensorflow/metadata), and its tools find labels.txt there.
Members are stored uncompressed: MediaPipe's reader takes no others.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    from squeeze_jax.network import Network

KEY = "squeeze_jax"  # of the metadata in formats that have room for them
METADATA, LABELS = "metadata.json", "labels.txt"
LIMIT = 1 << 22  # bytes of the archive; the thousand ImageNet classes take 45 KB


def attach(data: bytes, network: "Network") -> bytes:
    """Returns a model file with metadata.json and labels.txt, a line a class, behind it.

    Raises:
      UserError: they take more than LIMIT bytes, which `read` would not open.
    """
    labels = "".join(" ".join(name.splitlines()) + "\n" for name in network.class_names)
    file = io.BytesIO()
    file.write(data)
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in ((METADATA, json.dumps(network.metadata())), (LABELS, labels)):
            # A ZipInfo of our own has a fixed date: equal networks give equal files.
            archive.writestr(zipfile.ZipInfo(name), text)
    if file.tell() - len(data) > LIMIT:
        raise UserError(
            f"the network's metadata and class names take more than the {LIMIT} bytes that are "
            "kept for them"
        )
    return file.getvalue()


def read(file: bytes | str | Path) -> dict[str, Any]:
    """Returns `Network.metadata()` of the network in a model file.

    Args:
      file: its path or its bytes; at most LIMIT bytes from the end are looked at.

    Raises:
      UserError: it cannot be read, or holds no metadata of a network.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(_tail(file))) as archive:
            member = archive.getinfo(METADATA)
            # Stored means that nothing unpacks to more than was read above.
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{METADATA} is compressed")
            metadata = json.loads(archive.read(member))
    # ArithmeticError: an offset of 64 bits. RuntimeError: an encrypted member, an unknown kind of
    # zip, JSON nested too deep.
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        ArithmeticError,
        EOFError,
        RuntimeError,
        OSError,
    ) as e:
        where = "the file" if isinstance(file, bytes) else file
        raise UserError(f"no metadata of a network in {where}: {e!s:.200}") from e
    if not isinstance(metadata, dict):
        raise UserError(f"{METADATA} holds no metadata of a network")
    return metadata


def _tail(file: bytes | str | Path) -> bytes:
    """Returns the last LIMIT bytes of a file, or all of a smaller one."""
    if isinstance(file, bytes):
        return file[-LIMIT:]
    with open(file, "rb") as stream:
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - LIMIT))
        return stream.read(LIMIT)
