"""The StableHLO format: one file with the weights, which JAX alone reloads.

`jax.export.deserialize(data).call(images)` runs it. The format is that of `jax.export`, which
promises to read files six months old (https://docs.jax.dev/en/latest/export).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from squeeze_jax.convert import metadata
from squeeze_jax.convert.exporters.fixed_batch import run_in_batches
from squeeze_jax.convert.options import Option
from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    import jax
    from jax.export import Exported

    from squeeze_jax.network import Classifier, Network

NAME = "stablehlo"
SUFFIX = ".stablehlo"
OPTIONS = {"batch": Option(int, None, "a fixed batch size (default: any)")}
PLATFORMS = ("cpu", "cuda", "tpu")


def write(network: "Network", options: Mapping[str, Any]) -> bytes:
    """Returns the content of a .stablehlo file with the network's metadata behind it."""
    return metadata.attach(to_stablehlo(network, batch=options["batch"]), network)


def open(content: bytes) -> "Classifier":
    """Opens a .stablehlo file of ours in JAX.

    Raises:
      UserError: it is not such a file.
    """
    from squeeze_jax.network import Classifier

    return Classifier.from_metadata(metadata.read(content), make_runner(content))


def to_stablehlo(network: "Network", *, batch: int | None = None) -> bytes:
    """Converts a network to a program for a CPU, a GPU or a TPU, serialised.

    Args:
      network: what is exported.
      batch: images a call; None for any number.
    """
    return bytes(lower(network, batch, PLATFORMS).serialize())


def lower(
    network: "Network", batch: int | None, platforms: Sequence[str], pixels: bool = False
) -> "Exported":
    """Lowers a network to StableHLO with BatchNorm folded and weights as constants.

    The program takes images float32 [N, H, W, 3] and returns logits [N, classes].

    Args:
      network: what is exported.
      batch: N, or None for any.
      platforms: where it will run.
      pixels: whether the images are RGB of 0..255, which a 1x1 convolution then turns into the
        net's channels and normalises.
    """
    # jax.export needs flatbuffers, but would say so only in the middle of its work.
    import flatbuffers  # noqa: F401
    import jax
    import jax.numpy as jnp
    from jax import export

    from squeeze_jax.convert.folding import fold_batch_norm
    from squeeze_jax.models import conv_backend, functional
    from squeeze_jax.network import forward

    graphdef, params = fold_batch_norm(network)
    preprocessing = network.preprocessing
    mean, std = jnp.asarray(preprocessing.mean), jnp.asarray(preprocessing.std)
    kernel = (jnp.asarray(_from_rgb(preprocessing.channel_order)) / std.reshape(1, -1))[None, None]
    bias = (-mean / std).reshape(1, 1, 1, -1)
    *size_of_image, channels = network.input_shape
    shape = (*size_of_image, 3 if pixels else channels)

    def logits(images: "jax.Array") -> "jax.Array":
        with conv_backend.conv_backend("native"):
            if pixels:
                images = functional.conv2d(images, kernel) + bias
            return forward(graphdef, params, {}, images)[0]

    size = export.symbolic_shape("batch")[0] if batch is None else batch
    return export.export(jax.jit(logits), platforms=platforms)(
        jax.ShapeDtypeStruct((size, *shape), jnp.float32)
    )


def _from_rgb(channel_order: str) -> "np.ndarray":
    """Returns the matrix [3, channels] that turns RGB into channels of an order."""
    from squeeze_jax.network.preprocessing import LUMA

    if channel_order == "grey":
        return np.reshape(LUMA, (3, 1)).astype(np.float32)
    return np.eye(3, dtype=np.float32)[:: -1 if channel_order == "bgr" else 1]


def make_runner(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs a StableHLO file.

    It takes preprocessed images float32 [N, H, W, 3], N >= 1, and returns logits [N, classes].

    Raises:
      UserError: it is not such a file.
    """
    import flatbuffers  # noqa: F401
    import jax
    from jax import export

    try:
        program = export.deserialize(bytearray(content))
        (images,) = program.in_avals
        batch = images.shape[0] if isinstance(images.shape[0], int) else None
    except Exception as e:  # whatever the reader meets in bytes that it did not write
        raise UserError(f"not a StableHLO export: {type(e).__name__} while reading it") from e
    run = jax.jit(program.call)
    if batch is None:
        return lambda images: np.asarray(run(images))
    return lambda images: run_in_batches(run, images, batch)
