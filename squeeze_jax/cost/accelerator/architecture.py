"""Describes the accelerator: a PE array with register files, a global buffer and a DRAM.

The architecture is that of the SqueezeNext paper (arXiv 1803.10615, section 4).
"""

import math
import re
from dataclasses import dataclass, fields

from squeeze_jax.errors import UserError


@dataclass(frozen=True)
class Accelerator:
    """Holds the dimensions and rates of an array of 16-bit multiply-accumulate units (PEs).

    The array is connected to one global buffer, and the buffer to one DRAM. Sizes are in bytes and
    times in cycles. The paper does not state a clock; its 16 GB/s are taken as 16 bytes a cycle,
    which holds at 1 GHz. Values marked "assumed" are not in the paper. Each is the same for all
    layers, networks and arrays, and was chosen to reproduce the paper's Table 3 and Figures 6
    and 8.
    """

    rows: int
    columns: int
    buffer_bytes: int
    # Of each PE. Assumed: two 7x7/2 patches and a partial sum just fit; see dataflow.py.
    register_file_words: int = 16
    dram_bytes_per_cycle: float = 16  # paper: 16 GB/s
    dram_latency: int = 100  # cycles; paper
    bytes_per_element: int = 2  # weights and activations; paper: 16-bit integers
    # Assumed: a partial sum that waits in the buffer for more input channels keeps 32 bits.
    partial_sum_bytes: int = 4
    # Fraction of non-zero weights. Paper: 40 % are zero, and only OS skips them.
    os_weight_density: float = 0.6
    # Weights that the OS sequencer sees in a cycle. Assumed: it skips at most one zero.
    zero_skip_window: int = 2

    def __post_init__(self):
        for field in fields(self):
            value, may_be_zero = getattr(self, field.name), field.name == "dram_latency"
            if not (0 < value < math.inf or value == 0 and may_be_zero):
                least = "0 or more" if may_be_zero else "positive"
                raise UserError(f"accelerator: {field.name} must be {least}, not {value}")
        if self.os_weight_density > 1:
            raise UserError(
                f"accelerator: os_weight_density must be at most 1, not {self.os_weight_density}"
            )

    @property
    def pes(self) -> int:
        """Returns the number of PEs."""
        return self.rows * self.columns

    @property
    def port_words(self) -> int:
        """Returns the words a cycle between buffer and array.

        Assumed: what WS needs, which is a pixel in for each row, and a partial sum in and out for
        each column.
        """
        return self.rows + 2 * self.columns

    @property
    def os_cycles_per_weight(self) -> float:
        """Returns the mean number of cycles that the OS sequencer spends on a weight.

        A cycle consumes the zeros at the start of its window and the non-zero weight after them.
        For randomly placed zeros, a fraction q of the weights, and a window of w weights, that is
        1 + q + ... + q^(w-1) weights a cycle. The result is 1 for w = 1 and the density for an
        unlimited window.
        """
        zeros = 1 - self.os_weight_density
        return 1 / sum(zeros**i for i in range(self.zero_skip_window))

    @classmethod
    def parse(cls, array: str, buffer_kb: float, **options) -> "Accelerator":
        """Returns the accelerator that a user describes.

        Args:
          array: ROWSxCOLUMNS, such as "16x16".
          buffer_kb: size of the global buffer, in KB of 1024 bytes.
          **options: other fields by name.

        Raises:
          UserError: the array is not of that form, or a field is out of range.
        """
        if not 0 < buffer_kb * 1024 < math.inf:
            raise UserError(
                f"accelerator: the buffer must have a positive size, not {buffer_kb} KB"
            )
        match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", array.strip())
        if not match:
            raise UserError(f"array {array!r} is not ROWSxCOLUMNS, such as 16x16")
        return cls(int(match[1]), int(match[2]), int(buffer_kb * 1024), **options)


# The two accelerators of the paper's Table 3.
PAPER_8X8 = Accelerator(8, 8, 32 * 1024)
PAPER_16X16 = Accelerator(16, 16, 128 * 1024)
