"""Estimates cycles, DRAM traffic and energy of a network on an accelerator, at batch 1.

Convolutions and dense layers count. Pooling, biases, BatchNorm (folded), activations and
element-wise sums are free, as in the SqueezeNext paper, whose bars show only convolutions and the
classifier and add up to the totals in its Table 3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    """Holds the estimate of one convolution or dense layer."""

    name: str
    dataflow: str  # "ws" or "os"
    macs: int  # those with zero weights included
    cycles: float
    compute_cycles: float
    dram_cycles: float
    tiles: int
    dram_bytes: int
    buffer_accesses: float  # 16-bit words between buffer and array, and between buffer and DRAM
    utilisation: float  # macs / (cycles * PEs); exceeds 1 only where OS skips zeros
    density: float  # of the weights, of which OS skips the zeros
    energy: Energy  # in MACs

    @property
    def arithmetic_intensity(self) -> float:
        """Returns the MACs a byte of DRAM traffic, the horizontal axis of a roofline."""
        return self.macs / self.dram_bytes

    @property
    def macs_per_cycle(self) -> float:
        """Returns the attained MACs a cycle, the vertical axis of a roofline.

        The roofs are the number of PEs, and the intensity times the DRAM's bytes a cycle.
        """
        return self.macs / self.cycles


@dataclass(frozen=True)
class Estimate:
    """Holds the estimate of a network whose layers run one after another."""

    accelerator: Accelerator
    layers: tuple[LayerEstimate, ...]

    @property
    def macs(self) -> int:
        """Returns the MACs of all layers, those with zero weights included."""
        return sum(layer.macs for layer in self.layers)

    @property
    def cycles(self) -> float:
        """Returns the cycles of all layers."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def energy_by_level(self) -> Energy:
        """Returns the energy of all layers at each level, in MACs."""
        return reduce(add, (layer.energy for layer in self.layers), Energy())

    @property
    def energy(self) -> float:
        """Returns the energy of all layers, in MACs."""
        return self.energy_by_level.total

    @property
    def dram_bytes(self) -> int:
        """Returns the bytes of DRAM traffic of all layers."""
        return sum(layer.dram_bytes for layer in self.layers)

    @property
    def utilisation(self) -> float:
        """Returns MACs / (cycles * PEs); 0 without layers."""
        return self.macs / (self.cycles * self.accelerator.pes) if self.layers else 0.0


def estimate(
    layers: Sequence[Layer],
    accelerator: Accelerator,
    dataflow: str = "best",
    densities: Mapping[str, float] | None = None,
) -> Estimate:
    """Estimates cycles, DRAM traffic and energy of a network.

    Args:
      layers: what `squeeze_jax.cost.trace.trace_layers` returns; pools are left out of the result.
      accelerator: the machine.
      dataflow: "ws" or "os" for all layers, or "best" for the faster one of each layer; of two
        equally fast ones, the one with less energy.
      densities: the fraction of non-zero weights by layer, in (0, 1]; a layer that is not there has
        the accelerator's.

    Raises:
      UserError: the dataflow is unknown, or the buffer cannot hold one tile of a layer.
    """
    if dataflow not in ("best", *DATAFLOWS):
        raise UserError(
            f"unknown dataflow {dataflow!r}; choose one of best, {', '.join(DATAFLOWS)}"
        )
    choices = DATAFLOWS if dataflow == "best" else (dataflow,)

    def with_weights_of(layer: Layer) -> Accelerator:
        density = (densities or {}).get(layer.name, accelerator.os_weight_density)
        return replace(accelerator, os_weight_density=density)

    computed = [layer for layer in layers if layer.kind in ("conv", "dense")]
    return Estimate(
        accelerator,
        tuple(
            min(
                (_estimate(layer, with_weights_of(layer), name) for name in choices),
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
    # DMA and array work on different tiles at once, so that the slower one sets the pace. The
    # faster one adds its time for a single tile, while the pipeline fills and drains. Only the
    # first request's latency adds to the time; the others overlap with work.
    slower, faster = max(compute.cycles, dram_cycles), min(compute.cycles, dram_cycles)
    cycles = slower + faster / tiling.tiles + accelerator.dram_latency
    return LayerEstimate(
        name=layer.name,
        dataflow=dataflow,
        macs=layer.macs,
        cycles=cycles,
        compute_cycles=compute.cycles,
        dram_cycles=dram_cycles,
        tiles=tiling.tiles,
        dram_bytes=dram_bytes,
        buffer_accesses=compute.port_words + tiling.dram_words,
        utilisation=layer.macs / (cycles * accelerator.pes),
        density=accelerator.os_weight_density,
        energy=energy(compute, tiling.dram_words),
    )
