"""The config that tests of studies with stages share."""

from squeeze_jax.configs import base


def staged_config(study: str, steps: int, **changes):
    """Stages of two seeds, of a net that learns the digits somewhat within seconds."""
    config = base.get_config("digits", study)
    config.stage = ""
    config.seeds = 2
    config.model.update(
        base_e=32,
        incr_e=32,
        conv1_filters=16,
        squeeze_ratio=0.5,
        num_fire=2,
        pool_after=("conv1",),
        batch_norm=True,
    )
    config.train.update(steps=steps, batch_size=64, warmup=0.0, eval_every=0, log_every=11)
    config.update_from_flattened_dict(changes)
    return config
