"""Caffe's binary weights (.caffemodel) without Caffe: the few fields of its caffe.proto (github BVLC/caffe) that hold weights."""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from squeeze_jax.errors import UserError

# message -> (field, number, type, whether repeated). `data` and `double_data` are packed floats and doubles, which are bytes on the
# wire: read as such they become arrays without a Python object a number. Messages in messages are bytes as well, parsed one by one:
# a file of nothing but empty ones would otherwise become objects of many times its size. Names are bytes as nothing says what they are.
_MESSAGES = {
    "BlobShape": [("dim", 1, "int64", True)],
    "BlobProto": [
        ("num", 1, "int32", False), ("channels", 2, "int32", False), ("height", 3, "int32", False), ("width", 4, "int32", False),
        ("data", 5, "bytes", True), ("shape", 7, "bytes", False), ("double_data", 8, "bytes", True),
    ],
    "LayerParameter": [("name", 1, "bytes", False), ("type", 2, "bytes", False), ("blobs", 7, "bytes", True)],
    "V1LayerParameter": [("name", 4, "bytes", False), ("type", 5, "int32", False), ("blobs", 6, "bytes", True)],
    "NetParameter": [("layers", 2, "bytes", True), ("layer", 100, "bytes", True)],
}  # fmt: skip
_V1_ELTWISE = 25  # in the enumeration of V1LayerParameter.type
_MOST_LAYERS, _MOST_BLOBS = (
    10_000,
    16,
)  # of a net and of a layer; no layer of Caffe's has more than a few blobs


class Layer(NamedTuple):
    """One layer of a net definition."""

    type: str  # "Convolution"; of files in the old format only "Eltwise" is told from the others, which are ""
    blobs: list[np.ndarray]  # float32


@functools.cache
def _class(name: str) -> type[message.Message]:
    """The class of one kind of message."""
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


def read(path: Path) -> dict[str, Layer]:
    """The layers of a .caffemodel by name, in the file's order, those without weights included.

    The blobs of files in the old format have four dimensions whatever they hold: [1, 1, 1, channels] for a bias.

    Raises:
      UserError: not a .caffemodel, two layers with weights of one name, or a blob whose shape is not that of its data.
    """
    try:
        net = _class("NetParameter").FromString(path.read_bytes())
        if len(net.layer) + len(net.layers) > _MOST_LAYERS:
            raise UserError(f"{path}: more than {_MOST_LAYERS:,} layers")
        layers: dict[str, Layer] = {}
        for kind, contents in (("LayerParameter", net.layer), ("V1LayerParameter", net.layers)):
            for content in contents:
                name, layer = _layer(path, _class(kind).FromString(content))
                # Layers without weights may share a name: the data layers of training and testing do.
                if layer.blobs and layers.get(name, Layer("", [])).blobs:
                    raise UserError(f"{path}: two layers are called {name!r:.80}")
                if layer.blobs or name not in layers:
                    layers[name] = layer
    except message.DecodeError as e:
        raise UserError(f"{path}: not a .caffemodel, or not all of one") from e
    if not layers:
        raise UserError(f"{path}: a .caffemodel without layers, or no .caffemodel")
    return layers


def _layer(path: Path, layer: Any) -> tuple[str, Layer]:
    """The name and the content of one layer's message, of either format."""
    name = layer.name.decode(errors="replace")
    kind = (
        layer.type.decode(errors="replace")
        if isinstance(layer.type, bytes)
        else "Eltwise" * (layer.type == _V1_ELTWISE)
    )
    if len(layer.blobs) > _MOST_BLOBS:
        raise UserError(f"{path}: layer {name!r:.80} has more than {_MOST_BLOBS} blobs")
    return name, Layer(
        kind,
        [_array(path, name, _class("BlobProto").FromString(content)) for content in layer.blobs],
    )


def _array(path: Path, layer: str, blob: Any) -> np.ndarray:
    """The blob as a float32 array."""
    dims = tuple(_class("BlobShape").FromString(blob.shape).dim)
    shape = dims if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    data, dtype = (
        (b"".join(blob.double_data), "<f8") if blob.double_data else (b"".join(blob.data), "<f4")
    )
    if (
        len(shape) > 8
        or min(shape, default=0) < 0
        or math.prod(shape) * np.dtype(dtype).itemsize != len(data)
    ):
        raise UserError(
            f"{path}: a blob of layer {layer!r:.80} has shape {list(shape)[:8]} but {len(data):,} bytes of numbers"
        )
    return np.frombuffer(data, dtype).astype(np.float32).reshape(shape)
