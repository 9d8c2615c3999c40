"""Folds BatchNorm into the convolution before it, as inference engines expect."""

import jax
import numpy as np
from flax import nnx

from squeeze_jax.models import layers
from squeeze_jax.network import Network, Tree, split_model


def fold_batch_norm(network: Network) -> tuple[nnx.GraphDef, Tree]:
    """Returns the static graph and the parameters, as NumPy arrays, of a network for inference.

    Convolutions with BatchNorm get a bias instead. A convolution W x followed by
    scale * (y - mean) / sqrt(var + eps) + bias is the convolution with W' = W * s and
    bias' = bias - mean * s, where s = scale / sqrt(var + eps) for each output channel.
    """
    module = network.module()
    for conv in [
        node
        for _, node in nnx.iter_graph(module)
        if isinstance(node, layers.Conv) and hasattr(node, "bn")
    ]:
        bn = conv.bn
        scale = np.asarray(bn.scale[...], np.float64) / np.sqrt(
            np.asarray(bn.var[...], np.float64) + bn.epsilon
        )
        conv.kernel.set_value((np.asarray(conv.kernel[...]) * scale).astype(np.float32))
        conv.bias = nnx.Param(
            (np.asarray(bn.bias[...]) - np.asarray(bn.mean[...]) * scale).astype(np.float32)
        )
        del conv.bn
    graphdef, params, _ = split_model(module)
    return graphdef, jax.tree.map(np.asarray, params)
