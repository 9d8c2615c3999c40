"""Factorizes kernels into products of two thin matrices by singular value decomposition.

This is the SVD baseline in Table 2 of the SqueezeNet paper (Denton et al., arXiv 1404.0736).
"""

import numpy as np

from squeeze_jax.compress.prune import kernels
from squeeze_jax.network import Tree, leaves_by_path, replace_leaves


def low_rank(params: Tree, fraction: float) -> tuple[Tree, dict[str, np.ndarray]]:
    """Replaces each kernel by the nearest one of low rank.

    The rank is the largest whose two factors have at most `fraction` of the kernel's parameters. A
    kernel [height, width, in, out] counts as a matrix [height * width * in, out]. It is unchanged
    where the factors would have no fewer parameters.

    Args:
      params: parameters of any network.
      fraction: of each kernel's parameters, in (0, 1).

    Returns:
      (parameters, arrays): the parameters with low-rank kernels, and the arrays that a file has to
      hold, float32 by name. The product of KERNEL/left [rows, rank] and KERNEL/right [rank, out] is
      the kernel; other arrays are unchanged.
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
