"""PyTorch's weight files, .pth and .safetensors: arrays by name, both ways.

Only .pth needs PyTorch, and reading one runs no code in it: torch.load(weights_only=True), from a copy of the archive of which every
size was compared with what the file holds.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import safetensors
import safetensors.numpy

from squeeze_jax.convert import names
from squeeze_jax.convert.names import shown
from squeeze_jax.errors import UserError
from squeeze_jax.files import write_atomically
from squeeze_jax.network import Network, leaves_by_path

RECORD = "squeeze_jax"  # key of a safetensors file's metadata: Network.metadata() as JSON
COUNTER = ".num_batches_tracked"  # of a BatchNorm; of no use to inference


def _torch() -> ModuleType:
    """PyTorch, which nothing else here needs."""
    try:
        import torch
    except ImportError as e:
        raise UserError(
            ".pth files need PyTorch: pip install torch (.safetensors files do not)"
        ) from e
    return torch


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a .pth file as float32 arrays, without BatchNorm's counters.

    Raises:
      UserError: PyTorch is not installed, or the file holds anything but a state dict of floating-point tensors.
    """
    torch = _torch()
    try:
        content = _checked_archive(path)
        # Every damage has an exception of its own in there, and all of them mean that this is no such file.
        loaded = torch.load(content, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as e:
        raise UserError(
            f"{path}: not a state dict that PyTorch reads without running code ({type(e).__name__})"
        ) from e
    # The format before archives is read from front to back; bytes too many in its middle show as a rest at its end.
    if content.getbuffer()[:2] != b"PK" and content.read(1):
        raise UserError(f"{path}: it goes on after its last tensor")
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and type(t) in _plain(torch) for name, t in loaded.items()
    ):
        raise UserError(
            f"{path}: not a state dict (torch.save(model.state_dict(), ...) writes one)"
        )
    tensors = {
        name: tensor.detach() for name, tensor in loaded.items() if not name.endswith(COUNTER)
    }
    odd = [
        name
        for name, t in tensors.items()
        if t.layout != torch.strided or t.device.type != "cpu" or not t.dtype.is_floating_point
    ]
    if odd:
        raise UserError(f"{path}: {shown(odd)} is not a plain tensor of floating-point numbers")
    # Tensors may be views of one another, or repeat an element: as arrays they would grow beyond what the file holds.
    if sum(t.numel() * t.element_size() for t in tensors.values()) > path.stat().st_size:
        raise UserError(f"{path}: its tensors are larger than the file")
    return {name: tensor.to(torch.float32).contiguous().numpy() for name, tensor in tensors.items()}


def _plain(torch: ModuleType) -> tuple[type, ...]:
    return (torch.Tensor, torch.nn.Parameter)


def _checked_archive(path: Path) -> io.BytesIO:
    """The file in memory; if it is an archive, as PyTorch writes since 1.6, a copy whose entries are uncompressed and whole.

    PyTorch would expand compressed entries, and overlapping ones, to whatever size they say.
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
                f"{path}: its archive is compressed or says to be larger than the file, which PyTorch does not write"
            )
        if len({entry.filename for entry in entries}) < len(entries):
            raise UserError(f"{path}: its archive has two entries of one name")
        for entry in entries:
            checked.writestr(entry.filename, archive.read(entry))
    copy.seek(0)
    return copy


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(float32 arrays by name without BatchNorm's counters, metadata) of a .safetensors file.

    Raises:
      UserError: not such a file, or tensors of another type than floating point.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {
                name: file.get_tensor(name) for name in file.keys() if not name.endswith(COUNTER)
            }
    except (
        safetensors.SafetensorError,
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        MemoryError,
    ) as e:
        raise UserError(
            f"{path}: not a .safetensors file, or not all of one, or its numbers are of a type that NumPy lacks"
        ) from e
    if odd := [
        name
        for name, array in arrays.items()
        if array.dtype not in (np.float16, np.float32, np.float64)
    ]:
        raise UserError(f"{path}: {shown(odd)} is not of floating-point numbers")
    return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}, metadata


def state_dict(net: Network, world: names.World) -> dict[str, np.ndarray]:
    """The net's weights under another world's names and in its layouts, float32; with BatchNorm's counters where pytorchcv has them.

    Raises:
      UserError: `world` has no net with these layers.
    """
    arrays: dict[str, np.ndarray] = {}
    params, stats = leaves_by_path(net.params), leaves_by_path(net.stats)
    for weight in names.weights(net.model, len(net.class_names), world):
        ours = np.asarray((stats if weight.statistic else params)[weight.path], np.float32)
        arrays |= {
            name: np.ascontiguousarray(array)
            for name, array in zip(weight.names, weight.conversion.encode(ours))
        }
    means = [name for name in arrays if name.endswith(".running_mean")]
    return arrays | {
        name.removesuffix(".running_mean") + COUNTER: np.zeros((), np.int64) for name in means
    }


def write_safetensors(net: Network, path: Path) -> names.World:
    """Writes weights that the definition of the returned world loads: model.load_state_dict(safetensors.torch.load_file(path)).

    Where no other library has this net, the names are our own. The metadata hold the net's record, so that the file can be
    imported again as it is, bit for bit.
    """
    world = names.world_of(net.model, len(net.class_names))
    metadata = {"format": "pt", RECORD: json.dumps(net.metadata())}
    write_atomically(Path(path), safetensors.numpy.save(state_dict(net, world), metadata))
    return world


def write_pth(net: Network, path: Path) -> names.World:
    """As `write_safetensors`, as a .pth file, which has no room for the net's record.

    Raises:
      UserError: PyTorch is not installed.
    """
    torch = _torch()
    world = names.world_of(net.model, len(net.class_names))
    content = io.BytesIO()
    torch.save(
        {name: torch.from_numpy(array.copy()) for name, array in state_dict(net, world).items()},
        content,
    )
    write_atomically(Path(path), content.getvalue())
    return world
