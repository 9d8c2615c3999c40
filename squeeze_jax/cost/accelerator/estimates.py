"""Layers and an accelerator -> cycles, DRAM traffic and energy, layer by layer at batch 1.

Convolutions and dense layers are counted. Pooling, bias, BatchNorm (folded), activations and element-wise sums cost
nothing, as in the paper: its bars hold convolutions and the classifier only and add up to the totals of its Table 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from squeeze_jax.cost.accelerator.architecture import Accelerator
from squeeze_jax.cost.accelerator.dataflow import DATAFLOWS, output_stationary, weight_stationary
from squeeze_jax.cost.accelerator.energy import Energy, energy
from squeeze_jax.cost.accelerator.tiling import Convolution, tile
from squeeze_jax.cost.trace import Layer
from squeeze_jax.errors import UserError


@dataclass(frozen=True)
class LayerEstimate:
    """One convolution or dense layer on an accelerator. Cycles, bytes, and energy in units of one MAC."""

    name: str
    dataflow: str  # "ws" or "os"
    macs: int  # multiply-accumulates of the dense layer, zero weights included
    cycles: float
    compute_cycles: float
    dram_cycles: float
    tiles: int
    dram_bytes: int
    buffer_accesses: float  # 16-bit words between buffer and array, and between buffer and DRAM
    utilisation: float  # macs / (cycles x PEs); above 1 only if zero skipping outruns the array
    energy: Energy

    @property
    def arithmetic_intensity(self) -> float:
        """MACs for each byte of DRAM traffic: a roofline's horizontal axis."""
        return self.macs / self.dram_bytes

    @property
    def macs_per_cycle(self) -> float:
        """Attained rate: a roofline's vertical axis, under the PEs and under intensity x bytes a cycle."""
        return self.macs / self.cycles


@dataclass(frozen=True)
class Estimate:
    """A network on an accelerator; the layers run one after another."""

    accelerator: Accelerator
    layers: tuple[LayerEstimate, ...]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def cycles(self) -> float:
        return sum(layer.cycles for layer in self.layers)

    @property
    def energy_by_level(self) -> Energy:
        return reduce(add, (layer.energy for layer in self.layers), Energy())

    @property
    def energy(self) -> float:
        """In units of one MAC."""
        return self.energy_by_level.total

    @property
    def dram_bytes(self) -> int:
        return sum(layer.dram_bytes for layer in self.layers)

    @property
    def utilisation(self) -> float:
        return self.macs / (self.cycles * self.accelerator.pes) if self.layers else 0.0


def estimate(layers: Sequence[Layer], accelerator: Accelerator, dataflow: str = "best") -> Estimate:
    """Time and energy of a network on an accelerator.

    Args:
      layers: as `squeeze_jax.cost.trace.trace_layers` gives them; pools are left out of the result.
      accelerator: the machine.
      dataflow: "ws" or "os" for every layer, or "best" for each layer's faster one (of equals, the one of less energy).

    Raises:
      UserError: an unknown dataflow, or a buffer that cannot hold one tile of a layer.
    """
    if dataflow not in ("best", *DATAFLOWS):
        raise UserError(f"no dataflow {dataflow!r}; there are best, {', '.join(DATAFLOWS)}")
    choices = DATAFLOWS if dataflow == "best" else (dataflow,)
    computed = [layer for layer in layers if layer.kind in ("conv", "dense")]
    return Estimate(
        accelerator,
        tuple(
            min(
                (_estimate(layer, accelerator, name) for name in choices),
                key=lambda e: (e.cycles, e.energy.total),
            )
            for layer in computed
        ),
    )


def _estimate(layer: Layer, accelerator: Accelerator, dataflow: str) -> LayerEstimate:
    conv = Convolution.of(layer)
    tiling = tile(conv, accelerator)
    if dataflow == "ws":
        compute = weight_stationary(conv, tiling.spatial_tiles, accelerator)
    else:
        compute = output_stationary(conv, accelerator)
    dram_bytes = tiling.dram_words * accelerator.bytes_per_element
    dram_cycles = dram_bytes / accelerator.dram_bytes_per_cycle
    # DMA and array work on different tiles at once: the slower sets the pace; the faster shows once, at the ends of the
    # pipeline (before the first tile is in and after the last is done). Later requests hide their latency behind work.
    slower, faster = max(compute.cycles, dram_cycles), min(compute.cycles, dram_cycles)
    cycles = slower + faster / tiling.tiles + accelerator.dram_latency
    return LayerEstimate(
        layer.name, dataflow, layer.macs, cycles, compute.cycles, dram_cycles, tiling.tiles, dram_bytes,
        compute.port_words + tiling.dram_words, layer.macs / (cycles * accelerator.pes), energy(compute, tiling.dram_words),
    )  # fmt: skip
