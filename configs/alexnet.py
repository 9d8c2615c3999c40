"""AlexNet, the baseline of the SqueezeNet paper: what does a classic net cost and reach?

Expected: 57.2 % top-1, 80.3 % top-5, 240 MB (arXiv 1602.07360, Table 2).

python launch.py --config configs/alexnet.py:imagenet     Caffe's recipe, 450,000 steps
python launch.py --config configs/alexnet.py:folder --config.data.data_dir=my_images
"""

from squeeze_jax.configs import base, squeezenet


def get_config(preset: str = "imagenet"):
    """Returns the study's config under a preset."""
    config = base.get_config(preset, "alexnet")
    config.seeds = 1
    config.model = base.model("alexnet", dropout=0.5)
    config.data.update(resize=256, image_size=227)  # its fully connected layers take no other size
    if preset == "imagenet":
        # bvlc_alexnet: batch 256, rate 0.01; its steps of a tenth every 100,000 iterations are a
        # linear decay here.
        config.train.update(steps=450_000, batch_size=256, learning_rate=0.01, weight_decay=5e-4)
        config.data.mirror = True
    return config


sweep = squeezenet.sweep
