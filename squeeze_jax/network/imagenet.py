"""The preprocessing that the released ImageNet nets expect, and the names of the 1,000 classes."""

from importlib import resources

from squeeze_jax.network import Preprocessing

# The released Caffe training definitions: squashed to 256x256, crop 227, BGR minus the means.
CAFFE = Preprocessing(227, 256, "squash", "bgr", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0))
# torchvision's and pytorchcv's evaluation: short side 256, crop 224, RGB. Their mean and deviation
# are of 0..1, these of 0..255.
TORCH = Preprocessing(224, 256, "short", "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def class_names() -> tuple[str, ...]:
    """Returns the classes of ILSVRC-2012 by label, such as "n01440764 tench".

    A name is the WordNet 3.0 identifier, which gives the order, and its first lemma.
    """
    listing = resources.files("squeeze_jax.network").joinpath("imagenet_classes.txt")
    return tuple(listing.read_text().splitlines())
