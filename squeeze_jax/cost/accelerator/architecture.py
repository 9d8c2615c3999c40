"""The machine: a PE array with register files, a global buffer and a DRAM, as in section 4 of the SqueezeNext paper (arXiv 1803.10615)."""

import math
import re
from dataclasses import dataclass, fields

from squeeze_jax.errors import UserError


@dataclass(frozen=True)
class Accelerator:
    """A rows x columns array of 16-bit multiply-accumulate units (PEs) between one global buffer and one DRAM.

    Sizes are in bytes, times in cycles; the paper does not state its clock, and at 1 GHz a second is 1e9 cycles and its
    16 GB/s are 16 bytes a cycle. What is marked "assumed" the paper leaves open: one value for all layers, networks and
    arrays, chosen because its Table 3 and Figures 6 and 8 come out with it.
    """

    rows: int
    columns: int
    buffer_bytes: int
    register_file_words: int = (
        16  # of each PE; assumed: two 7x7/2 patches and a sum just fit, see dataflow
    )
    dram_bytes_per_cycle: float = 16  # paper: 16 GB/s
    dram_latency: int = 100  # cycles; paper
    bytes_per_element: int = 2  # weights and activations; paper: 16-bit integers
    partial_sum_bytes: int = (
        4  # assumed: a sum that waits in the buffer for more input channels keeps 32 bits
    )
    os_weight_density: float = 0.6  # paper: 40 % of the weights are zero, and only OS skips them
    zero_skip_window: int = (
        2  # weights the OS sequencer sees a cycle; assumed: it passes over one zero, no more
    )

    def __post_init__(self):
        for field in fields(self):
            value, least = (
                getattr(self, field.name),
                "0 or more" if field.name == "dram_latency" else "positive",
            )
            if not (0 < value < math.inf or value == 0 and least == "0 or more"):
                raise UserError(f"accelerator: {field.name} must be {least}, not {value}")
        if self.os_weight_density > 1:
            raise UserError(
                f"accelerator: os_weight_density is a fraction, not {self.os_weight_density}"
            )

    @property
    def pes(self) -> int:
        return self.rows * self.columns

    @property
    def port_words(self) -> int:
        """Words a cycle between buffer and array; assumed: what WS needs, a pixel in for each row, a sum in and out for each column."""
        return self.rows + 2 * self.columns

    @property
    def os_cycles_per_weight(self) -> float:
        """Mean cycles the OS sequencer spends on a weight.

        With zeros at random, a cycle consumes the zeros that lead its window and the non-zero after them:
        1 + q + ... + q^(w-1) weights for a share q of zeros and a window w. No window (1) gives 1, an endless one the density.
        """
        zeros = 1 - self.os_weight_density
        return 1 / sum(zeros**i for i in range(self.zero_skip_window))

    @classmethod
    def parse(cls, array: str, buffer_kb: float, **options) -> "Accelerator":
        """An accelerator from what a user types: "16x16" and the buffer in KB of 1024 bytes.

        Raises:
          UserError: not of the form ROWSxCOLUMNS, or a size that is not positive.
        """
        if not 0 < buffer_kb < math.inf:
            raise UserError(f"a buffer of {buffer_kb} KB cannot be built")
        match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", array.strip())
        if not match:
            raise UserError(f"array {array!r} is not ROWSxCOLUMNS, such as 16x16")
        return cls(int(match[1]), int(match[2]), int(buffer_kb * 1024), **options)


# The two the paper compares in Table 3.
PAPER_8X8 = Accelerator(8, 8, 32 * 1024)
PAPER_16X16 = Accelerator(16, 16, 128 * 1024)
