"""Defines the layers that the models are made of, and lets a caller replace their linear parts."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from squeeze_jax.models.batch_norm import BatchNorm
from squeeze_jax.models.functional import conv2d, dropout, fold_in, relu_max_pool
from squeeze_jax.models.initializers import Initializer

LinearPart = Callable[[jax.Array, jax.Array], jax.Array]  # (input, kernel) -> output
Interceptor = Callable[["LinearLayer", jax.Array, LinearPart], jax.Array]

_interceptor: contextvars.ContextVar[Interceptor | None] = contextvars.ContextVar(
    "interceptor", default=None
)


@contextlib.contextmanager
def intercept_layers(interceptor: Interceptor) -> Iterator[None]:
    """Replaces the linear part of every `Conv` and `Dense` that runs inside the block.

    Compression uses this to see each layer's input and to try other kernels.

    Args:
      interceptor: called with the layer, its input, and the function (input, kernel) -> output that
        computes the layer without bias or BatchNorm; returns the output.
    """
    token = _interceptor.set(interceptor)
    try:
        yield
    finally:
        _interceptor.reset(token)


def _linear(layer: "LinearLayer", x: jax.Array, compute: LinearPart) -> jax.Array:
    """Computes the linear part of a layer, through the interceptor if there is one."""
    if interceptor := _interceptor.get():
        return interceptor(layer, x, compute)
    return compute(x, layer.kernel[...])


class Conv(nnx.Module):
    """Convolves, then adds a bias or applies BatchNorm.

    Parameters are kernel [kh, kw, Cin / groups, Cout] and bias [Cout], or bn instead of the bias.
    """

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
        kernel_init: Initializer,
        rngs: nnx.Rngs,
    ):
        """Builds the layer.

        Args:
          in_channels: channels of the input, Cin.
          out_channels: filters, Cout.
          kernel_size: kh and kw, or one number for both.
          stride: the same in both directions.
          padding: zeros on either side of the height and of the width, or one number for both.
          groups: number of channel groups.
          batch_norm: BatchNorm in place of the bias.
          kernel_init: initialiser of the kernel.
          rngs: source of the `params` keys.
        """
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

    def pools_first(self, *, train: bool) -> bool:
        """Returns whether the layer itself may take the pool that follows, with fewer bytes."""
        return hasattr(self, "bn") and self.bn.pools_first(train=train)

    def __call__(self, x: jax.Array, *, train: bool = False, pool: bool = False) -> jax.Array:
        """Maps [N, H, W, Cin] to [N, H', W', Cout], in the type of x.

        Args:
          x: the input.
          train: whether there will be a gradient, and BatchNorm uses and updates batch statistics.
          pool: whether to apply the 3x3/2 max pool that follows, too; see `pools_first`.
        """
        if pool:
            signs = self.bn.signs().reshape(1, 1, 1, -1)
            return self.bn.normalize_pooled(
                _linear(self, x, lambda x, kernel: self.linear(x, kernel * signs, train=train))
            )
        y = _linear(self, x, functools.partial(self.linear, train=train))
        if hasattr(self, "bn"):
            return self.bn(y, train=train)
        return y + self.bias[...].astype(x.dtype).reshape(1, 1, 1, -1)

    def linear(self, x: jax.Array, kernel: jax.Array, *, train: bool = False) -> jax.Array:
        """Convolves with a kernel [kh, kw, Cin / groups, Cout], without bias or BatchNorm."""
        return conv2d(
            x, kernel.astype(x.dtype), self.stride, self.padding, self.groups, train=train
        )


def conv_relu_max_pool(conv: Conv, x: jax.Array, *, train: bool) -> jax.Array:
    """Computes a convolution, ReLU and a 3x3/2 max pool in the order that moves fewest bytes."""
    if conv.pools_first(train=train):
        return jax.nn.relu(conv(x, train=train, pool=True))
    return relu_max_pool(conv(x, train=train), train=train)


class Dense(nnx.Module):
    """Multiplies by a matrix and adds a bias.

    Parameters are kernel [Cin, Cout] and, if asked for, bias [Cout].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        kernel_init: Initializer,
        rngs: nnx.Rngs,
    ):
        """Builds the layer.

        Args:
          in_features: size of the input, Cin.
          out_features: size of the output, Cout.
          bias: whether there is a bias.
          kernel_init: initialiser of the kernel.
          rngs: source of the `params` keys.
        """
        self.kernel = nnx.Param(
            kernel_init(rngs.params(), (in_features, out_features), jnp.float32)
        )
        if bias:
            self.bias = nnx.Param(np.zeros(out_features, np.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, Cin] to [N, Cout], in the type of x."""
        y = _linear(self, x, self.linear)
        return y + self.bias[...].astype(x.dtype).reshape(1, -1) if hasattr(self, "bias") else y

    def linear(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Multiplies by a kernel [Cin, Cout], without bias."""
        return x @ kernel.astype(x.dtype)


LinearLayer = Conv | Dense


def classify(
    x: jax.Array, layers: Sequence[Dense], rate: float, train: bool, key: jax.Array | None
) -> jax.Array:
    """Applies fully connected layers, with ReLU and dropout behind all but the last.

    Args:
      x: [N, C].
      layers: the layers, in order.
      rate: dropout rate.
      train: whether dropout is on.
      key: one PRNG key, or one an example [N]; dropout needs it.

    Returns:
      Logits [N, classes], float32.
    """
    *hidden, last = layers
    for index, layer in enumerate(hidden):
        x = jax.nn.relu(layer(x))
        if train and rate:
            x = dropout(x, rate, None if key is None else fold_in(key, index))
    return last(x).astype(jnp.float32)
