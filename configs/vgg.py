r"""VGG-19 and VGG-16, the large baselines of the SqueezeNext paper.

Expected: VGG-19 68.5 % top-1, 88.5 % top-5 (arXiv 1803.10615, Table 2).

python launch.py --config configs/vgg.py:imagenet --config.train.grad_accum_steps=4   370,000 steps
python launch.py --config configs/vgg.py:imagenet --config.model.name=vgg16 \
  --config.train.grad_accum_steps=4
"""

from squeeze_jax.configs import base, squeezenet


def get_config(preset: str = "imagenet"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "vgg")
    config.seeds = 1
    config.model = base.model("vgg19", dropout=0.5)
    config.data.update(resize=256, image_size=224)  # its fully connected layers take no other size
    if preset == "imagenet":
        # The paper's section 3.1: batch 256, rate 0.01, decay 5e-4, 74 epochs; its drops of the
        # rate are a linear decay here.
        config.train.update(steps=370_000, batch_size=256, learning_rate=0.01, weight_decay=5e-4)
        config.data.mirror = True
    return config


sweep = squeezenet.sweep
