"""Training one network: pure steps, data parallelism, checkpoints, and the loop that uses them."""

from squeeze_jax.train.batches import fitting_batch_size
from squeeze_jax.train.callbacks import Callback, Progress
from squeeze_jax.train.compiled import (
    CompiledTrial,
    check_config,
    checkpoint_bytes,
    compile_trial,
    count_evaluations,
    has_batch_norm,
    total_steps,
)
from squeeze_jax.train.config import TrainConfig, TrialConfig
from squeeze_jax.train.constraints import CONSTRAINTS
from squeeze_jax.train.finetune import describe_start, fill_from_checkpoint
from squeeze_jax.train.interrupt import Interrupted, interruptible
from squeeze_jax.train.loop import train
from squeeze_jax.train.optimizers import OPTIMIZERS
from squeeze_jax.train.teacher import as_teacher, open_teacher
from squeeze_jax.train.teacher_views import check_views, share_asked
from squeeze_jax.train.trackers import TRACKERS
from squeeze_jax.train.weights import open_once

__all__ = [
    "CONSTRAINTS",
    "OPTIMIZERS",
    "TRACKERS",
    "Callback",
    "CompiledTrial",
    "Interrupted",
    "Progress",
    "TrainConfig",
    "TrialConfig",
    "as_teacher",
    "check_config",
    "check_views",
    "checkpoint_bytes",
    "compile_trial",
    "count_evaluations",
    "describe_start",
    "fill_from_checkpoint",
    "fitting_batch_size",
    "has_batch_norm",
    "interruptible",
    "open_once",
    "open_teacher",
    "share_asked",
    "total_steps",
    "train",
]
