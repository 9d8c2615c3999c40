"""What a design point costs, from its shapes alone."""

from flax import nnx
from ml_collections import ConfigDict

from squeeze_jax.cost import accelerator as hardware
from squeeze_jax.cost import trace
from squeeze_jax.network import build_model


def design_costs(config: ConfigDict, num_classes: int) -> dict[str, float]:
    """Returns what a design point costs, before anything is trained.

    The columns are params; macs (an image); model_mb (MiB of float32); activation_bytes (all outputs in float32, an image); cycles and energy
    (in MACs) an image on the SqueezeNext paper's 16x16 accelerator.
    """

    def build() -> nnx.Module:
        return build_model(config.model, num_classes, seed=0)

    params = trace.parameter_count(nnx.eval_shape(build))
    layers = trace.trace_layers(build, (config.data.image_size, config.data.image_size, 3))
    modelled = hardware.estimate(layers, hardware.PAPER_16X16)
    return {
        "params": params,
        "macs": sum(layer.macs for layer in layers),
        "model_mb": round(params * 4 / 2**20, 4),
        "activation_bytes": sum(layer.activation_bytes for layer in layers),
        "cycles": round(modelled.cycles),
        "energy": round(modelled.energy),
    }
