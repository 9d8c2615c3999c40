"""Energy in units of one 16-bit multiply-accumulate, by the relative costs of Eyeriss (ISCA 2016, Table IV).

The SqueezeNext paper (arXiv 1803.10615, section 4) uses that method with costs it calls slightly modified and doesn't
give. What is counted at which level is our reading: the operand that stays in a PE (the weight in WS, the sum in OS) sits in
the MAC's own register, which its cost includes; the operand that moves costs an access to the register file or to a neighbour.
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
    """Energy spent at each level, in MAC units."""

    mac: float = 0.0
    register_file: float = 0.0
    inter_pe: float = 0.0
    global_buffer: float = 0.0
    dram: float = 0.0

    @property
    def total(self) -> float:
        return sum(astuple(self))

    def __add__(self, other: "Energy") -> "Energy":
        return Energy(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def energy(compute: Compute, dram_words: float) -> Energy:
    """Every access counted at its level.

    A word that crosses the port is one buffer access and one transfer on the array's wires; a word to or from DRAM
    passes through the buffer and is one buffer access more.
    """
    return Energy(
        mac=MAC * compute.macs,
        register_file=REGISTER_FILE * compute.register_accesses,
        inter_pe=INTER_PE * (compute.neighbour_transfers + compute.port_words),
        global_buffer=GLOBAL_BUFFER * (compute.port_words + dram_words),
        dram=DRAM * dram_words,
    )
