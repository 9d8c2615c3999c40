"""Which net makes more of equal parameters: SqueezeNet, SqueezeNet with BatchNorm or SqueezeNext?

Claim: SqueezeNext has 62.6 % top-1 from 1.2 M parameters (arXiv 1803.10615, Table 1), SqueezeNet
57.5 %. SqueezeNext has BatchNorm, so SqueezeNet is trained with it too, all under one recipe.

python launch.py --config configs/equal_params.py             9 of 180,000 parameters, 2 minutes
python launch.py --config configs/equal_params.py:cifar10     730,000; see experiments/equal_params
python launch.py --config configs/equal_params.py:imagenet    1,240,000 parameters each
"""

import copy

from ml_collections import ConfigDict

from squeeze_jax.configs import base
from squeeze_jax.network.preprocessing import height_width

NETS = ("squeezenet", "squeezenet_bn", "squeezenext")


def get_config(preset: str = "digits"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "equal_params")
    config.net = NETS[0]  # of one trial; the sweep sets it
    config.nets = ConfigDict(
        {name: copy.deepcopy(config.model) for name in NETS[:2]}
        | {NETS[2]: base.model("squeezenext_23")}
    )
    config.nets.squeezenet.batch_norm = False
    config.nets.squeezenet_bn.batch_norm = True
    if preset.startswith("imagenet"):
        config.nets.squeezenext.depth = 44
    else:
        config.nets.squeezenext.blocks = (6, 6, 8, 2)
    if max(height_width(config.data.image_size)) <= 32:  # a 3x3 stem without its pool
        config.nets.squeezenext.update(conv1_kernel=3, conv1_stride=1, conv1_pad=1, pool1=False)
    if preset == "digits":
        config.nets.squeezenet.squeeze_ratio = config.nets.squeezenet_bn.squeeze_ratio = 0.5
        config.nets.squeezenext.update(
            width=0.75, blocks=(2, 2, 2, 1), conv1_filters=16, conv1_stride=2
        )
    config.report.update(x="net", label="net")
    config.report.claim.update(kind="best", value="squeezenext")
    return config


def sweep(config):
    """Yields the overrides of each trial."""
    for net in NETS:
        for seed in range(config.seeds):
            yield {"net": net, "seed": seed}


def derive(config):
    """Sets the model of the net."""
    with config.unlocked():
        config.model = config.nets[config.net]
