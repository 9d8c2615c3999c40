"""A model of a PE-array accelerator: cycles, DRAM traffic and energy of a traced network.

`estimate(trace(...), PAPER_16X16)` follows the simulator of the SqueezeNext paper (arXiv 1803.10615, section 4): layer by
layer, batch 1, the faster of weight-stationary and output-stationary for each layer.
"""

from squeeze_jax.cost.accelerator.architecture import PAPER_8X8, PAPER_16X16, Accelerator
from squeeze_jax.cost.accelerator.energy import Energy
from squeeze_jax.cost.accelerator.estimates import Estimate, LayerEstimate, estimate

__all__ = [
    "PAPER_16X16",
    "PAPER_8X8",
    "Accelerator",
    "Energy",
    "Estimate",
    "LayerEstimate",
    "estimate",
]
