"""Whether an exported file computes what the Flax net computes."""

from collections.abc import Callable

import numpy as np

from squeeze_jax.errors import UserError
from squeeze_jax.models import conv_backend
from squeeze_jax.network import Network


def logits(net: Network, images: np.ndarray) -> np.ndarray:
    """Logits float32 [N, classes] of preprocessed images float32 [N, H, W, 3], by the Flax module under the native lowering."""
    with conv_backend.conv_backend("native"):
        return net.classifier().run(images)


def in_batches(
    run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch: int
) -> np.ndarray:
    """Outputs [N, ...] of N >= 1 images [N, ...] by a function of exactly `batch` of them; zeros fill the last batch."""
    filled = np.concatenate(
        [images, np.zeros((-len(images) % batch, *images.shape[1:]), images.dtype)]
    )
    return np.concatenate(
        [run(filled[start : start + batch]) for start in range(0, len(filled), batch)]
    )[: len(images)]


def check(
    net: Network,
    run: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    tolerance: float,
    noise: bool = True,
) -> float:
    """The largest deviation of a file's logits from the net's, relative to the largest logit.

    Args:
      net: what was exported.
      run: the exported file: preprocessed images float32 [N, H, W, 3] -> logits [N, classes].
      images: preprocessed real ones, [N, H, W, 3].
      tolerance: the most that is accepted.
      noise: check on as many images of noise too.

    Raises:
      UserError: it deviates more than that, or is not finite.
    """
    if noise:
        random = np.random.default_rng(0).normal(images.mean(), images.std(), images.shape)
        images = np.concatenate([images, random.astype(np.float32)])
    expected, found = logits(net, images), np.asarray(run(images), np.float32)
    if found.shape != expected.shape:
        raise UserError(
            f"the exported file gives outputs of shape {found.shape}, not {expected.shape}"
        )
    deviation = float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
    if not deviation <= tolerance:
        raise UserError(
            f"the exported file deviates from the net by {deviation:.2g} of the largest logit, more than {tolerance:g}"
        )
    return deviation
