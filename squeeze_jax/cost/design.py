"""Computes the costs of a design point from its layers, before anything is trained."""

import contextlib
from collections.abc import Mapping
from typing import Any

from squeeze_jax.cost import accelerator, engine, memory, trace
from squeeze_jax.errors import UserError
from squeeze_jax.network import ModelConfig, abstract_model


def design_costs(
    model: ModelConfig | Mapping[str, Any], num_classes: int, input_shape: tuple[int, int, int]
) -> dict[str, float]:
    """Returns what a design point costs, from its traced layers; no weight is allocated.

    Args:
      model: name and options of a registered model.
      num_classes: outputs of the network.
      input_shape: height, width, channels of one image.

    Returns:
      what `inference_costs` does; model_mb (MiB in float32); cycles and energy (in MACs) an image
      on the 16x16 accelerator of the SqueezeNext paper.

    Raises:
      UserError: there is no such model or option.
      ValueError: the image is too small for the network.
    """
    found = trace.trace_module(abstract_model(model, num_classes), input_shape)
    estimate = accelerator.estimate(found.layers, accelerator.PAPER_16X16)
    return {
        **inference_costs(found),
        "model_mb": round(found.params * 4 / 2**20, 4),
        "cycles": round(estimate.cycles),
        "energy": round(estimate.energy),
    }


def inference_costs(found: trace.Trace) -> dict[str, float]:
    """Returns what a traced network takes, in float32 and on a microcontroller.

    Returns:
      params; macs (an image); ram_bytes and flash_bytes (of the int8 file under TFLM, see
      `memory`); engine_ram_bytes (of the C engine, see `engine`), unless it cannot run the network.
    """
    costs: dict[str, float] = {
        "params": found.params,
        "macs": sum(layer.macs for layer in found.layers),
        "ram_bytes": memory.tflm_arena_bytes(found.operators),
        "flash_bytes": memory.tflite_bytes(found.operators),
    }
    with contextlib.suppress(UserError):
        costs["engine_ram_bytes"] = engine.ram_bytes(found.module, found.input_shape)
    return costs
