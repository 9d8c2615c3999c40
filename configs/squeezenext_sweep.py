"""What do width, depth and version of SqueezeNext buy (arXiv 1803.10615, Tables 1 to 3)?

Claim: depth and width each buy accuracy (59.1 % top-1 at 1.0-23, 69.6 % at 2.0-44), and versions 2
to 5, which move blocks to later stages, keep it at fewer cycles.

python launch.py --config configs/squeezenext_sweep.py              a smoke test, 2 minutes
python launch.py --config configs/squeezenext_sweep.py:cifar10 --config.seeds=1     15 points
python launch.py --config configs/squeezenext_sweep.py:imagenet     the paper's protocol
"""

from squeeze_jax.configs import base
from squeeze_jax.network.preprocessing import height_width

PAPER = [(width, depth, 1) for width in (1.0, 1.5, 2.0) for depth in (23, 34, 44)]
VERSIONS = [(1.0, 23, version) for version in (2, 3, 4, 5)] + [
    (2.0, 23, version) for version in (4, 5)
]
# About a quarter of each depth, so that compiling takes a minute on two cores: (width, blocks)
SHORT = [(width, blocks) for width in (0.5, 1.0) for blocks in ((1, 1, 2, 1), (2, 2, 3, 1))]


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "squeezenext_sweep")
    config.model = base.model("squeezenext_23")
    config.report.update(x="model.depth", label="depth")
    if preset == "imagenet":
        # The authors' solver: 120 epochs of batch 1024, poly decay of power 2, 780 warm-up steps
        # from 0.1.
        config.train.update(
            steps=150_136,
            batch_size=1024,
            learning_rate=0.4,
            schedule="poly",
            power=2.0,
            weight_decay=1e-4,
        )
        config.train.update(warmup=780 / 150_136, warmup_from=0.1)
    if max(height_width(config.data.image_size)) <= 32:  # a 3x3 stem without its stride and pool
        config.model.update(conv1_kernel=3, conv1_stride=1, conv1_pad=1, pool1=False)
    if preset in ("digits", "cifar10", "folder"):
        config.train.update(clip_norm=0.0, learning_rate=0.1, weight_decay=1e-4)
    if preset == "digits":
        config.report.update(x="model.blocks", label="blocks in each stage")
        config.model.update(conv1_filters=16, conv1_stride=2)
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    if config.preset == "digits":
        points = [{"model.width": width, "model.blocks": blocks} for width, blocks in SHORT]
    else:
        points = [
            {"model.width": width, "model.depth": depth, "model.version": version}
            for width, depth, version in PAPER + VERSIONS
        ]
    for point in points:
        for seed in range(config.seeds):
            yield {**point, "seed": seed}
