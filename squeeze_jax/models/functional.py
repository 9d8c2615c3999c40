"""Convolution, pooling and dropout as functions of NHWC arrays, on the chosen backend."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from squeeze_jax.models import cpu_lowering
from squeeze_jax.models.conv_backend import uses_matmul
from squeeze_jax.models.cpu_lowering import Padding


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    padding: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
    *,
    train: bool = True,
) -> jax.Array:
    """Computes a 2-D cross-correlation; the output size rounds down.

    Args:
      x: [N, H, W, Cin].
      kernel: [kh, kw, Cin / groups, Cout].
      stride: the same in both directions.
      padding: zeros before and after H and W.
      groups: number of channel groups; group g of the output sees group g of the input.
      train: whether there will be a gradient. Without one, a CPU takes fewer multiplications.

    Returns:
      [N, H', W', Cout] with H' = (H + pads - kh) // stride + 1.

    Raises:
      ValueError: the padded input is smaller than the kernel.
    """
    kh, kw = kernel.shape[:2]
    height, width = x.shape[1] + sum(padding[0]), x.shape[2] + sum(padding[1])
    if height < kh or width < kw:
        raise ValueError(
            f"the {kh}x{kw} convolution needs at least that input, got {height}x{width}: "
            "use larger images or fewer pools"
        )
    # XLA's own gradient of a grouped convolution takes a CPU many times as long as its groups do,
    # one by one. Those of a depthwise convolution are too many and too small.
    if uses_matmul() and (groups == 1 or groups < x.shape[-1]):
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        outputs = [cpu_lowering.conv2d(*part, stride, padding, train=train) for part in parts]
        return outputs[0] if groups == 1 else jnp.concatenate(outputs, -1)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def max_pool(x: jax.Array, window: int = 3, stride: int = 2) -> jax.Array:
    """Computes max pooling whose output size rounds up, as Caffe's does.

    The last window of a row or column may hang over the edge.

    Args:
      x: [N, H, W, C].
      window: height and width of a window.
      stride: the same in both directions.

    Returns:
      [N, ceil((H - window) / stride) + 1, ..., C].

    Raises:
      ValueError: the input is smaller than window - stride + 1, so that no window starts inside it.
    """
    height, width = x.shape[1:3]
    rows, columns = (-(-(size - window) // stride) + 1 for size in (height, width))
    if min(rows, columns) < 1:
        raise ValueError(
            f"{window}x{window}/{stride} max pooling got {height}x{width}: "
            "use larger images or fewer pools"
        )
    overhang = (
        (0, max(0, (rows - 1) * stride + window - height)),
        (0, max(0, (columns - 1) * stride + window - width)),
    )
    if uses_matmul():
        return cpu_lowering.max_pool(x, window, stride, overhang)
    # In bfloat16, reduce_window can be differentiated only with a scalar literal, not an array.
    return lax.reduce_window(
        x,
        -float("inf"),
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), *overhang, (0, 0)),
    )


def relu_max_pool(x: jax.Array, window: int = 3, stride: int = 2, *, train: bool) -> jax.Array:
    """Computes ReLU, then `max_pool`.

    In training the pool comes first, with the same result: the largest input has the largest
    activation. The gradient's mask then covers only the chosen inputs, and the large array is read
    and written fewer times. Without a gradient, ReLU stays beside the convolution, into which every
    engine fuses it.
    """
    if train:
        return jax.nn.relu(max_pool(x, window, stride))
    return max_pool(jax.nn.relu(x), window, stride)


def concat_channels(
    parts: Sequence[jax.Array], activation: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Concatenates arrays along their channels and applies an activation.

    Args:
      parts: [N, H, W, C1], [N, H, W, C2], ...
      activation: treats each channel by itself; it may pool.

    Returns:
      [N, H', W', C1 + C2 + ...].
    """
    if uses_matmul():
        return cpu_lowering.concat_channels(parts, activation)
    return activation(jnp.concatenate(parts, axis=-1))


def materialize(x: jax.Array) -> jax.Array:
    """Returns x; a CPU computes it, and its gradient, once for all readers."""
    return cpu_lowering.materialize(x) if uses_matmul() else x


def global_average_pool(x: jax.Array) -> jax.Array:
    """Averages [N, H, W, C] over all positions to [N, C], in float32 whatever the input's type."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
      x: [N, ...].
      rate: between 0 and 1.
      key: one PRNG key, or one an example [N]. With one an example, the masks do not depend on how
        a batch is divided over devices.

    Raises:
      ValueError: the rate is above 0 and there is no key.
    """
    if rate == 0.0:
        return x
    if key is None:
        raise ValueError("dropout in training needs a key: call the model with key=")
    keys = key if key.ndim else jax.random.split(key, x.shape[0])
    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def fold_in(key: jax.Array, salt: int) -> jax.Array:
    """Derives a key for one of several uses from one key, or from one key an example [N]."""
    if key.ndim:
        return jax.vmap(jax.random.fold_in, (0, None))(key, salt)
    return jax.random.fold_in(key, salt)


def flatten(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Reshapes [N, H, W, C] to [N, H * W * C] for a fully connected layer.

    Args:
      x: activations.
      size: the height and width that the layer was made for.

    Raises:
      ValueError: x has another height or width.
    """
    if x.shape[1:3] != size:
        raise ValueError(
            f"the fully connected layers need {size[0]}x{size[1]} positions, "
            f"got {x.shape[1]}x{x.shape[2]}: use another image size"
        )
    return x.reshape(x.shape[0], -1)


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """Divides [N, H, W, C] by a power of the energy of the neighbouring channels, as Caffe does.

    x / (1 + alpha / size * sum of squares over `size` channels)^beta (Krizhevsky et al. 2012,
    section 3.3).
    """
    half, channels = size // 2, x.shape[-1]
    squares = jnp.pad(jnp.square(x), ((0, 0), (0, 0), (0, 0), (half, half)))
    total = sum(
        lax.slice_in_dim(squares, offset, offset + channels, axis=3) for offset in range(size)
    )
    return x * (1 + alpha / size * total) ** -beta
