"""Convolution and pooling as matrix products and slices, which XLA runs faster on a CPU.

A 1x1 convolution is one matrix product. A larger one is one of three: im2col and a product; im2col
along the rows alone, a product with all rows of the kernel, and a sum of shifted parts; or, without
a gradient, Winograd's transforms and their 16 small products. Max pooling is an elementwise maximum
of strided slices, down the rows, then along them: 3 + 3 slices instead of 9, and far fewer bytes in
the gradient. experiments/benchmarks has what each of these gains.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv2d(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, *, train: bool
) -> jax.Array:
    """Computes `functional.conv2d` of one group of channels by the cheapest of the products.

    Args:
      x: [N, H, W, Cin].
      kernel: [kh, kw, Cin, Cout].
      stride: the same in both directions.
      padding: zeros before and after H and W.
      train: whether there will be a gradient.
    """
    kh, kw, channels, filters = kernel.shape
    # With fewer channels, 16 products are too small to be worth starting. In bfloat16 the sums of
    # the transforms would lose digits.
    winograd_pays = channels > 16 and x.dtype == jnp.float32
    if not train and (kh, kw) == (3, 3) and stride == 1 and winograd_pays:
        return winograd(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel)
    # Writes the products of each kernel row or the patches of all rows, whichever is smaller. The
    # products count half, as they are not gathered.
    if kh > 1 and stride == 1 and filters <= 2 * kw * channels:
        return _conv2d_by_rows(x, kernel, padding)
    return _conv2d_by_patches(x, kernel, stride, padding, train=train)


def _conv2d_by_rows(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Multiplies patches of one row by all rows of the kernel; sums the shifted products."""
    kh, kw, _, filters = kernel.shape
    products = matmul(
        im2col(x, (1, kw), 1, padding)[..., 0, :],
        kernel.transpose(1, 2, 0, 3).reshape(-1, kh * filters),
    )
    return _sum_of_rows(products, kh)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum_of_rows(products: jax.Array, kh: int) -> jax.Array:
    """Adds, for each row of outputs, the products of the kh rows of a kernel that it sees."""
    filters = products.shape[-1] // kh
    taps = enumerate(window_slices(products, 1, kh, 1))
    return jnp.asarray(sum(tap[..., row * filters : (row + 1) * filters] for row, tap in taps))


def _sum_of_rows_backward(kh: int, _: None, dy: jax.Array) -> tuple[jax.Array]:
    padded = jnp.pad(dy, ((0, 0), (kh - 1, kh - 1), (0, 0), (0, 0)))
    return (jnp.concatenate(window_slices(padded, 1, kh, 1)[::-1], -1),)


_sum_of_rows.defvjp(lambda products, kh: (_sum_of_rows(products, kh), None), _sum_of_rows_backward)


