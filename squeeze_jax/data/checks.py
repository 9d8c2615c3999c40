"""Rejects data settings that make no sense together; `config.py` has the range of each."""

from squeeze_jax.data.augment import AUGMENTATIONS, augmentation_names
from squeeze_jax.data.boxes import RANDOM_RESIZED_CROP
from squeeze_jax.data.config import DataConfig
from squeeze_jax.errors import UserError
from squeeze_jax.network.preprocessing import CHANNELS, fits_inside, grey_values


def check_config(config: DataConfig) -> None:
    """Rejects the first setting that makes no sense, with a UserError."""
    choices = {
        "resize_mode": ("squash", "short"),
        "channel_order": tuple(CHANNELS),
        "placement": ("auto", "memory", "stream"),
    }
    for key, allowed in choices.items():
        if (value := getattr(config, key)) not in allowed:
            raise UserError(f"data.{key} must be one of {', '.join(allowed)}, not {value!r}")
    for key in ("image_size", "resize"):
        size = getattr(config, key)
        if isinstance(size, tuple) and len(size) != 2:
            raise UserError(f"data.{key} is one number, or height and width; got {size}")
    if unknown := [name for name in config.augment if name not in AUGMENTATIONS]:
        raise UserError(f"data.augment: {unknown[0]!r} is none of {', '.join(AUGMENTATIONS)}")
    names = augmentation_names(config)
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"data.augment: {twice[0]!r} is on already; name it once")
    if RANDOM_RESIZED_CROP in names and config.pad:
        raise UserError(
            f"data.pad is {config.pad}, but {RANDOM_RESIZED_CROP} takes the place of the crop that "
            "it pads; set it to 0"
        )
    for key in ("crop_area", "crop_ratio", "erase_area", "erase_ratio"):
        if len(value := getattr(config, key)) != 2 or value[0] > value[1]:
            raise UserError(f"data.{key} is two values, the least and the most; got {value}")
    if not fits_inside(config.image_size, config.resize):
        raise UserError(
            f"data.image_size ({config.image_size}) must be positive "
            f"and not exceed data.resize ({config.resize})"
        )
    if len(config.background) != 3:
        raise UserError(f"data.background is three values, RGB; got {config.background}")
    count = CHANNELS[config.channel_order]
    if len(config.mean) != count or len(config.std) != count or min(config.std) <= 0:
        number = {1: "one value", 3: "three values"}[count]
        hint = ""
        if count == 1 and len(config.mean) == len(config.std) == 3:
            mean, std = (grey_values(values, "rgb") for values in (config.mean, config.std))
            hint = f"; those of the luma are about {mean} and {std}"
        raise UserError(
            f"data.mean and data.std need {number} each with data.channel_order="
            f"{config.channel_order}, and data.std positive ones{hint}"
        )


def check_scale(config: DataConfig) -> None:
    """Rejects a mean or deviation of pixels in 0..1, as PyTorch's are, with a UserError.

    Nobody means them of pixels in 0..255: deviations of 1 and a mean of 0 change nothing.
    """
    for key in ("mean", "std"):
        if 0 < max(values := getattr(config, key)) < 1:
            scaled = ", ".join(f"{255 * value:.5g}" for value in values)
            raise UserError(
                f"data.{key} is of pixels in 0..255, and {values} looks like one of 0..1: "
                f"give ({scaled})"
            )
