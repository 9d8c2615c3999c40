"""Convolution and pooling as matrix products and slices, which XLA runs faster on a CPU.

A 1x1 convolution is a dot product. A larger one is im2col and a dot product; or im2col along the
rows alone, a dot product with all rows of the kernel, and a sum of its shifted parts; or, where
there is no gradient, Winograd's transforms and their 16 small products. Max pooling is an elementwise
maximum of strided slices, first down the rows, then along them (3 + 3 slices in place of 9, and far
fewer bytes in the gradient). experiments/benchmarks has what each of this is worth.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]


def window_slices(x: jax.Array, axis: int, window: int, stride: int) -> list[jax.Array]:
    """The input as each tap of a window along one axis sees it: `window` arrays."""
    reach = (x.shape[axis] - window) // stride * stride + 1
    return [lax.slice_in_dim(x, tap, tap + reach, stride, axis) for tap in range(window)]


def im2col(
    x: jax.Array,
    window: tuple[int, int],
    stride: int = 1,
    padding: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
) -> jax.Array:
    """What each position of a convolution's output sees: [N, H, W, Cin] -> [N, H', W', groups, kh * kw * Cin / groups]."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    x = x.reshape(*x.shape[:3], groups, -1)
    for axis in (
        2,
        1,
    ):  # along the rows, then whole strips of them: kw + kh pieces in place of kw * kh
        x = jnp.concatenate(window_slices(x, axis, window[axis - 1], stride), axis=-1)
    return x


@jax.custom_vjp
def matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """[..., K] times [K, C], with the gradient that a CPU multiplies fastest."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _matmul_backward(
    seen: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, matrix = seen
    # The few channels of dy on the left, and the result transposed: twice as fast as x on the left, which is what JAX derives.
    rows = [array.reshape(-1, array.shape[-1]) for array in (dy, x)]
    return lax.dot_general(dy, matrix, (((x.ndim - 1,), (1,)), ((), ()))), lax.dot_general(
        *rows, (((0,), (0,)), ((), ()))
    ).T


matmul.defvjp(lambda x, matrix: (matmul(x, matrix), (x, matrix)), _matmul_backward)


def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3x3 convolution at stride 1 in 16 multiplications for each 2x2 outputs, in place of 36 (Lavin and Gray 2015, arXiv 1509.09308).

    Along each axis F(2, 3): two outputs of a filter (a, b, c) over four inputs (p, q, r, s) take the four products of
    (p - r, q + r, r - q, q - s) with (a, (a + b + c) / 2, (a - b + c) / 2, c), m0 ... m3: m0 + m1 + m2 and m1 - m2 - m3.
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
    products = [
        matmul(tile, matrix)
        for tile, matrix in zip(tiles, [each for rows in filters(kernel) for each in filters(rows)])
    ]
    columns = [outputs(products[column::4]) for column in range(4)]
    y = jnp.stack(
        [jnp.stack(outputs(row), 3) for row in zip(*columns)], 2
    )  # [N, H' / 2, 2, W' / 2, 2, Cout]
    return y.reshape(len(x), 2 * y.shape[1], 2 * y.shape[3], -1)[:, :height, :width]