def _conv2d_by_patches(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, *, train: bool
) -> jax.Array:
    """Multiplies im2col's patches by the kernel, large ones in up to four groups of rows.

    More of a group's patches are still in a cache when they are multiplied. More groups gain less
    than they take to compile. Training has micro-batches instead.
    """
    kh, kw, _, filters = kernel.shape
    x, matrix = jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel.reshape(-1, filters)
    rows, columns = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    groups = 1
    if not train and kh > 1:
        patch_bytes = len(x) * rows * columns * (matrix.nbytes // filters)
        groups = min(rows, 4, -(-patch_bytes // 2**20))
    bounds = np.linspace(0, rows, groups + 1).astype(int)
    seen = [
        x[:, first * stride : (last - 1) * stride + kh]
        for first, last in itertools.pairwise(bounds)
    ]
    return jnp.concatenate(
        [matmul(im2col(part, (kh, kw), stride)[..., 0, :], matrix) for part in seen], axis=1
    )


def max_pool(x: jax.Array, window: int, stride: int, overhang: Padding) -> jax.Array:
    """Computes max pooling of [N, H, W, C] padded by `overhang`, one axis after the other."""
    x = jnp.pad(x, ((0, 0), *overhang, (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        outputs = (x.shape[axis] - window) // stride + 1
        phases = _phases(x, axis, stride)
        taps = [divmod(tap, stride) for tap in range(window)]
        x = functools.reduce(
            jnp.maximum,
            [lax.slice_in_dim(phases[p], first, first + outputs, axis=axis) for first, p in taps],
        )
    return x


def _slice_phases(x: jax.Array, axis: int, stride: int) -> tuple[jax.Array, ...]:
    """Returns every `stride`-th slice along an axis, from the first on, from the second on, ..."""
    length = x.shape[axis]
    return tuple(lax.slice_in_dim(x, phase, length, stride, axis) for phase in range(stride))


def _phases_backward(
    axis: int, stride: int, length: int, gradients: tuple[jax.Array, ...]
) -> tuple[jax.Array]:
    # XLA's derivative adds arrays with zeros between their elements, which takes longer.
    dx = jnp.stack([_pad_end(dy, axis, gradients[0].shape[axis]) for dy in gradients], axis + 1)
    dx = dx.reshape(*dx.shape[:axis], -1, *dx.shape[axis + 2 :])
    return (lax.slice_in_dim(dx, 0, length, axis=axis),)


_phases = jax.custom_vjp(_slice_phases, nondiff_argnums=(1, 2))
_phases.defvjp(lambda x, axis, stride: (_phases(x, axis, stride), x.shape[axis]), _phases_backward)


def _pad_end(x: jax.Array, axis: int, length: int) -> jax.Array:
    """Pads x with zeros to `length` along an axis."""
    return jnp.pad(x, [(0, length - n if i == axis else 0) for i, n in enumerate(x.shape)])


def concat_channels(
    parts: Sequence[jax.Array], activation: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Applies `activation` to each part [N, H, W, Ci] and joins the results as matrices.

    Where a product with a constant follows, XLA then multiplies each part by its rows of the
    constant and never writes the whole.
    """
    parts = [activation(part) for part in parts]
    matrix = jnp.concatenate([part.reshape(-1, part.shape[-1]) for part in parts], axis=-1)
    return matrix.reshape(*parts[0].shape[:-1], -1)


def window_slices(x: jax.Array, axis: int, window: int, stride: int) -> list[jax.Array]:
    """Returns the input as each tap of a window along one axis sees it: `window` arrays."""
    reach = (x.shape[axis] - window) // stride * stride + 1
    return [lax.slice_in_dim(x, tap, tap + reach, stride, axis) for tap in range(window)]


def im2col(
    x: jax.Array,
    window: tuple[int, int],
    stride: int = 1,
    padding: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
) -> jax.Array:
    """Gathers the patch of inputs that each output position of a convolution sees.

    Args:
      x: [N, H, W, Cin].
      window: kh and kw, the kernel's height and width.
      stride: the same in both directions.
      padding: zeros before and after H and W.
      groups: number of channel groups.

    Returns:
      [N, H', W', groups, kh * kw * Cin / groups].
    """
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    x = x.reshape(*x.shape[:3], groups, -1)
    # Along the rows, then whole strips of them: kw + kh pieces instead of kw * kh.
    for axis in (2, 1):
        x = jnp.concatenate(window_slices(x, axis, window[axis - 1], stride), axis=-1)
    return x


@jax.custom_vjp
def materialize(x: jax.Array) -> jax.Array:
    """Returns x, computed once for all of its readers, and so is its gradient.

    Otherwise XLA computes elementwise operations again in each reader: behind a sum with a
    shortcut, those of all blocks before. It does not look into a call that it may not inline.
    """
    with set_xla_metadata(inlineable="false"):
        return _identity(x)


@jax.jit
def _identity(x: jax.Array) -> jax.Array:
    return lax.optimization_barrier(x)  # JAX drops a call that only returns its argument


materialize.defvjp(lambda x: (materialize(x), None), lambda _, dy: (materialize(dy),))


@jax.custom_vjp
def matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies [..., K] by [K, C]; its gradient is in the order that a CPU multiplies fastest."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _matmul_backward(
    seen: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, matrix = seen
    dy_rows, x_rows = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    dx = lax.dot_general(dy, matrix, (((x.ndim - 1,), (1,)), ((), ())))
    # The narrower array's transpose times the wider one takes down to a quarter of the time of the
    # wider one's times the narrower. Without the barrier, XLA swaps them to save a transpose.
    over_rows = (((0,), (0,)), ((), ()))
    if dy_rows.shape[1] < x_rows.shape[1]:
        return dx, lax.optimization_barrier(lax.dot_general(dy_rows, x_rows, over_rows)).T
    return dx, lax.dot_general(x_rows, dy_rows, over_rows)


matmul.defvjp(lambda x, matrix: (matmul(x, matrix), (x, matrix)), _matmul_backward)


def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a 3x3 convolution at stride 1 in 16 multiplications for each 2x2 outputs, not 36.

    F(2, 3) of Lavin and Gray 2015 (arXiv 1509.09308) along each axis: two outputs of a filter
    (a, b, c) over four inputs (p, q, r, s) take the four products m0 ... m3 of
    (p - r, q + r, r - q, q - s) with (a, (a + b + c) / 2, (a - b + c) / 2, c);
    they are m0 + m1 + m2 and m1 - m2 - m3.

    Args:
      x: padded input [N, H, W, Cin].
      kernel: [3, 3, Cin, Cout].

    Returns:
      [N, H - 2, W - 2, Cout].
    """

    def inputs(x: jax.Array, axis: int) -> list[jax.Array]:
        p, q, r, s = window_slices(x, axis, 4, 2)
        return [p - r, q + r, r - q, q - s]

    def filters(kernel: jax.Array) -> list[jax.Array]:
        a, b, c = kernel
        return [a, (a + b + c) / 2, (a - b + c) / 2, c]

    def outputs(m: Sequence[jax.Array]) -> list[jax.Array]:
        return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]

    height, width = x.shape[1] - 2, x.shape[2] - 2
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    tiles = [tile for rows in inputs(x, 1) for tile in inputs(rows, 2)]
    matrices = [matrix for rows in filters(kernel) for matrix in filters(rows)]
    products = [matmul(tile, matrix) for tile, matrix in zip(tiles, matrices, strict=True)]
    columns = [outputs(products[column::4]) for column in range(4)]
    # [N, H / 2, 2, W / 2, 2, Cout]
    y = jnp.stack([jnp.stack(outputs(row), 3) for row in zip(*columns, strict=True)], 2)
    return y.reshape(len(x), 2 * y.shape[1], 2 * y.shape[3], -1)[:, :height, :width]
