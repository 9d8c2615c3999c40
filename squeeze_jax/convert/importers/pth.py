"""Reads PyTorch's .pth and .pt files; needs PyTorch.

Reading runs no code from the file: torch.load(weights_only=True) gets a copy of the archive in
which every size was compared with what the file holds.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from squeeze_jax.convert import state_dict
from squeeze_jax.errors import UserError, list_names

if TYPE_CHECKING:
    from squeeze_jax.network import Network

NAME = "PyTorch"
SUFFIXES = (".pth", ".pt")


def read(path: Path, model: Mapping[str, Any] | None) -> "Network":
    """Reads a network.

    Raises:
      UserError: PyTorch is not installed; the file is damaged, or does not hold this model or any
        released one.
    """
    return state_dict.identify_network(path, NAME, read_arrays(path), model)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a state dict as float32 arrays by name, without BatchNorm's counters.

    Raises:
      UserError: PyTorch is not installed, or the file holds anything but a state dict of
        floating-point tensors.
    """
    torch = state_dict.import_torch()
    try:
        content = _check_archive(path)
        loaded = torch.load(content, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as e:  # each kind of damage has an exception of its own
        raise UserError(
            f"{path}: not a state dict that PyTorch reads without running code ({type(e).__name__})"
        ) from e
    # PyTorch reads the format before archives from front to back. Surplus bytes in its middle
    # show as a rest at its end.
    if content.getbuffer()[:2] != b"PK" and content.read(1):
        raise UserError(f"{path}: it goes on after its last tensor")
    plain = (torch.Tensor, torch.nn.Parameter)
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and type(tensor) in plain for name, tensor in loaded.items()
    ):
        raise UserError(
            f"{path}: not a state dict (torch.save(model.state_dict(), ...) writes one)"
        )
    tensors = {
        name: tensor.detach()
        for name, tensor in loaded.items()
        if not name.endswith(state_dict.COUNTER)
    }
    odd = [
        name
        for name, t in tensors.items()
        if t.layout != torch.strided or t.device.type != "cpu" or not t.dtype.is_floating_point
    ]
    if odd:
        raise UserError(
            f"{path}: {list_names(odd)} is not a plain tensor of floating-point numbers"
        )
    # Tensors may be views of one another or repeat an element. As arrays they would grow beyond
    # what the file holds.
    if sum(t.numel() * t.element_size() for t in tensors.values()) > path.stat().st_size:
        raise UserError(f"{path}: its tensors are larger than the file")
    return {name: tensor.to(torch.float32).contiguous().numpy() for name, tensor in tensors.items()}


def _check_archive(path: Path) -> io.BytesIO:
    """Returns the file in memory; an archive as a copy whose entries are uncompressed and whole.

    PyTorch writes archives since 1.6. It would expand compressed and overlapping entries to
    whatever size they declare.
    """
    data = path.read_bytes()
    if not data.startswith(b"PK\x03\x04"):
        return io.BytesIO(data)
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(copy, "w") as checked:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(
            entry.file_size for entry in entries
        ) > len(data):
            raise UserError(
                f"{path}: its archive is compressed or says to be larger than the file, which "
                "PyTorch does not write"
            )
        if len({entry.filename for entry in entries}) < len(entries):
            raise UserError(f"{path}: its archive has two entries of one name")
        for entry in entries:
            checked.writestr(entry.filename, archive.read(entry))
    copy.seek(0)
    return copy
