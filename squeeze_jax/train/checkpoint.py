"""Saving and restoring a training state: the only file that imports Orbax."""

import errno
from pathlib import Path
from types import TracebackType

from orbax.checkpoint import v1 as ocp

from squeeze_jax.train.state import TrainState


class Checkpoints:
    """The checkpoints of one run, newest kept; a save is atomic, so a kill leaves the previous one whole.

    Use as a context manager: leaving it waits for the save under way.

    Raises (from any method): OSError with errno ENOSPC on a full disk.
    """

    def __init__(self, directory: Path):
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(1),
            cleanup_tmp_directories=True,
        )

    @property
    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState) -> None:
        """Saves in the background; returns once `state` may be donated."""
        with _full_disk_as_oserror():
            self._checkpointer.save_async(int(state.step), state._asdict(), force=True)

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint, with the shapes, types and shardings of `like` (jax.ShapeDtypeStruct leaves will do)."""
        return TrainState(**self._checkpointer.load(self.latest_step, like._asdict()))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with _full_disk_as_oserror():
            self._checkpointer.close()


class _full_disk_as_oserror:
    """TensorStore reports a full disk as a ValueError with errno in its text; callers handle OSError."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None and not isinstance(error, OSError) and "ENOSPC" in str(error):
            raise OSError(errno.ENOSPC, "no space left on the device while saving a checkpoint") from error
