"""Reads Caffe's binary weights (.caffemodel) without Caffe.

The messages are those of caffe.proto (github BVLC/caffe), of which only the fields that hold
weights are declared.
"""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from squeeze_jax.convert.imported import Imported, Wanted
from squeeze_jax.errors import UserError

NAME = "Caffe"
SUFFIXES = (".caffemodel",)

# Message -> (field, number, type, whether repeated). `data` and `double_data` are packed floats
# and doubles, which are bytes on the wire: declared as bytes, they become arrays without a Python
# object for each number. Nested messages are declared as bytes too and parsed one at a time:
# otherwise a file of empty messages would become objects of many times its size. Names are bytes
# because their encoding is unspecified.
_MESSAGES = {
    "BlobShape": [("dim", 1, "int64", True)],
    "BlobProto": [
        ("num", 1, "int32", False),
        ("channels", 2, "int32", False),
        ("height", 3, "int32", False),
        ("width", 4, "int32", False),
        ("data", 5, "bytes", True),
        ("shape", 7, "bytes", False),
        ("double_data", 8, "bytes", True),
    ],
    "LayerParameter": [
        ("name", 1, "bytes", False),
        ("type", 2, "bytes", False),
        ("blobs", 7, "bytes", True),
    ],
    "V1LayerParameter": [
        ("name", 4, "bytes", False),
        ("type", 5, "int32", False),
        ("blobs", 6, "bytes", True),
    ],
    "NetParameter": [("layers", 2, "bytes", True), ("layer", 100, "bytes", True)],
}
_V1_ELTWISE = 25  # in the enumeration V1LayerParameter.type
_MAX_LAYERS = 10_000  # of a network
_MAX_BLOBS = 16  # of a layer; Caffe's layers have a few at most


class Layer(NamedTuple):
    """One layer of a network definition."""

    type: str  # "Convolution"; in the old format "Eltwise", or "" for every other type
    blobs: list[np.ndarray]  # float32


def recognizes(head: bytes) -> bool:
    """Returns False: the format has no signature."""
    return False


def read(path: Path, wanted: Wanted) -> Imported:
    """Reads a network.

    Raises:
      UserError: the file is damaged, or does not hold this model or any released one.
    """
    from squeeze_jax.convert import identify

    layers = read_layers(path)
    arrays = {
        f"{name}[{index}]": blob
        for name, layer in layers.items()
        for index, blob in enumerate(layer.blobs)
    }
    # Bypass connections have no weights, but an Eltwise layer adds each. SqueezeNext has them too,
    # but in one variant only.
    bypass = any(layer.type == "Eltwise" for layer in layers.values())
    models = (
        [wanted.model]
        if wanted.model
        else [nets[-1 if bypass else 0] for nets in identify.RELEASED["caffe"]]
    )
    candidates: list[identify.Candidate] = [("caffe", (network,)) for network in models]
    found = identify.identify(path, NAME, candidates, arrays, wanted.num_classes)
    if wanted.model:
        identify.check_definition(path, wanted.model, len(found.network.class_names))
    return found


def read_layers(path: Path) -> dict[str, Layer]:
    """Reads all layers by name, in the file's order, those without weights included.

    Blobs in the old format have four dimensions whatever they hold: a bias is [1, 1, 1, channels].

    Raises:
      UserError: the file is no .caffemodel, two layers with weights have the same name, or a
        blob's shape does not fit its data.
    """
    try:
        network = _parse("NetParameter", path.read_bytes())
        if len(network.layer) + len(network.layers) > _MAX_LAYERS:
            raise UserError(f"{path}: more than {_MAX_LAYERS:,} layers")
        layers: dict[str, Layer] = {}
        for kind, contents in (
            ("LayerParameter", network.layer),
            ("V1LayerParameter", network.layers),
        ):
            for content in contents:
                name, layer = _read_layer(path, _parse(kind, content))
                # Layers without weights may share a name: the data layers of training and
                # testing do.
                if layer.blobs and layers.get(name, Layer("", [])).blobs:
                    raise UserError(f"{path}: two layers are called {name!r:.80}")
                if layer.blobs or name not in layers:
                    layers[name] = layer
    except message.DecodeError as e:
        raise UserError(f"{path}: not a .caffemodel, or not all of one") from e
    if not layers:
        raise UserError(f"{path}: a .caffemodel without layers, or no .caffemodel")
    return layers


def _parse(name: str, content: bytes) -> Any:
    """Parses one message; its fields are attributes that only _MESSAGES knows."""
    return _message_class(name).FromString(content)


@functools.cache
def _message_class(name: str) -> type[message.Message]:
    """Returns the class of a message."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name=f"squeeze_jax/{name}.proto", package="squeeze_jax", syntax="proto2"
    )
    declared = file.message_type.add(name=name)
    for field, number, kind, repeated in _MESSAGES[name]:
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        declared.field.add(
            name=field, number=number, label=label, type=getattr(kinds, f"TYPE_{kind.upper()}")
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))


def _read_layer(path: Path, layer: Any) -> tuple[str, Layer]:
    """Returns the name and the content of a layer's message, in either format."""
    name = layer.name.decode(errors="replace")
    if isinstance(layer.type, bytes):
        kind = layer.type.decode(errors="replace")
    else:
        kind = "Eltwise" if layer.type == _V1_ELTWISE else ""
    if len(layer.blobs) > _MAX_BLOBS:
        raise UserError(f"{path}: layer {name!r:.80} has more than {_MAX_BLOBS} blobs")
    blobs = [_read_blob(path, name, _parse("BlobProto", content)) for content in layer.blobs]
    return name, Layer(kind, blobs)


def _read_blob(path: Path, layer: str, blob: Any) -> np.ndarray:
    """Returns a blob as a float32 array."""
    dims = tuple(_parse("BlobShape", blob.shape).dim)
    shape = dims if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    if blob.double_data:
        data, dtype = b"".join(blob.double_data), "<f8"
    else:
        data, dtype = b"".join(blob.data), "<f4"
    if (
        len(shape) > 8
        or min(shape, default=0) < 0
        or math.prod(shape) * np.dtype(dtype).itemsize != len(data)
    ):
        raise UserError(
            f"{path}: a blob of layer {layer!r:.80} has shape {list(shape)[:8]} but {len(data):,} "
            "bytes of numbers"
        )
    return np.frombuffer(data, dtype).astype(np.float32).reshape(shape)
