"""Writes .safetensors files, whose weights the definition of another library loads.

In PyTorch: model.load_state_dict(safetensors.torch.load_file(path)). The parameter names are those
of torchvision or pytorchcv where these have the network, and our own otherwise. The metadata hold
the network's, so that the file can be imported again as it is, bit for bit.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import safetensors.numpy

from squeeze_jax.convert.metadata import KEY
from squeeze_jax.convert.options import Option
from squeeze_jax.convert.state_dict import state_dict

if TYPE_CHECKING:
    from squeeze_jax.network import Network

NAME = "safetensors"
SUFFIX = ".safetensors"
OPTIONS: dict[str, Option] = {}
open = None  # an importer reads it


def write(network: "Network", options: Mapping[str, Any]) -> bytes:
    """Returns the content of a .safetensors file."""
    from squeeze_jax.convert import parameter_names

    library = parameter_names.matching_library(network.model, len(network.class_names))
    metadata = {"format": "pt", KEY: json.dumps(network.stored_metadata())}
    return safetensors.numpy.save(state_dict(network, library), metadata)
