"""Counts a network's zero weights, which an accelerator may skip."""

import numpy as np

from squeeze_jax.network import Tree, is_kernel, layer_name, leaves_by_path


def weight_densities(params: Tree) -> dict[str, float]:
    """Returns the fraction of non-zero weights of each layer's kernel, in (0, 1], by layer.

    A kernel of zeros alone counts as one with a single weight.
    """
    kernels = {
        layer_name(path): np.asarray(leaf)
        for path, leaf in leaves_by_path(params).items()
        if is_kernel(path)
    }
    return {
        layer: max(np.count_nonzero(kernel), 1) / kernel.size for layer, kernel in kernels.items()
    }
