"""Reads PyTorch's .pth files and their like; needs PyTorch.

Reading runs no code from the file: torch.load(weights_only=True) gets a copy of the archive in
which every size was compared with what the file holds, and placeholders for all classes but
PyTorch's own.
"""

import io
import struct
import warnings
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

from squeeze_jax.convert import state_dict, wrappings
from squeeze_jax.convert.imported import Imported, Wanted
from squeeze_jax.convert.metadata import METADATA
from squeeze_jax.convert.placeholders import Placeholder, placeholders
from squeeze_jax.convert.state_dict import StateDict
from squeeze_jax.errors import UserError, list_names

NAME = "PyTorch"
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar")
ARCHIVE = b"PK\x03\x04"
# How files of PyTorch before 1.6 begin: torch.serialization.MAGIC_NUMBER as a pickle.
OLD_FORMAT = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")


def recognizes(head: bytes) -> bool:
    """Returns whether a file begins as torch.save writes it."""
    return head.startswith((ARCHIVE, OLD_FORMAT))


def read(path: Path, wanted: Wanted) -> Imported:
    """Reads a network.

    Raises:
      UserError: PyTorch is not installed; the file is damaged, or does not hold this model or any
        released one.
    """
    return state_dict.identify_network(path, NAME, read_arrays(path), wanted)


def read_arrays(path: Path) -> StateDict:
    """Returns a state dict as float32 arrays by name, without counters, and our metadata.

    Raises:
      UserError: PyTorch is not installed, or the file holds no state dict of floating-point
        tensors.
    """
    torch = state_dict.import_torch()
    content, pickled, metadata = _check_content(path)
    loaded = _load(path, torch, content, pickled)
    whole = loaded
    if isinstance(loaded, dict):
        whole = next((loaded[key] for key in wrappings.KEYS if key in loaded), None)
    if isinstance(whole, Placeholder):
        raise _whole_model(path, type(whole).__name__)
    plain = (torch.Tensor, torch.nn.Parameter)
    found, changes = wrappings.find_state_dict(path, loaded, lambda value: type(value) in plain)
    names, without = wrappings.without_counters(found)
    tensors = {name: found[name].detach() for name in names}
    odd = [
        name
        for name, t in tensors.items()
        if t.layout != torch.strided
        or t.device.type != "cpu"
        or not (t.dtype.is_floating_point or name.endswith("_mask"))
    ]
    if odd:
        raise UserError(
            f"{path}: {list_names(odd)} is not a plain tensor of floating-point numbers"
        )
    # Tensors may be views of one another or repeat an element. As arrays they would grow beyond
    # what the file holds.
    if sum(t.numel() * t.element_size() for t in tensors.values()) > path.stat().st_size:
        raise UserError(f"{path}: its tensors are larger than the file")
    arrays = {
        name: tensor.to(torch.float32).contiguous().numpy() for name, tensor in tensors.items()
    }
    return StateDict(arrays, metadata, (*changes, *without))


def _whole_model(path: Path, name: str) -> UserError:
    return UserError(
        f"{path}: it holds a whole pickled {list_names([name])}, which only its own code can read: "
        "save its weights with torch.save(model.state_dict(), ...)"
    )


def _load(path: Path, torch: ModuleType, content: io.BytesIO, pickled: bytes) -> Any:
    """Returns what torch.load makes of a file, with placeholders for unknown objects."""
    unknown = placeholders(io.BytesIO(pickled))
    # PyTorch would fill one of whatever length the pickle declares.
    if "builtins.bytearray" in unknown:
        raise UserError(f"{path}: it holds a bytearray beside its weights: save them by themselves")
    try:
        known = [(placeholder, name) for name, placeholder in unknown.items()]
        with warnings.catch_warnings(), torch.serialization.safe_globals(known):
            warnings.simplefilter("ignore")
            loaded = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as e:  # each kind of damage has an exception of its own
        if isinstance(e, EOFError | struct.error) or "EOF" in str(e):
            raise UserError(f"{path}: it is cut off or damaged") from e
        if any(name.startswith("torch.nn.modules.") for name in unknown):
            raise _whole_model(path, "model") from e
        raise UserError(
            f"{path}: not a state dict that PyTorch reads without running code ({type(e).__name__})"
        ) from e
    # PyTorch reads the format before archives from front to back. Surplus bytes in its middle
    # show as a rest at its end.
    if not content.getbuffer()[:4] == ARCHIVE and content.read(1):
        raise UserError(f"{path}: it goes on after its last tensor")
    return loaded


def _check_content(path: Path) -> tuple[io.BytesIO, bytes, str | None]:
    """Returns the file in memory, the pickles in it, and the metadata of an export of ours.

    An archive, which PyTorch writes since 1.6, comes as a copy whose entries are uncompressed and
    whole. PyTorch would expand compressed and overlapping entries to whatever size they declare.

    Raises:
      UserError: it is no file of torch.save, is damaged, or holds a program.
    """
    data = path.read_bytes()
    if data.startswith(OLD_FORMAT):
        return io.BytesIO(data), data, None
    if not data.startswith(ARCHIVE):
        words = f"it begins with {list_names([repr(data[:24])])}" if data else "it is empty"
        raise UserError(f"{path}: not a file of torch.save: {words}")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, ArithmeticError) as e:
        raise UserError(f"{path}: it is cut off or damaged: its archive has no end") from e
    copy = io.BytesIO()
    with archive, zipfile.ZipFile(copy, "w") as checked:
        entries = {entry.filename: entry for entry in archive.infolist()}
        leaves = {name.partition("/")[2]: name for name in entries}
        if "constants.pkl" in leaves or any(leaf.startswith("code/") for leaf in leaves):
            raise UserError(
                f"{path}: it is a TorchScript program: in PyTorch, save its weights with "
                "torch.save(torch.jit.load(FILE).state_dict(), ...)"
            )
        if "data.pkl" not in leaves:
            raise UserError(f"{path}: an archive without data.pkl, which torch.save writes")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()) or sum(
            entry.file_size for entry in entries.values()
        ) > len(data):
            raise UserError(
                f"{path}: its archive is compressed or says to be larger than the file, which "
                "PyTorch does not write"
            )
        if len(entries) < len(archive.infolist()):
            raise UserError(f"{path}: its archive has two entries of one name")
        contents = {}
        for name in entries:
            try:
                contents[name] = archive.read(name)
            except Exception as e:  # each kind of damage has an exception of its own
                raise UserError(f"{path}: it is damaged in {list_names([name])}") from e
            checked.writestr(name, contents[name])
    copy.seek(0)
    metadata = contents.get(leaves.get(METADATA, ""))
    text = None if metadata is None else metadata.decode(errors="replace")
    return copy, contents[leaves["data.pkl"]], text
