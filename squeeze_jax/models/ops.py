"""Convolution, pooling and dropout on NHWC arrays, lowered to what each platform runs best.

Two lowerings compute the same numbers (to rounding):

* ``native``: one XLA convolution or window reduction a layer. Accelerators have hardware and kernels for these, and
  `squeeze_jax.trace` reads layers from them.
* ``matmul``: a 1x1 convolution is a dot product; a larger one is explicit patches and a dot product, or patches along the rows
  alone, a dot product with all rows of the kernel, and a sum of its shifted parts, or, where there is no gradient, Winograd's
  transforms and their 16 small products; max pooling is an elementwise maximum of strided slices, first down the rows, then along
  them (3 + 3 slices in place of 9, and far fewer bytes in the gradient). XLA's own convolutions, window reductions and their
  gradients are slow on a CPU. So are patches that don't stay in its caches: a batch is worked on in `best_parts`.

Nobody else names a lowering's internals: models call `conv2d` and `max_pool`, the training step wraps its trace in
`lowering(best_lowering(platform))`. experiments/benchmarks has what each of this is worth.
"""

import contextlib
import contextvars
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

Lowering = Literal["native", "matmul"]
Padding = tuple[tuple[int, int], tuple[int, int]]

Observer = Callable[[nnx.Module, jax.Array, Callable[[jax.Array, jax.Array], jax.Array]], jax.Array]

# SqueezeNet v1.0 at 227 wins the two or three seconds back with some hundred images, smaller nets with more.
_FEW_PIXELS = 100 * 227**2

_chosen: contextvars.ContextVar[Lowering | None] = contextvars.ContextVar("lowering", default=None)
_observer: contextvars.ContextVar[Observer | None] = contextvars.ContextVar("observer", default=None)


def best_lowering(platform: str, pixels: float = math.inf) -> Lowering:
    """The faster lowering on `platform`.

    Args:
      platform: "cpu", "gpu" or "tpu".
      pixels: of all images that a net is to see in inference, once it is compiled; its faster lowering on a CPU takes longer to compile.
    """
    return "matmul" if platform == "cpu" and pixels > _FEW_PIXELS else "native"


