"""Writes .pth files: what safetensors.py writes; needs PyTorch.

The metadata are one more record of the archive, which torch.load does not look at.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from squeeze_jax.convert.metadata import METADATA
from squeeze_jax.convert.options import Option
from squeeze_jax.convert.state_dict import import_torch, state_dict

if TYPE_CHECKING:
    from squeeze_jax.network import Network

NAME = "pth"
SUFFIX = ".pth"
OPTIONS: dict[str, Option] = {}
open = None  # an importer reads it


def write(network: "Network", options: Mapping[str, Any]) -> bytes:
    """Returns the content of a .pth file.

    Raises:
      UserError: PyTorch is not installed.
    """
    from squeeze_jax.convert import parameter_names

    torch = import_torch()
    library = parameter_names.matching_library(network.model, len(network.class_names))
    content = io.BytesIO()
    arrays = state_dict(network, library)
    torch.save({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, content)
    with zipfile.ZipFile(content, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        # A ZipInfo of our own has a fixed date: equal networks give equal files.
        entry = zipfile.ZipInfo(f"{folder}/{METADATA}")
        archive.writestr(entry, json.dumps(network.stored_metadata()))
    return content.getvalue()
