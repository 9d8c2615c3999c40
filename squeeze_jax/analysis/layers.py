"""A traced net as a table of layers: text as the papers print it, CSV, or JSON."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from squeeze_jax.trace import Layer


def summary(layers: Sequence[Layer], params: int) -> dict[str, Any]:
    """The whole net: params, macs (an image), activation_bytes (float32), and the layers as flat records."""
    return {
        "params": params,
        "macs": sum(layer.macs for layer in layers),
        "activation_bytes": sum(layer.activation_bytes for layer in layers),
        "layers": [asdict(layer) | {"activation_bytes": layer.activation_bytes} for layer in layers],
    }


def summary_text(record: Mapping[str, Any]) -> str:
    """Layer, output size, filter size / stride, parameters, MACs: the columns of the SqueezeNet paper's Table 1."""
    head = ["layer", "output", "filter/stride", "parameters", "MACs"]
    rows = [
        [layer["name"], _size(layer["output_shape"]), _filter(layer), f"{layer['parameters']:,}", f"{layer['macs']:,}"]
        for layer in record["layers"]
    ]
    return text_table([head, *rows, ["total", "", "", f"{record['params']:,}", f"{record['macs']:,}"]], numeric=(3, 4))


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:]))


def _filter(layer: Mapping[str, Any]) -> str:
    if layer["kind"] == "dense":
        return "dense"
    text = f"{'x'.join(map(str, layer['kernel_size']))}/{layer['stride'][0]}"
    groups = f", {layer['groups']} groups" if layer["groups"] > 1 else ""
    return text + groups


def text_table(rows: Sequence[Sequence[str]], numeric: Sequence[int]) -> str:
    """Rows as aligned columns, the `numeric` ones to the right, with a rule under the head and above the last row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) if i in numeric else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:-1]), rule, lines[-1].rstrip()])


def formatted(record: Mapping[str, Any], style: str, text: Callable[[Mapping[str, Any]], str]) -> str:
    """A record with `layers` as "json" (whole), "csv" (a row a layer) or "text" (by the function given)."""
    if style == "json":
        return json.dumps(record, indent=1)
    if style == "text":
        return text(record)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=record["layers"][0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in layer.items()} for layer in record["layers"])
    return out.getvalue().rstrip("\n")


def _cell(value: Any) -> Any:
    """A shape as 1x55x55x96; anything else as it is."""
    return "x".join(map(_cell, value)) if isinstance(value, tuple | list) else str(value)
