"""A net as one StableHLO file, weights and all, that JAX alone reloads: `jax.export.deserialize(data).call(images)`.

The format is that of `jax.export`, which promises to read files six months old (https://docs.jax.dev/en/latest/export). Reading
and writing it need the package `flatbuffers` beside JAX.
"""

from collections.abc import Callable, Sequence

import flatbuffers  # noqa: F401  jax.export needs it, but would say so only in the middle of its work
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from squeeze_jax.convert.folding import fold_batch_norm
from squeeze_jax.convert.verify import in_batches
from squeeze_jax.errors import UserError
from squeeze_jax.models import conv_backend
from squeeze_jax.network import Network, forward

PLATFORMS = ("cpu", "cuda", "tpu")


def exported(net: Network, batch: int | None, platforms: Sequence[str]) -> export.Exported:
    """The net for inference, its BatchNorm fold_batch_norm and its weights constants: images float32 [N, H, W, 3] -> logits [N, classes].

    Args:
      net: what to export.
      batch: N, or None for any.
      platforms: where it will run.
    """
    graphdef, params = fold_batch_norm(net)

    def logits(images):
        with conv_backend.conv_backend("native"):
            return forward(graphdef, params, {}, images)[0]

    size = export.symbolic_shape("batch")[0] if batch is None else batch
    return export.export(jax.jit(logits), platforms=platforms)(
        jax.ShapeDtypeStruct((size, *net.input_shape), jnp.float32)
    )


def to_stablehlo(net: Network, *, batch: int | None = None) -> bytes:
    """The bytes of a file that runs on a CPU, a GPU or a TPU.

    Args:
      net: what to export.
      batch: images a call; None leaves it open.
    """
    return bytes(exported(net, batch, PLATFORMS).serialize())


def runner(data: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """A StableHLO file as a function: preprocessed images float32 [N, H, W, 3] -> logits [N, classes], N >= 1.

    Raises:
      UserError: not such a file.
    """
    try:
        program = export.deserialize(bytearray(data))
        (images,) = program.in_avals
        batch = images.shape[0] if isinstance(images.shape[0], int) else None
    except Exception as e:  # whatever the reader stumbles over in bytes that it did not write
        raise UserError(f"not a StableHLO export: {type(e).__name__} while reading it") from e
    run = jax.jit(program.call)
    return lambda images: (
        np.asarray(run(images)) if batch is None else in_batches(run, images, batch)
    )