@contextlib.contextmanager
def lowering(name: Lowering) -> Iterator[None]:
    """Uses the lowering `name` for everything traced inside the block; outside any block the default backend's best."""
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Has `observer` stand in for the linear part of every `Conv` and `Dense` that runs inside the block.

    It is called with the layer, its input, and the function (input, kernel) -> output of that part, without bias or BatchNorm, and
    returns the output. This is how compression learns what each layer sees, and tries kernels in its place.
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def _linear(layer: nnx.Module, x: jax.Array, compute: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """The linear part of a layer, by whoever observes it."""
    if observer := _observer.get():
        return observer(layer, x, compute)
    return compute(x, layer.kernel[...])


def _matmul() -> bool:
    return (_chosen.get() or best_lowering(jax.default_backend())) == "matmul"


def best_parts(images: int, seen_bytes: int, params_bytes: int, *, train: bool) -> int:
    """How many equal parts of a batch are best worked on one after another, so that a CPU's caches hold what a layer multiplies.

    Args:
      images: of the batch; the result divides it.
      seen_bytes: of the largest layer's patches of one image, whether all of them are gathered or not.
      params_bytes: of the net; each part reads them all and, in training, adds to them, so its patches should not be smaller.
      train: whether there is a gradient to share the caches with.
    """
    if not _matmul():
        return 1
    together = max(1, max((4 if train else 16) * 2**20, params_bytes) // seen_bytes)
    return next(parts for parts in range(1, images + 1) if images % parts == 0 and images // parts <= together)


def _taps(x: jax.Array, axis: int, window: int, stride: int) -> list[jax.Array]:
    """The input as each tap of a window along one axis sees it: `window` arrays."""
    reach = (x.shape[axis] - window) // stride * stride + 1
    return [lax.slice_in_dim(x, tap, tap + reach, stride, axis) for tap in range(window)]


def patches(x: jax.Array, window: tuple[int, int], stride: int = 1, padding: Padding = ((0, 0), (0, 0)), groups: int = 1) -> jax.Array:
    """What each position of a convolution's output sees: [N, H, W, Cin] -> [N, H', W', groups, kh * kw * Cin / groups]."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    x = x.reshape(*x.shape[:3], groups, -1)
    for axis in (2, 1):  # along the rows, then whole strips of them: kw + kh pieces in place of kw * kh
        x = jnp.concatenate(_taps(x, axis, window[axis - 1], stride), axis=-1)
    return x


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
        raise ValueError(f"the {kh}x{kw} convolution needs at least that input, got {height}x{width}: use larger images or fewer pools")
    if not _matmul() or groups > 1:
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )
    # Below that many channels 16 products are too small to be worth starting; bfloat16 has no digits to spare for the sums.
    if not train and (kh, kw) == (3, 3) and stride == 1 and x.shape[-1] > 16 and x.dtype == jnp.float32:
        return _winograd(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel)
    # A product a kernel row, or patches of all rows: whichever writes less. A product costs less than its size, as it isn't gathered.
    if kh > 1 and stride == 1 and cout <= 2 * kw * kernel.shape[2]:
        products = _times(patches(x, (1, kw), 1, padding)[..., 0, :], kernel.transpose(1, 2, 0, 3).reshape(-1, kh * cout))
        return sum(tap[..., row * cout : (row + 1) * cout] for row, tap in enumerate(_taps(products, 1, kh, 1)))
    # Large patches in up to four groups of rows where there is no gradient (training has `best_parts`): more of them are still in a
    # cache when they are multiplied. Further groups gain less than they take to compile.
    x, matrix = jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel.reshape(-1, cout)
    rows, columns = (height - kh) // stride + 1, (width - kw) // stride + 1
    groups = 1 if train or kh == 1 else min(rows, 4, -(-len(x) * rows * columns * matrix.nbytes // cout // 2**20))
    bounds = np.linspace(0, rows, groups + 1).astype(int)
    seen = [x[:, first * stride : (last - 1) * stride + kh] for first, last in itertools.pairwise(bounds)]
    return jnp.concatenate([_times(patches(part, (kh, kw), stride)[..., 0, :], matrix) for part in seen], axis=1)


@jax.custom_vjp
def _times(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """[..., K] times [K, C], with the gradient that a CPU multiplies fastest."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _times_backward(seen: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, matrix = seen
    # The few channels of dy on the left, and the result transposed: twice as fast as x on the left, which is what JAX derives.
    rows = [array.reshape(-1, array.shape[-1]) for array in (dy, x)]
    return lax.dot_general(dy, matrix, (((x.ndim - 1,), (1,)), ((), ()))), lax.dot_general(*rows, (((0,), (0,)), ((), ()))).T


_times.defvjp(lambda x, matrix: (_times(x, matrix), (x, matrix)), _times_backward)


def _winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3x3 convolution at stride 1 in 16 multiplications for each 2x2 outputs, in place of 36 (Lavin and Gray 2015, arXiv 1509.09308).

    Along each axis F(2, 3): two outputs of a filter (a, b, c) over four inputs (p, q, r, s) take the four products of
    (p - r, q + r, r - q, q - s) with (a, (a + b + c) / 2, (a - b + c) / 2, c), m0 ... m3: m0 + m1 + m2 and m1 - m2 - m3.
    """

    def inputs(x: jax.Array, axis: int) -> list[jax.Array]:
        p, q, r, s = _taps(x, axis, 4, 2)
        return [p - r, q + r, r - q, q - s]

    def filters(kernel: jax.Array) -> list[jax.Array]:
        a, b, c = kernel
        return [a, (a + b + c) / 2, (a - b + c) / 2, c]

    def outputs(m: Sequence[jax.Array]) -> list[jax.Array]:
        return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]

    height, width = x.shape[1] - 2, x.shape[2] - 2
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    tiles = [tile for rows in inputs(x, 1) for tile in inputs(rows, 2)]
    products = [_times(tile, matrix) for tile, matrix in zip(tiles, [each for rows in filters(kernel) for each in filters(rows)])]
    columns = [outputs(products[column::4]) for column in range(4)]
    y = jnp.stack([jnp.stack(outputs(row), 3) for row in zip(*columns)], 2)  # [N, H' / 2, 2, W' / 2, 2, Cout]
    return y.reshape(len(x), 2 * y.shape[1], 2 * y.shape[3], -1)[:, :height, :width]


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
        raise ValueError(f"{window}x{window}/{stride} max pooling got {x.shape[1]}x{x.shape[2]}: use larger images or fewer pools")
    overhang = [(0, max(0, (out - 1) * stride + window - size)) for out, size in zip(sizes, x.shape[1:3])]
    if _matmul():
        x = jnp.pad(x, ((0, 0), *overhang, (0, 0)), constant_values=-jnp.inf)
        for axis in (1, 2):
            x = functools.reduce(jnp.maximum, _taps(x, axis, window, stride))
        return x
    # A plain float, not an array: in bfloat16 only a scalar literal keeps reduce_window differentiable.
    return lax.reduce_window(x, -float("inf"), lax.max, (1, window, window, 1), (1, stride, stride, 1), ((0, 0), *overhang, (0, 0)))


def relu_max_pool(x: jax.Array, window: int = 3, stride: int = 2, *, train: bool) -> jax.Array:
    """ReLU, then `max_pool`.

    In training the pool comes first, which is the same, since the largest input has the largest activation: the gradient's mask is
    then that of the few that were chosen, and the large array is read and written fewer times. Where there is no gradient ReLU
    stays beside the convolution, into which every engine fuses it.
    """
    return jax.nn.relu(max_pool(x, window, stride)) if train else max_pool(jax.nn.relu(x), window, stride)


def joined(parts: Sequence[jax.Array], activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """`activation`, which treats channels alike, of parts [N, H, W, C1], [N, H, W, C2], ... joined to [N, H, W, C1 + C2 + ...].

    On a CPU it is taken of each part, and the results are joined as matrices. Where a product with a constant follows, XLA then
    multiplies each part by its rows of the constant, and never writes the whole.
    """
    if not _matmul():
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
    return jax.vmap(jax.random.fold_in, (0, None))(key, salt) if key.ndim else jax.random.fold_in(key, salt)


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


def local_response_norm(x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> jax.Array:
    """x / (1 + alpha / size * sum of squares over `size` neighbouring channels)^beta, as in Caffe (Krizhevsky 2012, section 3.3)."""
    half, channels = size // 2, x.shape[-1]
    squares = jnp.pad(jnp.square(x), ((0, 0), (0, 0), (0, 0), (half, half)))
    total = sum(lax.slice_in_dim(squares, offset, offset + channels, axis=3) for offset in range(size))
    return x * (1 + alpha / size * total) ** -beta


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last. Parameters: scale [C], bias [C]; statistics: mean [C], var [C].

    Where `frozen` is set, training uses and keeps the running statistics (fine-tuning).
    Flax's own draws two keys and compiles four arrays a layer, which makes a deep net seconds slow to build and to trace.
    """

    def __init__(self, channels: int, *, momentum: float = 0.9, epsilon: float = 1e-5):
        self.momentum, self.epsilon, self.frozen = momentum, epsilon, False
        self.scale, self.bias = nnx.Param(np.ones(channels, np.float32)), nnx.Param(np.zeros(channels, np.float32))
        self.mean, self.var = nnx.BatchStat(np.zeros(channels, np.float32)), nnx.BatchStat(np.ones(channels, np.float32))

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[..., C] -> [..., C], in the type of x; statistics are taken in float32."""
        mean, var = self.mean[...], self.var[...]
        if train and not self.frozen:
            axes = tuple(range(x.ndim - 1))
            mean, var = jnp.mean(x, axes, dtype=jnp.float32), jnp.var(x.astype(jnp.float32), axes)
            self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
            self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * var
        scale = self.scale[...] * lax.rsqrt(var + self.epsilon)
        shift = self.bias[...] - mean * scale
        channels = (1,) * (x.ndim - 1) + (-1,)
        return x * scale.astype(x.dtype).reshape(channels) + shift.astype(x.dtype).reshape(channels)


class Conv(nnx.Module):
    """Convolution with bias, or with BatchNorm in the bias's place. Parameters: kernel [kh, kw, Cin/groups, Cout], bias [Cout]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] | int,
        *,
        stride: int = 1,
        padding: tuple[int, int] | int = 0,
        groups: int = 1,
        batch_norm: bool = False,
        kernel_init: Callable,
        rngs: nnx.Rngs,
    ):
        kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        ph, pw = (padding, padding) if isinstance(padding, int) else padding
        self.stride, self.padding, self.groups = stride, ((ph, ph), (pw, pw)), groups
        self.kernel = nnx.Param(kernel_init(rngs.params(), (kh, kw, in_channels // groups, out_channels), jnp.float32))
        if batch_norm:
            self.bn = BatchNorm(out_channels)
        else:
            self.bias = nnx.Param(np.zeros(out_channels, np.float32))

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[N, H, W, Cin] -> [N, H', W', Cout], in the type of x."""
        y = _linear(self, x, functools.partial(self.linear, train=train))
        if hasattr(self, "bn"):
            return self.bn(y, train=train)
        return y + self.bias[...].astype(x.dtype).reshape(1, 1, 1, -1)

    def linear(self, x: jax.Array, kernel: jax.Array, *, train: bool = False) -> jax.Array:
        """The part without bias or BatchNorm, with another kernel [kh, kw, Cin/groups, Cout]."""
        return conv2d(x, kernel.astype(x.dtype), self.stride, self.padding, self.groups, train=train)


class Dense(nnx.Module):
    """Fully connected layer. Parameters: kernel [Cin, Cout] and, if asked for, bias [Cout]."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, kernel_init: Callable, rngs: nnx.Rngs):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (in_features, out_features), jnp.float32))
        if bias:
            self.bias = nnx.Param(np.zeros(out_features, np.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, Cin] -> [N, Cout], in the type of x."""
        y = _linear(self, x, self.linear)
        return y + self.bias[...].astype(x.dtype).reshape(1, -1) if hasattr(self, "bias") else y

    def linear(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The part without bias, with another kernel [Cin, Cout]."""
        return x @ kernel.astype(x.dtype)


def classifier(x: jax.Array, layers: Sequence[Dense], rate: float, train: bool, key: jax.Array | None) -> jax.Array:
    """Fully connected layers with ReLU and, in training, dropout behind all but the last: [N, C] -> logits float32 [N, classes]."""
    *hidden, last = layers
    for index, layer in enumerate(hidden):
        x = jax.nn.relu(layer(x))
        if train and rate:
            x = dropout(x, rate, fold_in(key, index))
    return last(x).astype(jnp.float32)
