"""The config that tests of training share."""

from squeeze_jax.configs import base


def narrow_config():
    """A narrow SqueezeNet on the digits, for a few steps."""
    config = base.get_config("digits", "test")
    config.model.update(
        base_e=8,
        incr_e=8,
        conv1_filters=8,
        squeeze_ratio=0.5,
        num_fire=2,
        pool_after=("conv1", "fire2"),
    )
    config.train.update(steps=6, log_every=3, eval_every=0, batch_size=32, eval_batch_size=180)
    return config
