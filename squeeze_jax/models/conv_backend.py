"""Selects how convolution and pooling run: one XLA operation a layer, or matrix products.

The two backends compute the same numbers, to rounding:

* ``native``: one XLA convolution or window reduction a layer. Accelerators have hardware and
  kernels for these, and `squeeze_jax.cost.trace` reads layers from them.
* ``matmul``: what a CPU runs faster, see `cpu_lowering`.

The training step wraps its trace in `conv_backend(default_conv_backend(platform))`.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Literal

import jax

ConvBackend = Literal["native", "matmul"]

# With about 100 images SqueezeNet v1.0 at 227 wins back the two or three seconds that matmul takes
# longer to compile; smaller nets need more images.
_FEW_PIXELS = 100 * 227**2

_chosen: contextvars.ContextVar[ConvBackend | None] = contextvars.ContextVar(
    "conv_backend", default=None
)


def default_conv_backend(platform: str, pixels: float = math.inf) -> ConvBackend:
    """Returns the faster backend on a platform.

    Args:
      platform: "cpu", "gpu" or "tpu".
      pixels: height times width of all images that the compiled net will see. For few of them,
        `matmul` takes longer to compile than it saves.
    """
    return "matmul" if platform == "cpu" and pixels > _FEW_PIXELS else "native"


@contextlib.contextmanager
def conv_backend(name: ConvBackend) -> Iterator[None]:
    """Uses the backend `name` for all that is traced inside the block.

    Outside any block, the backend is that of JAX's default platform.
    """
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def uses_matmul() -> bool:
    """Returns whether the backend in force is `matmul`."""
    return (_chosen.get() or default_conv_backend(jax.default_backend())) == "matmul"


def num_microbatches(
    images: int, seen_bytes: int, params_bytes: int, *, train: bool, unit: int = 1
) -> int:
    """Returns the number of micro-batches at which a CPU's caches hold what a layer multiplies.

    Args:
      images: the batch size, which the result divides.
      seen_bytes: bytes of one image's patches in the layer where they are largest.
      params_bytes: bytes of the net's parameters. Each micro-batch reads them all and, in training,
        adds to them, so its patches should not be smaller.
      train: whether the caches also hold a gradient.
      unit: images that stay together; it divides `images`.
    """
    if not uses_matmul():
        return 1
    together = max(1, max((4 if train else 16) * 2**20, params_bytes) // seen_bytes)
    units = images // unit
    return next(
        parts
        for parts in range(1, units + 1)
        if units % parts == 0 and (images // parts <= together or parts == units)
    )
