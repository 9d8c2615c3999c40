"""Convolution, pooling and dropout as functions of NHWC arrays, lowered to what the platform runs best."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from squeeze_jax.models.conv_backend import uses_matmul
from squeeze_jax.models.cpu_lowering import Padding, im2col, matmul, window_slices, winograd


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    padding: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
    *,
    train: bool = True,
) -> jax.Array:
    """2-D cross-correlation; the output size rounds down.

    Args:
      x: [N, H, W, Cin].
      kernel: [kh, kw, Cin / groups, Cout].
      stride: the same in both directions.
      padding: zeros before and after H and W.
      groups: number of channel groups; group g of the output sees group g of the input.
      train: whether there will be a gradient. Without one, a CPU takes 3x3 kernels in fewer multiplications.

    Returns:
      [N, H', W', Cout] with H' = (H + pads - kh) // stride + 1.

    Raises:
      ValueError: the padded input is smaller than the kernel.
    """
    kh, kw, _, cout = kernel.shape
    height, width = x.shape[1] + sum(padding[0]), x.shape[2] + sum(padding[1])
    if height < kh or width < kw:
        raise ValueError(
            f"the {kh}x{kw} convolution needs at least that input, got {height}x{width}: use larger images or fewer pools"
        )
    if not uses_matmul() or groups > 1:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
    # Below that many channels 16 products are too small to be worth starting; bfloat16 has no digits to spare for the sums.
    if (
        not train
        and (kh, kw) == (3, 3)
        and stride == 1
        and x.shape[-1] > 16
        and x.dtype == jnp.float32
    ):
        return winograd(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel)
    # A product a kernel row, or patches of all rows: whichever writes less. A product costs less than its size, as it isn't gathered.
    if kh > 1 and stride == 1 and cout <= 2 * kw * kernel.shape[2]:
        products = matmul(
            im2col(x, (1, kw), 1, padding)[..., 0, :],
            kernel.transpose(1, 2, 0, 3).reshape(-1, kh * cout),
        )
        return sum(
            tap[..., row * cout : (row + 1) * cout]
            for row, tap in enumerate(window_slices(products, 1, kh, 1))
        )
    # Large patches in up to four groups of rows where there is no gradient (training has `num_microbatches`): more of them are still in a
    # cache when they are multiplied. Further groups gain less than they take to compile.
    x, matrix = jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel.reshape(-1, cout)
    rows, columns = (height - kh) // stride + 1, (width - kw) // stride + 1
    groups = (
        1
        if train or kh == 1
        else min(rows, 4, -(-len(x) * rows * columns * matrix.nbytes // cout // 2**20))
    )
    bounds = np.linspace(0, rows, groups + 1).astype(int)
    seen = [
        x[:, first * stride : (last - 1) * stride + kh]
        for first, last in itertools.pairwise(bounds)
    ]
    return jnp.concatenate(
        [matmul(im2col(part, (kh, kw), stride)[..., 0, :], matrix) for part in seen], axis=1
    )


def max_pool(x: jax.Array, window: int = 3, stride: int = 2) -> jax.Array:
    """Max pooling whose output size rounds up, as Caffe's does: a last window may hang over the edge.

    Args:
      x: [N, H, W, C].
      window, stride: the same in both directions.

    Returns:
      [N, ceil((H - window) / stride) + 1, ..., C].

    Raises:
      ValueError: the input is smaller than window - stride + 1, so that no window starts inside it.
    """
    sizes = [-(-(size - window) // stride) + 1 for size in x.shape[1:3]]
    if min(sizes) < 1:
        raise ValueError(
            f"{window}x{window}/{stride} max pooling got {x.shape[1]}x{x.shape[2]}: use larger images or fewer pools"
        )
    overhang = [
        (0, max(0, (out - 1) * stride + window - size)) for out, size in zip(sizes, x.shape[1:3])
    ]
    if uses_matmul():
        x = jnp.pad(x, ((0, 0), *overhang, (0, 0)), constant_values=-jnp.inf)
        for axis in (1, 2):
            x = functools.reduce(jnp.maximum, window_slices(x, axis, window, stride))
        return x
    # A plain float, not an array: in bfloat16 only a scalar literal keeps reduce_window differentiable.
    return lax.reduce_window(
        x,
        -float("inf"),
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), *overhang, (0, 0)),
    )


def relu_max_pool(x: jax.Array, window: int = 3, stride: int = 2, *, train: bool) -> jax.Array:
    """ReLU, then `max_pool`.

    In training the pool comes first, which is the same, since the largest input has the largest activation: the gradient's mask is
    then that of the few that were chosen, and the large array is read and written fewer times. Where there is no gradient ReLU
    stays beside the convolution, into which every engine fuses it.
    """
    return (
        jax.nn.relu(max_pool(x, window, stride))
        if train
        else max_pool(jax.nn.relu(x), window, stride)
    )


def concat_channels(
    parts: Sequence[jax.Array], activation: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """`activation`, which treats channels alike, of parts [N, H, W, C1], [N, H, W, C2], ... concat_channels to [N, H, W, C1 + C2 + ...].

    On a CPU it is taken of each part, and the results are concat_channels as matrices. Where a product with a constant follows, XLA then
    multiplies each part by its rows of the constant, and never writes the whole.
    """
    if not uses_matmul():
        return activation(jnp.concatenate(parts, axis=-1))
    parts = [activation(part) for part in parts]
    matrix = jnp.concatenate([part.reshape(-1, part.shape[-1]) for part in parts], axis=-1)
    return matrix.reshape(*parts[0].shape[:-1], -1)


def global_average_pool(x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, C]: the mean over all positions, in float32 whatever the input's type."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
      x: [N, ...].
      key: one PRNG key, or one an example [N]; with one an example the masks do not depend on how a batch is divided
        over devices.
    """
    if rate == 0.0:
        return x
    keys = key if key.ndim else jax.random.split(key, x.shape[0])
    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def fold_in(key: jax.Array, salt: int) -> jax.Array:
    """A key, or keys one an example [N], for one of several uses."""
    return (
        jax.vmap(jax.random.fold_in, (0, None))(key, salt)
        if key.ndim
        else jax.random.fold_in(key, salt)
    )


def flatten(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[N, H, W, C] -> [N, H * W * C], for a fully connected layer that was made for `size` positions.

    Raises:
      ValueError: another size.
    """
    if x.shape[1:3] != size:
        raise ValueError(
            f"the fully connected layers need {size[0]}x{size[1]} positions, got {x.shape[1]}x{x.shape[2]}: another image size"
        )
    return x.reshape(x.shape[0], -1)


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """x / (1 + alpha / size * sum of squares over `size` neighbouring channels)^beta, as in Caffe (Krizhevsky 2012, section 3.3)."""
    half, channels = size // 2, x.shape[-1]
    squares = jnp.pad(jnp.square(x), ((0, 0), (0, 0), (0, 0), (half, half)))
    total = sum(
        lax.slice_in_dim(squares, offset, offset + channels, axis=3) for offset in range(size)
    )
    return x * (1 + alpha / size * total) ** -beta
