"""Training one net: pure steps, data parallelism, checkpoints and the loop that ties them together."""

from squeeze_jax.train.finetune import fill_from_checkpoint
from squeeze_jax.train.interrupt import Interrupted, interruptible
from squeeze_jax.train.loop import CompiledTrial, check_config, compile_trial, total_steps, train

__all__ = [
    "Interrupted",
    "CompiledTrial",
    "compile_trial",
    "check_config",
    "fill_from_checkpoint",
    "interruptible",
    "total_steps",
    "train",
]
