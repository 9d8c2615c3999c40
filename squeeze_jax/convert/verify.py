"""Whether an exported file computes what the network computes."""

from collections.abc import Callable

import numpy as np

from squeeze_jax.errors import UserError
from squeeze_jax.models import conv_backend
from squeeze_jax.network import Network

Run = Callable[[np.ndarray], np.ndarray]  # images float32 [N, H, W, 3] -> logits [N, classes]

# How far logits may lie from the network's, relative to the largest, by precision of the file.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "int16": 0.05, "int8": 0.2}


def logits(network: Network, images: np.ndarray) -> np.ndarray:
    """Computes logits float32 [N, classes] of preprocessed images float32 [N, H, W, 3] with Flax.

    The convolutions are XLA's own, as in what is exported.
    """
    with conv_backend.conv_backend("native"):
        return network.classifier().run(images)


def check(network: Network, run: Run, images: np.ndarray, precision: str = "float32") -> float:
    """Returns how far a file's logits lie from the network's, relative to the largest logit.

    They are compared on the images and on as many of noise. int8 and int16 are compared on the
    images only: their ranges are calibrated on real images and do not hold for noise.

    Args:
      network: what was exported.
      run: the exported file.
      images: real ones, preprocessed, float32 [N, H, W, 3].
      precision: of the file, a key of TOLERANCES.

    Raises:
      UserError: they lie farther than the precision's tolerance, or are not finite.
    """
    if not precision.startswith("int"):
        random = np.random.default_rng(0).normal(images.mean(), images.std(), images.shape)
        images = np.concatenate([images, random.astype(np.float32)])
    expected = logits(network, images)
    with conv_backend.conv_backend("native"):  # for weights that Flax runs again
        found = np.asarray(run(images), np.float32)
    if found.shape != expected.shape:
        raise UserError(
            f"the exported file gives outputs of shape {found.shape}, not {expected.shape}"
        )
    if not np.isfinite(expected).all():
        raise UserError("the net's own logits are not finite numbers")
    difference, largest = np.max(np.abs(found - expected)), np.max(np.abs(expected))
    # Logits that are all 0, as of a net that is dead, must stay so.
    deviation = float(difference / largest) if largest else (0.0 if difference == 0 else np.inf)
    tolerance = TOLERANCES[precision]
    if not deviation <= tolerance:
        raise UserError(
            f"the exported file deviates from the net by {deviation:.2g} of the largest logit, "
            f"more than {tolerance:g}"
        )
    return deviation
