"""Runs a file that takes a fixed number of images on any number of them."""

from collections.abc import Callable

import numpy as np


def run_in_batches(
    run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch: int
) -> np.ndarray:
    """Returns the outputs [N, ...] for N >= 1 images [N, ...]; zeros fill the last batch.

    Args:
      run: takes exactly `batch` images.
      images: any number of them.
      batch: images a call.
    """
    rest = np.zeros((-len(images) % batch, *images.shape[1:]), images.dtype)
    filled = np.concatenate([images, rest])
    outputs = [run(filled[start : start + batch]) for start in range(0, len(filled), batch)]
    return np.concatenate(outputs)[: len(images)]
