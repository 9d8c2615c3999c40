"""Computes energy in units of one 16-bit multiply-accumulate.

The costs of accesses are those of Eyeriss (ISCA 2016, Table IV). The SqueezeNext paper (arXiv
1803.10615, section 4) uses that method with slightly modified costs, which it does not state. Nor
does it state what counts at which level. Here the operand that stays in a PE (the weight in WS, the
sum in OS) is in the MAC's own register, whose cost is part of the MAC; the operand that moves costs
an access to the register file or a transfer from a neighbour.
"""

from dataclasses import astuple, dataclass

from squeeze_jax.cost.accelerator.dataflow import Compute

MAC = 1
REGISTER_FILE = 1
INTER_PE = 2
GLOBAL_BUFFER = 6
DRAM = 200


@dataclass(frozen=True)
class Energy:
    """Holds the energy at each level, in MACs."""

    mac: float = 0.0
    register_file: float = 0.0
    inter_pe: float = 0.0
    global_buffer: float = 0.0
    dram: float = 0.0

    @property
    def total(self) -> float:
        """Returns the energy of all levels."""
        return sum(astuple(self))

    def __add__(self, other: "Energy") -> "Energy":
        return Energy(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def energy(compute: Compute, dram_words: float) -> Energy:
    """Returns the energy of a layer's accesses.

    A word that crosses the port costs a buffer access and a transfer on the array's wires. A word
    to or from DRAM passes through the buffer and costs a buffer access too.

    Args:
      compute: the layer's accesses in the array.
      dram_words: words to and from DRAM.
    """
    return Energy(
        mac=MAC * compute.macs,
        register_file=REGISTER_FILE * compute.register_accesses,
        inter_pe=INTER_PE * (compute.neighbour_transfers + compute.port_words),
        global_buffer=GLOBAL_BUFFER * (compute.port_words + dram_words),
        dram=DRAM * dram_words,
    )
