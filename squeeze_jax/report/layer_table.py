"""Tabulates the layers of a traced network as text, CSV or JSON."""

import csv
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from squeeze_jax.cost.accelerator import Estimate
from squeeze_jax.cost.design import inference_costs
from squeeze_jax.cost.trace import Trace


def summary(found: Trace) -> dict[str, Any]:
    """Returns a record of a traced network.

    Returns:
      what `cost.design.inference_costs` does, and layers, a flat record each.
    """
    return {**inference_costs(found), "layers": [asdict(layer) for layer in found.layers]}


def summary_text(record: Mapping[str, Any]) -> str:
    """Returns a table of layers with the columns of Table 1 of the SqueezeNet paper.

    These are the layer, its output size, its filter size and stride, its parameters and its MACs.
    A line below tells what the int8 file takes on a device.

    Args:
      record: what `summary` returned.
    """
    head = ["layer", "output", "filter/stride", "parameters", "MACs"]
    rows = [
        [
            layer["name"],
            _size(layer["output_shape"]),
            _filter(layer),
            f"{layer['parameters']:,}",
            f"{layer['macs']:,}",
        ]
        for layer in record["layers"]
    ]
    table = text_table(
        [head, *rows, ["total", "", "", f"{record['params']:,}", f"{record['macs']:,}"]],
        numeric=(3, 4),
    )
    own = record.get("engine_ram_bytes")
    return (
        f"{table}\nint8 .tflite: about {record['flash_bytes']:,} bytes of flash, "
        f"{record['ram_bytes']:,} bytes of RAM (TFLM's arena)\n"
        + (f"export --format c: {own:,} bytes of RAM" if own else "export --format c: unsupported")
    )


def hardware_record(estimate: Estimate, has_own_zeros: bool = False) -> dict[str, Any]:
    """Returns a record of a network on an accelerator.

    Args:
      estimate: the network's.
      has_own_zeros: whether the zero weights are those of the network, not assumed.

    Returns:
      has_own_zeros, cycles, energy (in MACs), energy_by_level, utilisation, dram_bytes, macs,
      accelerator (its fields), and layers, a flat record each.
    """
    levels = asdict(estimate.energy_by_level)
    return {
        "has_own_zeros": has_own_zeros,
        "cycles": round(estimate.cycles),
        "energy": round(estimate.energy),
        "energy_by_level": {level: round(value) for level, value in levels.items()},
        "utilisation": estimate.utilisation,
        "dram_bytes": estimate.dram_bytes,
        "macs": estimate.macs,
        "accelerator": asdict(estimate.accelerator),
        "layers": [
            {
                "name": layer.name,
                "dataflow": layer.dataflow,
                "macs": layer.macs,
                "cycles": round(layer.cycles),
                "compute_cycles": round(layer.compute_cycles),
                "dram_cycles": round(layer.dram_cycles),
                "tiles": layer.tiles,
                "utilisation": layer.utilisation,
                "density": layer.density,
                "dram_bytes": layer.dram_bytes,
                "buffer_accesses": round(layer.buffer_accesses),
                "energy": round(layer.energy.total),
                "macs_per_dram_byte": layer.arithmetic_intensity,
                "macs_per_cycle": layer.macs_per_cycle,
            }
            for layer in estimate.layers
        ],
    }


