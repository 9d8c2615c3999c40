"""Kernels as products of two thin matrices: the SVD baseline of the SqueezeNet paper's Table 2 (Denton et al., arXiv 1404.0736)."""

import numpy as np

from squeeze_jax.compress.prune import kernels
from squeeze_jax.network import Tree, leaves_by_path, replace_leaves


def low_rank(params: Tree, fraction: float) -> tuple[Tree, dict[str, np.ndarray]]:
    """Weights whose kernels are the nearest ones of a rank that `fraction` of their parameters can hold.

    A kernel [height, width, in, out] is seen as a matrix [height * width * in, out]. Where even rank 1 takes no fewer parameters than
    the kernel has, it stays as it is.

    Args:
      params: of any net.
      fraction: of each kernel's parameters, in (0, 1).

    Returns:
      The parameters with the products in the kernels' place; and what a file has to hold, float32 by name: KERNEL/left [rows, rank] and
      KERNEL/right [rank, out], whose product is the kernel, and everything else as it is.
    """
    is_kernel, products, stored = leaves_by_path(kernels(params)), {}, {}
    for path, array in leaves_by_path(params).items():
        array = np.asarray(array, np.float32)
        matrix = array.reshape(-1, array.shape[-1])
        rank = max(1, int(fraction * array.size / sum(matrix.shape)))
        if not is_kernel[path] or rank * sum(matrix.shape) >= array.size:
            products[path] = stored[path] = array
            continue
        left, scale, right = np.linalg.svd(matrix, full_matrices=False)
        stored[f"{path}/left"], stored[f"{path}/right"] = (
            left[:, :rank] * scale[:rank],
            right[:rank],
        )
        products[path] = (stored[f"{path}/left"] @ stored[f"{path}/right"]).reshape(array.shape)
    return replace_leaves(params, products), stored
