"""The latest compiled trial, which its successors share."""

import gc

import jax

from squeeze_jax.data import Data
from squeeze_jax.train import CompiledTrial, TrialConfig, compile_trial, open_teacher


class ProgramCache:
    """Holds one compiled trial: trials of one design point come one after another and share it."""

    def __init__(self):
        """Starts empty."""
        self._key: tuple | None = None
        self._compiled: CompiledTrial | None = None

    def get(self, config: TrialConfig, data: Data) -> CompiledTrial:
        """Returns the compiled trial of a config, whatever it takes as arguments."""
        key = config.compiled_part(), open_teacher(config, data)
        if self._compiled is None or key != self._key:
            # The old one's device memory is freed before the new one's is taken, and its code: the
            # programs of some 35 designs are as many memory maps as Linux gives a process.
            if self._compiled is not None:
                self._key = self._compiled = None
                gc.collect()
                jax.clear_caches()
            self._compiled, self._key = compile_trial(config, data, jax.devices()), key
        return self._compiled