def hardware_text(record: Mapping[str, Any], with_layers: bool = False) -> str:
    """Returns the accelerator and the totals of a network on it, in lines of a name and a value.

    Args:
      record: what `hardware_record` returned.
      with_layers: whether a table of the layers follows, with whether the array or DRAM bounds
        each.
    """
    machine = record["accelerator"]
    densities = [layer["density"] for layer in record["layers"]]
    zeros = f"{1 - machine['os_weight_density']:.0%} of each layer, assumed"
    if record["has_own_zeros"]:
        least, most = f"{1 - max(densities):.0%}", f"{1 - min(densities):.0%}"
        share = f"{least} of each" if least == most else f"{least} to {most} of a"
        zeros = f"{share} layer, the network's own"
    gigahertz = f"at 1 GHz, {record['cycles'] / 1e6:,.2f} ms an image"
    levels = record["energy_by_level"]
    shares = ", ".join(
        f"{level.replace('_', ' ')} {value / record['energy']:.0%}"
        for level, value in levels.items()
    )
    bandwidth = machine["dram_bytes_per_cycle"]
    lines = {
        "array": f"{machine['rows']}x{machine['columns']} multiply-accumulate units, 16 bits, "
        f"{machine['register_file_words']} words of registers each",
        "buffer": f"{machine['buffer_bytes'] / 1024:,.10g} KB",
        "DRAM": f"{bandwidth:g} bytes a cycle ({bandwidth:g} GB/s at 1 GHz), latency of "
        f"{machine['dram_latency']} cycles",
        "zero weights": f"{zeros}; skipped where the output is stationary",
        "MACs": f"{record['macs']:,}, those with zero weights included",
        "cycles": f"{record['cycles']:,}; {gigahertz}",
        "utilisation": _utilisation(record["utilisation"]),
        "DRAM traffic": f"{record['dram_bytes']:,} bytes",
        "energy": f"{record['energy']:,} times that of one MAC: {shares}",
    }
    text = "\n".join(f"{name:12}  {value}" for name, value in lines.items())
    return f"{text}\n\n{_hardware_layers(record)}" if with_layers else text


def _utilisation(share: float) -> str:
    """Returns MACs a unit and cycle as a share; above 1, zero weights were skipped."""
    return f"{share:.0%}" + (", zeros skipped" if share > 1 else "")


def _hardware_layers(record: Mapping[str, Any]) -> str:
    head = [
        "layer",
        "dataflow",
        "bound by",
        "MACs",
        "cycles",
        "utilisation",
        "DRAM bytes",
        "energy (MACs)",
    ]
    rows = [
        [
            layer["name"],
            layer["dataflow"],
            "DRAM" if layer["dram_cycles"] > layer["compute_cycles"] else "array",
            f"{layer['macs']:,}",
            f"{layer['cycles']:,}",
            _utilisation(layer["utilisation"]),
            f"{layer['dram_bytes']:,}",
            f"{layer['energy']:,}",
        ]
        for layer in record["layers"]
    ]
    total = ["total", "", "", *(f"{record[key]:,}" for key in ("macs", "cycles"))]
    total += [
        _utilisation(record["utilisation"]),
        f"{record['dram_bytes']:,}",
        f"{record['energy']:,}",
    ]
    return text_table([head, *rows, total], numeric=range(3, 8))


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:]))


def _filter(layer: Mapping[str, Any]) -> str:
    if layer["kind"] == "dense":
        return "dense"
    text = f"{'x'.join(map(str, layer['kernel_size']))}/{layer['stride'][0]}"
    groups = f", {layer['groups']} groups" if layer["groups"] > 1 else ""
    return text + groups


def text_table(
    rows: Sequence[Sequence[str]], numeric: Collection[int], has_total: bool = True
) -> str:
    """Returns rows as aligned columns, with a rule after the first row.

    Args:
      rows: cells; all rows have the same length.
      numeric: indices of the columns that are aligned to the right.
      has_total: whether the last row is a total, which gets a rule above it.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *lines = [
        "  ".join(
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    if has_total:
        lines[-1:-1] = [rule]
    return "\n".join([head, rule, *lines])


def format_record(
    record: Mapping[str, Any], style: str, text: Callable[[Mapping[str, Any]], str]
) -> str:
    """Returns a record as text in a style.

    Args:
      record: a record with `layers`.
      style: "json" for the record, "csv" for a row for each layer, or "text".
      text: formats the record in the style "text".
    """
    if style == "json":
        return json.dumps(record, indent=1)
    if style == "text":
        return text(record)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=record["layers"][0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: _cell(value) for key, value in layer.items()} for layer in record["layers"]
    )
    return out.getvalue().rstrip("\n")


def _cell(value: Any) -> str:
    """Returns a cell of the CSV; shapes become text like 1x55x55x96."""
    return "x".join(map(_cell, value)) if isinstance(value, tuple | list) else str(value)
