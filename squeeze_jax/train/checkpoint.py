"""Saving and restoring a training state: the only file that imports Orbax, and when it is used."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from squeeze_jax import storage
from squeeze_jax.errors import UserError
from squeeze_jax.files import WriteError, new_folder, remove, write_errors
from squeeze_jax.network import Network, Tree, weight_shapes
from squeeze_jax.network.metadata import validate_metadata
from squeeze_jax.train.state import TrainState

# What a network is and its weights, in the folder of a trial or of `save_network`.
CONFIG_FILE, WEIGHTS = "config.json", "checkpoints"
# Beside them in a trial's folder.
METRICS_FILE, CLASSES_FILE = "metrics.jsonl", "classes.json"
_MARKER = ".folder"  # keeps a folder of object storage


class Checkpoints:
    """The checkpoints of one run, of which the newest is kept.

    A save is atomic, so that a kill leaves the previous one whole. Use as a context manager:
    leaving it waits for the save under way. Where the disk is full or cannot be written, any method
    raises WriteError, and leaving it removes what was half written.
    """

    def __init__(self, directory: Path):
        from orbax.checkpoint import v1 as ocp

        self._directory = directory
        context = ocp.Context()
        # Each replica would save a slice of each array, and compile a program for each slice.
        context.array.saving.use_replica_parallel = False
        with write_errors(directory):
            if storage.is_remote(directory):
                # Orbax removes in the background what a kill left half written. A folder that holds
                # nothing else is gone with it, perhaps while Orbax lists it.
                storage.create(directory / _MARKER, b"")
            self._checkpointer = ocp.training.Checkpointer(
                str(storage.absolute(directory)),
                preservation_policy=_keeps_latest(),
                cleanup_tmp_directories=True,
                context=context,
            )
        self._saved_step = self.latest_step

    @property
    def latest_step(self) -> int | None:
        """Returns the step of the newest whole checkpoint, None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState) -> None:
        """Saves in the background; returns once `state` may be donated.

        Does nothing at a step that is saved already: the states of one step are equal.
        """
        if (step := int(state.step)) == self._saved_step:
            return
        with write_errors(self._directory):
            self._checkpointer.save_async(step, _saved_parts(state), force=True)
        self._saved_step = step

    def restore(self, like: TrainState) -> TrainState:
        """Returns the newest checkpoint, with the shapes, types and shardings of `like`.

        Leaves of `like` may be jax.ShapeDtypeStruct. A checkpoint from before the learning rate was
        part of the optimizer's state lacks that; training sets it anew at each step.
        """
        step, wanted = self.latest_step, _saved_parts(like)
        saved = self._checkpointer.metadata(step).metadata["opt_state"]
        if isinstance(saved, dict) and "hyperparams" in saved:
            return like._replace(**self._checkpointer.load(step, wanted))
        injected = like.opt_state
        wanted["opt_state"] = injected.inner_state
        found = self._checkpointer.load(step, wanted)
        zeros = jax.tree.map(
            lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding),
            injected._replace(inner_state=()),
        )
        found["opt_state"] = zeros._replace(inner_state=found["opt_state"])
        return like._replace(**found)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = isinstance(error, WriteError)
        try:
            with write_errors(self._directory):
                self._checkpointer.close()
        except WriteError:
            failed = True
            raise
        finally:
            for partial in self._directory.glob("*.orbax-checkpoint-tmp") if failed else ():
                remove(partial)


def _saved_parts(state: TrainState) -> dict[str, Any]:
    """Returns the state by name, without what a recipe leaves empty, as it always was saved."""
    parts = state._asdict()
    for name in ("average", "teacher_views"):
        if not jax.tree.leaves(parts[name]):
            del parts[name]
    return parts


def _keeps_latest() -> Any:
    """Returns the policy that keeps one checkpoint; Orbax's types disagree on its argument."""
    from orbax.checkpoint import v1 as ocp

    return ocp.training.preservation_policies.LatestN(1)


def save_network(network: Network, directory: Path) -> None:
    """Writes a network as a trial's folder holds it: config.json and checkpoints/.

    Raises:
      UserError: the folder exists already.
      WriteError: it cannot be written; nothing is left behind.
    """
    from orbax.checkpoint import v1 as ocp

    with new_folder(directory) as partial:
        weights = str(storage.absolute(partial / WEIGHTS))
        with ocp.training.Checkpointer(weights) as checkpointer:
            checkpointer.save(0, jax.device_put({"params": network.params, "stats": network.stats}))
        (partial / CONFIG_FILE).write_text(json.dumps(network.metadata(), indent=1))


def read_record(directory: Path) -> tuple[dict[str, Any], tuple[Tree, Tree]]:
    """Returns what config.json in a trial's folder says of its network, and the weights' shapes.

    See `Network.metadata` and `weight_shapes`.

    Raises:
      UserError: the file is damaged, or describes no network.
    """
    path = directory / CONFIG_FILE
    try:
        record = json.loads(path.read_text())
        # Older versions trained classes of folders whose names are no Unicode.
        names = [ascii(name) if isinstance(name, str) else name for name in record["class_names"]]
        validate_metadata({**record, "class_names": names}, None)
        shapes = weight_shapes(record)
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise UserError(f"{path} is damaged, or no trial's: {e}") from e
    return record, shapes


def load_network(directory: Path) -> Network:
    """Returns the network of a trial's folder, or of one that `save_network` wrote.

    A trial with `train.ema_decay` has averaged weights.

    Raises:
      UserError: there is none, it has no checkpoint yet, or its files are damaged.
    """
    from orbax.checkpoint import v1 as ocp

    if not (directory / CONFIG_FILE).is_file():
        trials = sorted(path.parent for path in directory.glob(f"trials/*/{CONFIG_FILE}"))
        hint = f"; its trials are, such as {trials[0]}" if trials else f": it has no {CONFIG_FILE}"
        raise UserError(f"{directory} is no checkpoint{hint}")
    record, (params, stats) = read_record(directory)
    whole = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        {"params": params, "stats": stats},
    )
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # of a training state only these two
    with ocp.training.Checkpointer(str(storage.absolute(directory / WEIGHTS))) as checkpointer:
        if checkpointer.latest is None:
            raise UserError(f"{directory} has no checkpoint yet")
        step = checkpointer.latest.step
        try:
            # Outside the context, in which Orbax cannot load after it.
            averaged = "average" in checkpointer.metadata(step).metadata
            with context:
                saved = checkpointer.load(step, {"average": shapes} if averaged else shapes)
        except Exception as e:  # whatever the storage layers below Orbax raise on damaged files
            raise UserError(
                f"cannot read the checkpoint in {directory / WEIGHTS}: "
                f"{str(e).strip().partition(chr(10))[0]}"
            ) from e
    weights = saved["average"] if averaged else saved
    return Network.from_metadata(
        record, jax.device_get(weights["params"]), jax.device_get(weights["stats"])
    )
