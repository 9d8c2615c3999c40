"""What a trained net is worth on a data set, and what it says of an image."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from squeeze_jax.data import Data, Pipeline
from squeeze_jax.models import ops
from squeeze_jax.net import Net, Tree, forward, split_model
from squeeze_jax.train import parallel, step


def evaluation_sums(
    eval_step: Callable,
    pipeline: Pipeline,
    params: Tree,
    stats: Tree,
    resident: Any,
    devices: parallel.Devices,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Sums over a whole evaluation set (see `metrics.evaluation_sums`), by a step from `parallel.parallel_eval_step`."""
    sums = None
    for batch in pipeline.batches():
        part = eval_step(params, stats, resident, parallel.divide(batch, devices))
        sums = part if sums is None else jax.tree.map(lambda a, b: a + b, sums, part)
        on_batch()
    return jax.device_get(sums)


def percentages(sums: dict[str, Any]) -> dict[str, float]:
    """Evaluation sums as eval_loss (nats), top1 and top5 (%)."""
    weight = float(sums["weight"])
    return dict(eval_loss=float(sums["loss"]) / weight, top1=100 * float(sums["top1"]) / weight, top5=100 * float(sums["top5"]) / weight)


def evaluate(
    net: Net, data: Data, devices: parallel.Devices, batch_size: int = 32, on_batch: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Accuracy of a net.

    Args:
      net: the net.
      data: its images, prepared as the net wants them, with its labels; see `data.evaluation_data`.
      devices: share each batch.
      batch_size: images at a time, over all devices.
      on_batch: called after each batch.

    Returns:
      top1 and top5 (%), eval_loss (nats), images.
    """
    batch_size = len(devices) * -(-batch_size // len(devices))
    pipeline = data.evaluation(batch_size)
    graphdef, params, stats = split_model(net.module())
    eval_step = step.make_eval_step(graphdef, pipeline, "float32", ops.best_lowering(devices[0].platform))
    params, stats, resident = parallel.replicate((params, stats, pipeline.resident), devices)
    sums = evaluation_sums(parallel.parallel_eval_step(eval_step, devices), pipeline, params, stats, resident, devices, on_batch)
    return percentages(sums) | {"images": round(float(sums["weight"]))}


def probabilities(net: Net, images: Sequence[np.ndarray]) -> np.ndarray:
    """Softmax probabilities float32 [N, classes] of preprocessed images [H, W, 3]; one at a time, so that any number compiles once."""
    graphdef, params, stats = split_model(net.module())
    run = jax.jit(lambda image: jax.nn.softmax(forward(graphdef, params, stats, image)[0]))
    return np.concatenate([run(image[None]) for image in images])
