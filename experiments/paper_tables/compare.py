"""Computes the papers' tables of shapes and sizes.

    python experiments/paper_tables/compare.py

Prints markdown tables with the computed and the printed values.
"""

import argparse
import math
import re

from flax import nnx

from squeeze_jax import models
from squeeze_jax.cost import trace
from squeeze_jax.report.tables import markdown

# arXiv 1602.07360, Table 1: layer -> (output as printed, parameters before pruning as printed)
TABLE_1 = {
    "conv1": ("111x111x96", 14_208),
    "fire2": ("55x55x128", 11_920),
    "fire3": ("55x55x128", 12_432),
    "fire4": ("55x55x256", 45_344),
    "fire5": ("27x27x256", 49_440),
    "fire6": ("27x27x384", 104_880),
    "fire7": ("27x27x384", 111_024),
    "fire8": ("27x27x512", 188_992),
    "fire9": ("13x13x512", 197_184),
    "conv10": ("13x13x1000", 513_000),
}
# Figs. 3a and 3b: metaparameter -> model size as printed. MB there is MiB of float32, mostly
# rounded up.
FIG_3A = {0.125: 4.8, 0.25: 7.6, 0.5: 13, 0.75: 19, 1.0: 24}
FIG_3B = {
    0.01: 5.7,
    0.125: 7.4,
    0.25: 9.3,
    0.375: 11,
    0.5: 13,
    0.625: 15,
    0.75: 17,
    0.875: 19,
    0.99: 21,
}

# SqueezeNext, arXiv 1803.10615, Tables 1 and 2: model -> millions of parameters as printed
SQUEEZENEXT = {
    "squeezenext_23": 0.72,
    "squeezenext_23_g": 0.54,
    "squeezenext_23_ida": 0.9,
    "squeezenext_34": 1.0,
    "squeezenext_34_ida": 1.3,
    "squeezenext_44": 1.2,
    "squeezenext_44_ida": 1.5,
    "squeezenext_23_w1_5": 1.4,
    "squeezenext_34_w1_5": 2.1,
    "squeezenext_44_w1_5": 2.6,
    "squeezenext_23_w2": 2.4,
    "squeezenext_34_w2": 3.8,
    "squeezenext_44_w2": 4.4,
    "squeezenext_23_v5_w2": 3.2,
}


def table_1() -> list[list[str]]:
    """Computes the output shape and the parameters of each layer of v1.0."""
    layers = trace.trace_layers(
        lambda: models.create("squeezenet_v1_0", rngs=nnx.Rngs(0)), (227, 227, 3)
    )
    rows = [["layer", "output", "printed", "parameters", "printed"]]
    for name, (output, parameters) in TABLE_1.items():
        own = [layer for layer in layers if layer.name.partition("/")[0] == name]
        height, width = own[-1].output_shape[1:3]
        # A Fire module concatenates the outputs of its two expand layers.
        channels = sum(layer.output_shape[3] for layer in own if "squeeze" not in layer.name)
        rows.append(
            [
                name,
                f"{height}x{width}x{channels}",
                output,
                f"{sum(layer.parameters for layer in own):,}",
                f"{parameters:,}",
            ]
        )
    return rows


def sizes(option: str, printed: dict[float, float], **fixed) -> list[list[str]]:
    """Computes parameters and MiB along one metaparameter."""
    rows = [[option, "parameters", "MiB", "printed MB"]]
    for value, megabytes in printed.items():
        options = fixed | {option: value}
        params = trace.parameter_count(
            nnx.eval_shape(
                lambda o=options: models.create("squeezenet_v1_0", rngs=nnx.Rngs(0), **o)
            )
        )
        rows.append([str(value), f"{params:,}", f"{params * 4 / 2**20:.2f}", str(megabytes)])
    return rows


def squeezenext_layers(name: str) -> list[trace.Layer]:
    """Traces the convolutions and the classifier of a SqueezeNext."""
    layers = trace.trace_layers(lambda: models.create(name, rngs=nnx.Rngs(0)), (227, 227, 3))
    return [layer for layer in layers if layer.kind in ("conv", "dense")]


def squeezenext_sizes() -> list[list[str]]:
    """Computes the parameters of the released networks, and the paper's count.

    The paper counts a bias for each output channel of each convolution and of the classifier.
    """
    rows = [["model", "parameters", "with biases", "M", "printed M"]]
    for name, printed in SQUEEZENEXT.items():
        layers = squeezenext_layers(name)
        params = sum(layer.parameters for layer in layers)
        counted = params + sum(layer.output_shape[-1] for layer in layers)
        rows.append([name, f"{params:,}", f"{counted:,}", f"{counted / 1e6:.2f}", str(printed)])
    return rows


def squeezenext_table_4() -> list[list[str]]:
    """Computes 1.0-SqNxt-23 layer by layer as the paper counts.

    The paper counts a bias for each output channel instead of BatchNorm, and one more MAC for each
    output.
    """
    rows, number, totals = {}, 0, [0, 0]
    for layer in squeezenext_layers("squeezenext_23"):
        number += layer.kind == "conv"
        channels, outputs = layer.output_shape[-1], math.prod(layer.output_shape)
        # A convolution here has BatchNorm's scale and shift.
        params = layer.parameters + (-channels if layer.kind == "conv" else channels)
        macs = layer.macs + outputs
        totals = [totals[0] + params, totals[1] + macs]
        group = re.sub(r"block([2-9]|1\d)", "later blocks", layer.name)
        if group in rows:
            rows[group][3] += 1
            continue
        name = f"conv{number}" if layer.kind == "conv" else "fc1000"
        size = "x".join(map(str, layer.output_shape[1:]))
        rows[group] = [
            name,
            layer.name,
            size,
            1,
            f"{params:,}",
            f"{macs / 1e6:.2f}",
            f"{4 * math.prod(layer.output_shape) / 1024:.0f}",
        ]
    head = [
        "paper's name",
        "layer here",
        "output",
        "repeats",
        "parameters",
        "MACs (M)",
        "activations (KiB)",
    ]
    total = [
        "total",
        "",
        "",
        sum(row[3] for row in rows.values()),
        f"{totals[0]:,}",
        f"{totals[1] / 1e6:.2f}",
        "",
    ]
    return [head, *([str(cell) for cell in row] for row in [*rows.values(), total])]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print("## SqueezeNet, Table 1\n\n" + markdown(table_1()))
    print("## SqueezeNet, Figure 3a\n\n" + markdown(sizes("squeeze_ratio", FIG_3A)))
    print(
        "## SqueezeNet, Figure 3b (squeeze ratio 0.5)\n\n"
        + markdown(sizes("pct3x3", FIG_3B, squeeze_ratio=0.5))
    )
    print("## SqueezeNext, Tables 1 and 2\n\n" + markdown(squeezenext_sizes()))
    print("## SqueezeNext, Table 4 (1.0-SqNxt-23)\n\n" + markdown(squeezenext_table_4()))
