"""The metadata that LiteRT's tools read: input normalisation, class labels, what a tensor is.

The content is a FlatBuffer of tflite-support's metadata_schema.fbs in a buffer of the model
(ai.google.dev/edge/litert/conversion/tensorflow/metadata). MediaPipe's tasks refuse a model
without. No package that we need brings the generated classes, so the tables are written by number:
a slot is the position of a field in its table.
"""

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from squeeze_jax.convert.metadata import LABELS
from squeeze_jax.network import Network

NAME, IDENTIFIER = "TFLITE_METADATA", b"M001"
FILE_IDENTIFIER = b"TFL3"  # of a .tflite file
IMAGE_PROPERTIES, FEATURE_PROPERTIES = 2, 1  # of the union ContentProperties
NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
RGB, GRAYSCALE = 1, 2  # ColorSpaceType; the schema has no BGR
TENSOR_AXIS_LABELS = 2  # AssociatedFileType
ALIGNMENT = 16  # bytes, of the data of weights: schema.fbs, table Buffer


def add(model: bytes, network: Network, input_name: str, output_name: str) -> bytes:
    """Returns a LiteRT model with the network's metadata and with all weights inside.

    The quantizer appends weights to the end of the file, where TFLM does not look: it takes such
    tensors for activations, and plans RAM for them.

    Args:
      model: a .tflite file.
      network: the network in it.
      input_name: of its images.
      output_name: of its logits.
    """
    found: Any = flatbuffer_utils.convert_bytearray_to_object(model)
    for part in found.buffers:
        if part.offset > 1:  # 0 and 1 stand for none
            end = part.offset + part.size
            part.data = np.frombuffer(model[part.offset : end], np.uint8)
            part.offset = part.size = 0
    buffer: Any = schema.BufferT()
    entry: Any = schema.MetadataT()
    content = encode(network, input_name, output_name)
    buffer.data = np.frombuffer(content, np.uint8)
    entry.name, entry.buffer = NAME, len(found.buffers)
    found.buffers.append(buffer)
    found.metadata = [*(found.metadata or ()), entry]
    return pack(found)


def pack(model: Any) -> bytes:
    """Returns the .tflite file of a `ModelT`, with the data of weights aligned.

    The library's own writer leaves them at any address, from which a microcontroller may not be
    able to read 32-bit biases.
    """
    builder = _AlignedBuilder(1024)
    root = model.Pack(builder)
    builder.Finish(root, FILE_IDENTIFIER)
    return bytes(builder.Output())


class _AlignedBuilder(flatbuffers.Builder):
    """Writes vectors of bytes, which the data of weights are, at aligned addresses."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        """Writes a vector and returns its offset."""
        if x.dtype != np.uint8:
            return super().CreateNumpyVector(x)
        self.StartVector(1, x.size, ALIGNMENT)
        self.head = self.head - x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes()
        self.vectorNumElems = x.size
        return self.EndVector()


def encode(network: Network, input_name: str, output_name: str) -> bytes:
    """Returns the metadata of a network as a FlatBuffer."""
    builder = flatbuffers.Builder(1024)
    preprocessing = network.preprocessing
    height, width, channels = preprocessing.input_shape
    size = _table(builder, [("Uint32", width), ("Uint32", height)])
    image = _table(builder, [("Int8", RGB if channels == 3 else GRAYSCALE), size])
    normalisation = _table(
        builder,
        [_floats(builder, preprocessing.mean), _floats(builder, preprocessing.std)],
    )
    order = preprocessing.channel_order.upper()
    labels = _table(
        builder,
        [
            builder.CreateString(LABELS),
            builder.CreateString("a line a class"),
            ("Int8", TENSOR_AXIS_LABELS),
        ],
    )
    images = _table(
        builder,
        [
            builder.CreateString(input_name),
            builder.CreateString(f"Images, channels {order}, (x - mean) / std of x in 0..255."),
            None,
            _table(builder, [("Uint8", IMAGE_PROPERTIES), image]),
            _tables(builder, [_table(builder, [("Uint8", NORMALIZATION_OPTIONS), normalisation])]),
            _extremes(builder, preprocessing.mean, preprocessing.std),
        ],
    )
    logits = _table(
        builder,
        [
            builder.CreateString(output_name),
            builder.CreateString("Logits, before the softmax."),
            None,
            _table(builder, [("Uint8", FEATURE_PROPERTIES), _table(builder, [])]),
            None,
            None,
            _tables(builder, [labels]),
        ],
    )
    subgraph = _table(builder, [None, None, _tables(builder, [images]), _tables(builder, [logits])])
    model = _table(
        builder,
        [
            builder.CreateString(str(network.model["name"])),
            builder.CreateString(network.source),
            None,
            _tables(builder, [subgraph]),
            None,
            None,
            None,
            builder.CreateString("1.0.0"),  # of the parser that knows all of the above
        ],
    )
    builder.Finish(model, IDENTIFIER)
    return bytes(builder.Output())


def _extremes(builder: flatbuffers.Builder, mean: Sequence[float], std: Sequence[float]) -> int:
    """Writes a table Stats: the largest and the smallest normalised value of each channel."""
    low, high = ((bound - np.asarray(mean)) / np.asarray(std) for bound in (0, 255))
    return _table(builder, [_floats(builder, high), _floats(builder, low)])


def _table(builder: flatbuffers.Builder, slots: Sequence[int | tuple[str, int] | None]) -> int:
    """Writes a table and returns its offset.

    Args:
      builder: what it is written to.
      slots: offsets of what was written before, (type, value) of numbers, None for absent fields.
    """
    builder.StartObject(len(slots))
    for slot, content in enumerate(slots):
        if isinstance(content, tuple):
            kind, value = content
            getattr(builder, f"Prepend{kind}Slot")(slot, value, 0)
        elif content is not None:
            builder.PrependUOffsetTRelativeSlot(slot, content, 0)
    return builder.EndObject()


def _tables(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    """Writes a vector of tables and returns its offset."""
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder: flatbuffers.Builder, values: Any) -> int:
    """Writes a vector of float32 and returns its offset."""
    return builder.CreateNumpyVector(np.asarray(values, np.float32))
