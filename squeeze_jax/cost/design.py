"""Computes the costs of a design point from its layers, before anything is trained."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from squeeze_jax.cost import accelerator, trace
from squeeze_jax.network import ModelConfig, build_model


def design_costs(
    model: ModelConfig | Mapping[str, Any], num_classes: int, input_shape: tuple[int, int, int]
) -> dict[str, float]:
    """Returns what a design point costs, from its traced layers; no weight is allocated.

    Args:
      model: name and options of a registered model.
      num_classes: outputs of the network.
      input_shape: height, width, channels of one image.

    Returns:
      params; macs (an image); model_mb (MiB in float32); activation_bytes (all layer outputs in
      float32, an image); cycles and energy (in MACs) an image on the 16x16 accelerator of the
      SqueezeNext paper.

    Raises:
      UserError: there is no such model or option.
      ValueError: the image is too small for the network.
    """

    def build() -> nnx.Module:
        return build_model(model, num_classes)

    params = trace.parameter_count(nnx.eval_shape(build))
    layers = trace.trace_layers(build, input_shape)
    estimate = accelerator.estimate(layers, accelerator.PAPER_16X16)
    return {
        "params": params,
        "macs": sum(layer.macs for layer in layers),
        "model_mb": round(params * 4 / 2**20, 4),
        "activation_bytes": sum(layer.activation_bytes for layer in layers),
        "cycles": round(estimate.cycles),
        "energy": round(estimate.energy),
    }
