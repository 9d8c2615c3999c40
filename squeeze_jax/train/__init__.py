"""Training one net: pure steps, data parallelism, checkpoints and the loop that ties them together."""

from squeeze_jax.train.finetune import completed
from squeeze_jax.train.interrupt import Interrupted, interruptible
from squeeze_jax.train.loop import Program, build_program, check_config, total_steps, train

__all__ = ["Interrupted", "Program", "build_program", "check_config", "completed", "interruptible", "total_steps", "train"]
