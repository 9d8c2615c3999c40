"""Models a PE-array accelerator: the cycles, DRAM traffic and energy of a traced network.

`estimate(trace_layers(...), PAPER_16X16)` follows the simulator of the SqueezeNext paper (arXiv
1803.10615, section 4). Layers run one after another at batch 1, each under the faster of the
weight-stationary and the output-stationary dataflow.
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
