"""The layers that the models are made of, and a way to stand in for their linear parts."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from squeeze_jax.models.functional import conv2d, dropout, fold_in

Interceptor = Callable[
    [nnx.Module, jax.Array, Callable[[jax.Array, jax.Array], jax.Array]], jax.Array
]


_interceptor: contextvars.ContextVar[Interceptor | None] = contextvars.ContextVar(
    "interceptor", default=None
)


@contextlib.contextmanager
def intercept_layers(interceptor: Interceptor) -> Iterator[None]:
    """Has `interceptor` stand in for the linear part of every `Conv` and `Dense` that runs inside the block.

    It is called with the layer, its input, and the function (input, kernel) -> output of that part, without bias or BatchNorm, and
    returns the output. This is how compression learns what each layer sees, and tries kernels in its place.
    """
    token = _interceptor.set(interceptor)
    try:
        yield
    finally:
        _interceptor.reset(token)


def _linear(
    layer: nnx.Module, x: jax.Array, compute: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """The linear part of a layer, by whoever observes it."""
    if interceptor := _interceptor.get():
        return interceptor(layer, x, compute)
    return compute(x, layer.kernel[...])


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last. Parameters: scale [C], bias [C]; statistics: mean [C], var [C].

    Where `frozen` is set, training uses and keeps the running statistics (fine-tuning).
    Flax's own draws two keys and compiles four arrays a layer, which makes a deep net seconds slow to build and to trace.
    """

    def __init__(self, channels: int, *, momentum: float = 0.9, epsilon: float = 1e-5):
        self.momentum, self.epsilon, self.frozen = momentum, epsilon, False
        self.scale, self.bias = (
            nnx.Param(np.ones(channels, np.float32)),
            nnx.Param(np.zeros(channels, np.float32)),
        )
        self.mean, self.var = (
            nnx.BatchStat(np.zeros(channels, np.float32)),
            nnx.BatchStat(np.ones(channels, np.float32)),
        )

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
        self.kernel = nnx.Param(
            kernel_init(rngs.params(), (kh, kw, in_channels // groups, out_channels), jnp.float32)
        )
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
        return conv2d(
            x, kernel.astype(x.dtype), self.stride, self.padding, self.groups, train=train
        )


class Dense(nnx.Module):
    """Fully connected layer. Parameters: kernel [Cin, Cout] and, if asked for, bias [Cout]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        kernel_init: Callable,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(
            kernel_init(rngs.params(), (in_features, out_features), jnp.float32)
        )
        if bias:
            self.bias = nnx.Param(np.zeros(out_features, np.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, Cin] -> [N, Cout], in the type of x."""
        y = _linear(self, x, self.linear)
        return y + self.bias[...].astype(x.dtype).reshape(1, -1) if hasattr(self, "bias") else y

    def linear(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The part without bias, with another kernel [Cin, Cout]."""
        return x @ kernel.astype(x.dtype)


def classify(
    x: jax.Array, layers: Sequence[Dense], rate: float, train: bool, key: jax.Array | None
) -> jax.Array:
    """Fully connected layers with ReLU and, in training, dropout behind all but the last: [N, C] -> logits float32 [N, classes]."""
    *hidden, last = layers
    for index, layer in enumerate(hidden):
        x = jax.nn.relu(layer(x))
        if train and rate:
            x = dropout(x, rate, fold_in(key, index))
    return last(x).astype(jnp.float32)
