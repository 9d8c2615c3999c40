"""Which lowering of convolution and pooling runs: one XLA operation a layer, or products of matrices.

Two backends compute the same numbers, to rounding:

* ``native``: one XLA convolution or window reduction a layer. Accelerators have hardware and kernels
  for these, and `squeeze_jax.cost.trace` reads layers from them.
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


# SqueezeNet v1.0 at 227 wins the two or three seconds back with some hundred images, smaller nets with more.
_FEW_PIXELS = 100 * 227**2


_chosen: contextvars.ContextVar[ConvBackend | None] = contextvars.ContextVar(
    "conv_backend", default=None
)


def default_conv_backend(platform: str, pixels: float = math.inf) -> ConvBackend:
    """The faster lowering on `platform`.

    Args:
      platform: "cpu", "gpu" or "tpu".
      pixels: of all images that a net is to see in inference, once it is compiled; its faster lowering on a CPU takes longer to compile.
    """
    return "matmul" if platform == "cpu" and pixels > _FEW_PIXELS else "native"


@contextlib.contextmanager
def conv_backend(name: ConvBackend) -> Iterator[None]:
    """Uses the lowering `name` for everything traced inside the block; outside any block the default backend's best."""
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def uses_matmul() -> bool:
    return (_chosen.get() or default_conv_backend(jax.default_backend())) == "matmul"


def num_microbatches(images: int, seen_bytes: int, params_bytes: int, *, train: bool) -> int:
    """How many equal parts of a batch are best worked on one after another, so that a CPU's caches hold what a layer multiplies.

    Args:
      images: of the batch; the result divides it.
      seen_bytes: of the largest layer's patches of one image, whether all of them are gathered or not.
      params_bytes: of the net; each part reads them all and, in training, adds to them, so its patches should not be smaller.
      train: whether there is a gradient to share the caches with.
    """
    if not uses_matmul():
        return 1
    together = max(1, max((4 if train else 16) * 2**20, params_bytes) // seen_bytes)
    return next(
        parts
        for parts in range(1, images + 1)
        if images % parts == 0 and images // parts <= together
    )
