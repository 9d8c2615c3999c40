"""SqueezeNext as a design space (arXiv 1803.10615).

Its options are width, depth, version, groups and deep aggregation.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from squeeze_jax.models import functional, initializers, layers
from squeeze_jax.models.family import Family, Padding, PositiveFloat, PositiveInt, Stride, Variant

# depth -> blocks in each of the four stages. 34 is not published; these counts fit its size.
DEPTHS = {23: (6, 6, 8, 1), 34: (9, 9, 12, 2), 44: (12, 12, 16, 2)}
# version -> (kernel of conv1, blocks of the 23-deep net). Versions 2 to 5 rewire the stage starts.
VERSIONS = {
    1: (7, (6, 6, 8, 1)),
    2: (5, (6, 6, 8, 1)),
    3: (5, (4, 8, 8, 1)),
    4: (5, (2, 10, 8, 1)),
    5: (5, (2, 4, 14, 1)),
}
STAGE_WIDTHS = (32, 64, 128, 256)
XAVIER = initializers.fan_in(1.0, "uniform")


class Block(nnx.Module):
    """Adds two 1x1s, a 3x1, a 1x3 and a 1x1 expansion to their shortcut (paper, Fig. 2).

    BatchNorm and ReLU follow every convolution, the shortcut's included, and another ReLU follows
    the sum, as in the released definitions.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        start: bool,
        rewired: bool,
        stride: int,
        tall_first: bool,
        groups: int,
        rngs: nnx.Rngs,
    ):
        """Builds one block.

        Args:
          in_channels: channels of the input.
          channels: channels of the output.
          start: whether the block starts a stage: its shortcut is then a 1x1 convolution.
          rewired: whether the residual branch of a stage start reads the shortcut's output
            (versions 2 to 5) instead of the block's input.
          stride: stride of a stage start.
          tall_first: whether the 3x1 comes before the 1x3.
          groups: channel groups of the first 1x1, the 3x1 and the 1x3 (2 in the G nets).
          rngs: source of the `params` keys.
        """
        conv = functools.partial(layers.Conv, batch_norm=True, kernel_init=XAVIER, rngs=rngs)
        self.rewired = rewired
        if start:
            self.shortcut = conv(in_channels, channels, 1, stride=stride)
        branch_in, branch_stride = (channels, 1) if rewired or not start else (in_channels, stride)
        tall, wide = ((3, 1), (1, 0)), ((1, 3), (0, 1))  # (kernel, padding)
        (kernel1, pad1), (kernel2, pad2) = (tall, wide) if tall_first else (wide, tall)
        half = channels // 2
        self.reduce1 = conv(branch_in, half, 1, stride=branch_stride, groups=groups)
        self.reduce2 = conv(half, channels // 4, 1)
        self.separable1 = conv(channels // 4, half, kernel1, padding=pad1, groups=groups)
        self.separable2 = conv(half, half, kernel2, padding=pad2, groups=groups)
        self.expand = conv(half, channels, 1)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps [N, H, W, Cin] to [N, H', W', C]."""
        shortcut = jax.nn.relu(self.shortcut(x, train=train)) if hasattr(self, "shortcut") else x
        y = shortcut if self.rewired else x
        for name in ("reduce1", "reduce2", "separable1", "separable2", "expand"):
            y = jax.nn.relu(getattr(self, name)(y, train=train))
        return functional.materialize(jax.nn.relu(shortcut + y))


class SqueezeNext(nnx.Module):
    """Classifies by conv1, four stages of blocks, a 1x1, a mean and a dense layer (Table 4).

    The defaults are 1.0-SqNxt-23. Attributes are conv1, stage1_block1, stage1_block2, ...,
    bottleneck and classifier.
    """

    def __init__(
        self,
        *,
        num_classes: PositiveInt = 1000,
        in_channels: PositiveInt = 3,
        width: PositiveFloat = 1.0,
        depth: Literal[23, 34, 44] = 23,
        version: Literal[1, 2, 3, 4, 5] = 1,
        blocks: Sequence[PositiveInt] | None = None,
        groups: PositiveInt = 1,
        aggregation: bool = False,
        conv1_filters: PositiveInt = 64,
        conv1_kernel: PositiveInt | None = None,
        conv1_stride: Stride = 2,
        conv1_pad: Padding = 0,
        pool1: bool = True,
        bottleneck: PositiveInt = 128,
        separable: Literal["alternate", "wide_first"] = "alternate",
        classifier_bias: bool = False,
        rngs: nnx.Rngs,
    ):
        """Builds the net.

        Args:
          num_classes: outputs of the classifier.
          in_channels: channels of the images.
          width: scales the four stages; conv1 and the bottleneck keep their width, as in the
            released nets.
          depth: 23, 34 or 44, in version 1; 34 is our reading.
          version: 1 to 5. From 2 on, conv1 is 5x5, the stage starts are rewired, and blocks of the
            23-deep net move between stages.
          blocks: blocks of each stage, in place of those of the depth or version.
          groups: 2 for the G nets.
          aggregation: iterative deep aggregation of the stages; our reading, see `_aggregate`.
          conv1_filters: filters of conv1.
          conv1_kernel: height and width of conv1's filters; None takes the version's.
          conv1_stride: stride of conv1.
          conv1_pad: padding of conv1.
          pool1: whether a 3x3/2 max pool follows conv1.
          bottleneck: filters of the 1x1 convolution before the mean.
          separable: "alternate" puts the 3x1 first in the first block, the third, ..., as the
            released nets do; "wide_first" always puts the 1x3 first, as pytorchcv's nets do
            (github osmr/pytorchcv).
          classifier_bias: whether the classifier has a bias; pytorchcv's nets have one, the
            released ones do not.
          rngs: source of the `params` keys.

        Raises:
          ValueError: an option is out of range.
        """
        if version not in VERSIONS:
            raise ValueError(f"version is one of {', '.join(map(str, VERSIONS))}; got {version}")
        if depth not in DEPTHS:
            raise ValueError(
                f"depth is one of {', '.join(map(str, DEPTHS))}; got {depth} "
                "(for others give blocks)"
            )
        if version > 1 and depth != 23 and blocks is None:
            raise ValueError(
                f"versions 2 to 5 are published for depth 23; for depth {depth} give blocks"
            )
        if separable not in ("alternate", "wide_first"):
            raise ValueError(f"separable is alternate or wide_first; got {separable!r}")
        kernel, version_blocks = VERSIONS[version]
        self.blocks = tuple(blocks or (DEPTHS[depth] if version == 1 else version_blocks))
        if len(self.blocks) != len(STAGE_WIDTHS) or min(self.blocks) < 1:
            raise ValueError(f"blocks are four counts above 0; got {self.blocks}")
        widths = [round(width * stage) for stage in STAGE_WIDTHS]
        if any(w < 4 or w % (4 * groups) for w in widths):
            raise ValueError(
                f"width {width} gives stages of {widths} channels, "
                f"which must divide by {4 * groups}"
            )
        self.pool1 = pool1
        conv = functools.partial(layers.Conv, batch_norm=True, kernel_init=XAVIER, rngs=rngs)
        self.conv1 = conv(
            in_channels,
            conv1_filters,
            conv1_kernel or kernel,
            stride=conv1_stride,
            padding=conv1_pad,
        )
        channels, number = conv1_filters, 0
        for stage, (count, stage_width) in enumerate(
            zip(self.blocks, widths, strict=True), start=1
        ):
            for index in range(count):
                number += 1
                block = Block(
                    channels,
                    stage_width,
                    start=index == 0,
                    rewired=version > 1,
                    stride=1 if stage == 1 else 2,
                    tall_first=separable == "alternate" and number % 2 == 1,
                    groups=groups,
                    rngs=rngs,
                )
                setattr(self, f"stage{stage}_block{index + 1}", block)
                channels = stage_width
            if aggregation and stage > 1:
                node = conv(widths[stage - 2] + stage_width, stage_width, 1)
                setattr(self, f"aggregate{stage}", node)
        self.bottleneck = conv(channels, bottleneck, 1)
        self.classifier = layers.Dense(
            bottleneck, num_classes, bias=classifier_bias, kernel_init=XAVIER, rngs=rngs
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits [N, num_classes] in float32.

        Args:
          x: normalised images [N, H, W, 3].
          train: whether BatchNorm uses and updates batch statistics.
          key: unused, as there is no dropout.

        Raises:
          ValueError: the images are too small for the stem.
        """
        if self.pool1:
            x = layers.conv_relu_max_pool(self.conv1, x, train=train)
        else:
            x = jax.nn.relu(self.conv1(x, train=train))
        gathered = x
        for stage, count in enumerate(self.blocks, start=1):
            for index in range(1, count + 1):
                x = getattr(self, f"stage{stage}_block{index}")(x, train=train)
            gathered = self._aggregate(stage, gathered, x, train)
        x = jax.nn.relu(self.bottleneck(gathered, train=train))
        return self.classifier(functional.global_average_pool(x))

    def _aggregate(self, stage: int, shallower: jax.Array, x: jax.Array, train: bool) -> jax.Array:
        """Merges a stage's output into what the shallower stages gave.

        Iterative deep aggregation (Yu et al., arXiv 1707.06484, section 3.1) in our reading, as the
        paper does not define its IDA nets: from the second stage on, what was gathered so far is
        subsampled by two, as the stage starts do, concatenated with the stage's output and merged
        by a 1x1 convolution, BatchNorm and ReLU of the stage's width.
        """
        node = getattr(self, f"aggregate{stage}", None)
        if node is None:
            return x
        return jax.nn.relu(node(jnp.concatenate([shallower[:, ::2, ::2], x], axis=-1), train=train))


# The nets of the paper's tables: depth, then version, width, groups, aggregation.
_PAPER: dict[str, dict[str, Any]] = {
    **{f"{depth}": dict(depth=depth) for depth in DEPTHS},
    **{f"{depth}_ida": dict(depth=depth, aggregation=True) for depth in DEPTHS},
    **{
        f"{depth}_w{name}": dict(depth=depth, width=width)
        for depth in DEPTHS
        for name, width in (("1_5", 1.5), ("2", 2.0))
    },
    **{f"23_v{version}": dict(version=version) for version in (2, 3, 4, 5)},
    **{f"23_v{version}_w2": dict(version=version, width=2.0) for version in (4, 5)},
    "23_g": dict(groups=2),
}
# pytorchcv's nets of that name (github osmr/pytorchcv): a padded 7x7 stem in v5 too, no rewired
# stage starts, the 1x3 always first, a bias in the classifier, and a width that also scales the
# stem and the bottleneck.
_PYTORCHCV: dict[str, dict[str, Any]] = {
    f"{depth}{suffix}_pytorchcv": dict(
        blocks=blocks,
        width=width,
        conv1_filters=int(64 * width),
        bottleneck=int(128 * width),
        conv1_pad=1,
        separable="wide_first",
        classifier_bias=True,
    )
    for depth, blocks in (("23", (6, 6, 8, 1)), ("23_v5", (2, 4, 14, 1)))
    for suffix, width in (("", 1.0), ("_w1_5", 1.5), ("_w2", 2.0))
}

FAMILY = Family(
    SqueezeNext,
    {
        **{f"squeezenext_{name}": Variant(options) for name, options in _PAPER.items()},
        **{
            f"squeezenext_{name}": Variant(options, input_size=224)
            for name, options in _PYTORCHCV.items()
        },
    },
)
