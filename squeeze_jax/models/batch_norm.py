"""BatchNorm over fixed groups of images, with the gradient that a CPU computes fastest."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from squeeze_jax.models.conv_backend import uses_matmul
from squeeze_jax.models.functional import max_pool


class BatchNorm(nnx.Module):
    """Normalises a batch over all axes but the last, in groups of images.

    Parameters are scale [C] and bias [C], statistics mean [C] and var [C]. A group is a "ghost
    batch" (Hoffer et al. 2017, arXiv 1705.08741): its images share a mean and a variance, and
    follow one another in the batch, so that nothing depends on how many devices or micro-batches
    the batch is divided over. Where `frozen` is set, training uses and keeps the running statistics
    (fine-tuning). Flax's own BatchNorm draws two keys and compiles four arrays a layer, so that a
    deep net takes seconds more to build and to trace.
    """

    def __init__(self, channels: int, *, momentum: float = 0.9, epsilon: float = 1e-5):
        """Builds the layer, with all images that it sees as one group; see `set_groups`.

        Args:
          channels: size C of the last axis.
          momentum: share of the old running statistics in the new ones.
          epsilon: added to the variance.
        """
        self.momentum, self.epsilon, self.frozen = momentum, epsilon, False
        self.group_images, self.group_devices, self.axis_name = 0, 1, ""
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.mean = nnx.BatchStat(np.zeros(channels, np.float32))
        self.var = nnx.BatchStat(np.ones(channels, np.float32))

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Normalises [N, ..., C] in the type of x; statistics are computed in float32.

        The running statistics move towards the mean, over the groups, of their means and variances.
        """
        if train and not self.frozen:
            return self._normalize(x, self.scale[...])
        scale = self.scale[...] * lax.rsqrt(self.var[...] + self.epsilon)
        shift = self.bias[...] - self.mean[...] * scale
        channels = (1,) * (x.ndim - 1) + (-1,)
        return _affine(x, scale.reshape(channels), shift.reshape(channels))

    def pools_first(self, *, train: bool) -> bool:
        """Returns whether `normalize_pooled` is there for the platform and the layer's state."""
        return train and not self.frozen and not uses_matmul()

    def signs(self) -> jax.Array:
        """Returns the sign of each channel's scale, 1 or -1, [C]."""
        return jnp.where(self.scale[...] < 0, -1.0, 1.0)

    def normalize_pooled(self, x: jax.Array) -> jax.Array:
        """Normalises in training, then takes the 3x3/2 max pool; reads and writes fewer bytes.

        A product with a positive scale and a sum keep the order of values, also rounded, so the
        pool may come first. Then the full array is neither normalised, nor read for the gradient's
        sums.

        Args:
          x: `signs()` times what the layer would normalise, [N, H, W, C].

        Returns:
          [N, H', W', C].
        """
        signs = self.signs()
        return self._normalize(x, self.scale[...].astype(jnp.float32) * signs, signs)

    def _normalize(
        self, x: jax.Array, scale: jax.Array, signs: jax.Array | None = None
    ) -> jax.Array:
        """Normalises x, of `signs` and then pooled if they are given, and moves the statistics."""
        groups = len(x) // self.group_images if self.group_images else 1
        shape, has_pool = x.shape, signs is not None
        if uses_matmul():
            # XLA's sum of products along axis 1 of [1, n, C] is 50 times as slow as of [n, C].
            shape = (-1, x.shape[-1]) if groups == 1 else (groups, -1, x.shape[-1])
        y, mean, var = normalize(
            x.reshape(shape),
            scale,
            self.bias[...],
            self.epsilon,
            self.axis_name if self.group_devices > 1 else "",
            self.group_devices,
            0 if uses_matmul() else groups,
            has_pool,
        )
        mean, var = (values.reshape(groups, -1).mean(0) for values in (mean, var))
        mean = mean * signs if has_pool else mean
        for running, values in ((self.mean, mean), (self.var, var)):
            running[...] = self.momentum * running[...] + (1 - self.momentum) * values
        return y if has_pool else y.reshape(x.shape)


def set_groups(model: nnx.Module, images: int, devices: int = 1, axis_name: str = "") -> None:
    """Sets the groups of every BatchNorm of a module.

    Args:
      model: the module.
      images: of a group that one device has; 0: all that a layer sees.
      devices: how many neighbours along the mapped axis a group spans.
      axis_name: of that axis, where a group spans several devices.
    """
    for _, node in nnx.iter_graph(model):
        if isinstance(node, BatchNorm):
            node.group_images, node.group_devices, node.axis_name = images, devices, axis_name


def normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    axis_name: str,
    devices: int,
    groups: int = 0,
    has_pool: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each group by its own mean and variance; no gradient flows through these two.

    Args:
      x: [groups, n, C], n positions of all images of a group; one group may be [n, C]. Or, where
        `groups` is given, images [N, ..., C]: accelerators lay out N and C in the innermost
        dimensions, so that a reshape to groups would copy the array.
      scale: [C].
      bias: [C].
      epsilon: added to the variance.
      axis_name: of the mapped axis along which a group spans `devices`; "": it lies on one.
      devices: see `axis_name`.
      groups: into which the images are divided; 0: x has an axis of groups.
      has_pool: whether a 3x3/2 max pool follows; the images are [N, H, W, C], the scale positive.

    Returns:
      The normalised x in its type, the means [groups, 1, C] and the biased variances [groups, 1, C]
      or, of one group, [1, C]. Where `groups` is given, they are [groups, C].
    """
    return _normalize(x, scale, bias, epsilon, axis_name, devices, groups, has_pool)


def _normalize_forward(x, scale, bias, epsilon, axis_name, devices, groups, has_pool):
    axes = (1,) if groups else (1,) * (x.ndim - 1)
    scale, bias = (array.reshape((*axes, -1)) for array in (scale, bias))
    wide = x.astype(jnp.float32)
    mean = _group_means(x, groups)

    def two_passes() -> jax.Array:
        return _group_means(jnp.square(wide - _spread(mean, x, groups)), groups)

    if groups and x.dtype != jnp.bfloat16:
        var = two_passes()
    else:
        # In bfloat16 the float32 sums lose less of a channel far from 0 than x itself has.
        var = jnp.maximum(0, _group_means(jnp.square(wide), groups) - jnp.square(mean))
        if not groups:
            var = _unless_far(var, two_passes, mean * lax.rsqrt(var + epsilon))
    if axis_name:
        own = mean
        mean = _group_mean(mean, axis_name, devices)
        var = _group_mean(var + jnp.square(own - mean), axis_name, devices)
    inverse = lax.rsqrt(var + epsilon)
    factor = scale * inverse
    shift = bias - mean * factor
    chosen = max_pool(x) if has_pool else x
    y = _affine(chosen, _spread(factor, x, groups), _spread(shift, x, groups))
    return (y, mean, var), (x, chosen, scale, mean, inverse)


def _normalize_backward(epsilon, axis_name, devices, groups, has_pool, saved, cotangents):
    del epsilon
    x, chosen, scale, mean, inverse = saved
    dy, *_ = cotangents
    # Means over a group of dy and of dy times the normalised x.
    chosen = chosen.astype(jnp.float32)
    dy_mean = _group_means(dy, groups)

    def centred() -> jax.Array:
        return _group_means(dy * (chosen - _spread(mean, x, groups)), groups)

    if groups:
        dy_x_mean = centred()
    else:
        near = _group_means(dy * chosen, groups) - dy_mean * mean
        dy_x_mean = _unless_far(near, centred, mean * inverse)
    dy_x_mean *= inverse
    if has_pool:  # dy is 0 at all other positions
        dy_mean, dy_x_mean = (means * (dy.size / x.size) for means in (dy_mean, dy_x_mean))
    positions = x.size // dy_mean.size  # of a group
    dbias, dscale = (
        positions * jnp.sum(means, tuple(range(means.ndim - 1))) for means in (dy_mean, dy_x_mean)
    )
    if axis_name:
        dy_mean, dy_x_mean = _group_mean(jnp.stack([dy_mean, dy_x_mean]), axis_name, devices)
    # dx = factor (dy - mean of dy - normalised x * mean of (dy * normalised x)), as three terms
    # of one coefficient a channel.
    factor = scale * inverse
    slope = -factor * inverse * dy_x_mean
    constant = -factor * dy_mean - slope * mean
    factor, slope, constant = (_spread(values, x, groups) for values in (factor, slope, constant))
    dx = dy * factor.astype(dy.dtype)
    if has_pool:
        (dx,) = jax.vjp(max_pool, x)[1](dx)
    return dx + _affine(x, slope, constant), dscale, dbias


def _normalize_primal(*arguments) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _normalize_forward(*arguments)[0]


_normalize = jax.custom_vjp(_normalize_primal, nondiff_argnums=(3, 4, 5, 6, 7))
_normalize.defvjp(_normalize_forward, _normalize_backward)


def _unless_far(
    near: jax.Array, exact: Callable[[], jax.Array], deviations: jax.Array
) -> jax.Array:
    """Returns `near`, or what `exact` computes if a channel's mean is many deviations from 0.

    The mean of products minus the product of means then loses digits in float32. An array minus its
    mean has them, but a CPU has to write it.
    """
    return lax.cond(jnp.any(jnp.abs(deviations) > 10), exact, lambda: near)


def _group_means(x: jax.Array, groups: int) -> jax.Array:
    """Averages each group of x in float32; see `normalize`."""
    if not groups:
        return jnp.mean(x, -2, dtype=jnp.float32, keepdims=True)
    of_images = jnp.mean(x, range(1, x.ndim - 1), dtype=jnp.float32)
    return of_images.reshape(groups, -1, x.shape[-1]).mean(1)


def _spread(values: jax.Array, x: jax.Array, groups: int) -> jax.Array:
    """Returns each group's values in a shape that broadcasts to x; see `normalize`."""
    if not groups:
        return values
    of_images = jnp.repeat(values, len(x) // groups, axis=0)
    return of_images.reshape(len(x), *(1,) * (x.ndim - 2), -1)


def _affine(x: jax.Array, factor: jax.Array, constant: jax.Array) -> jax.Array:
    """Computes factor * x + constant in the type of x."""
    return x * factor.astype(x.dtype) + constant.astype(x.dtype)


def _group_mean(values: jax.Array, axis_name: str, devices: int) -> jax.Array:
    """Averages over the `devices` neighbours along an axis that share a group."""
    everyone = lax.all_gather(values, axis_name)
    groups = everyone.reshape(-1, devices, *values.shape).mean(1)
    return groups[lax.axis_index(axis_name) // devices]
