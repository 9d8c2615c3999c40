"""The SqueezeNet paper's tables of shapes and sizes as this program computes them: python experiments/paper_tables/compare.py"""

from flax import nnx

from squeeze_jax import models, trace
from squeeze_jax.analysis.tables import markdown

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
# Figs. 3a and 3b: metaparameter -> model size as printed (MB there is MiB of float32, mostly rounded up)
FIG_3A = {0.125: 4.8, 0.25: 7.6, 0.5: 13, 0.75: 19, 1.0: 24}
FIG_3B = {0.01: 5.7, 0.125: 7.4, 0.25: 9.3, 0.375: 11, 0.5: 13, 0.625: 15, 0.75: 17, 0.875: 19, 0.99: 21}


def table_1() -> list[list[str]]:
    """Output size and parameters of each layer of v1.0."""
    layers = trace.trace(lambda: models.create("squeezenet_v1_0", rngs=nnx.Rngs(0)), (227, 227, 3))
    rows = [["layer", "output", "printed", "parameters", "printed"]]
    for name, (output, parameters) in TABLE_1.items():
        own = [layer for layer in layers if layer.name.partition("/")[0] == name]
        height, width = own[-1].output_shape[1:3]
        # A Fire module's output is its two expand layers side by side.
        channels = sum(layer.output_shape[3] for layer in own if "squeeze" not in layer.name)
        rows.append([name, f"{height}x{width}x{channels}", output, f"{sum(layer.parameters for layer in own):,}", f"{parameters:,}"])
    return rows


def sizes(option: str, printed: dict[float, float], **fixed) -> list[list[str]]:
    """Parameters and MiB along one metaparameter."""
    rows = [[option, "parameters", "MiB", "printed MB"]]
    for value, megabytes in printed.items():
        options = fixed | {option: value}
        params = trace.parameter_count(nnx.eval_shape(lambda o=options: models.create("squeezenet_v1_0", rngs=nnx.Rngs(0), **o)))
        rows.append([str(value), f"{params:,}", f"{params * 4 / 2**20:.2f}", str(megabytes)])
    return rows


if __name__ == "__main__":
    print("## Table 1\n\n" + markdown(table_1()))
    print("## Figure 3a\n\n" + markdown(sizes("squeeze_ratio", FIG_3A)))
    print("## Figure 3b (squeeze ratio 0.5)\n\n" + markdown(sizes("pct3x3", FIG_3B, squeeze_ratio=0.5)))
