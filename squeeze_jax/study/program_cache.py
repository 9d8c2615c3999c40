"""The compiled program of the latest design point, which its trials share."""

import json

import jax
from ml_collections import ConfigDict

from squeeze_jax.data import Data
from squeeze_jax.train import CompiledTrial, compile_trial


class ProgramCache:
    """Holds the program of one design point: its seeds come one after another and share it."""

    def __init__(self):
        """Starts empty."""
        self._key: str | None = None
        self._program: CompiledTrial | None = None

    def get(self, config: ConfigDict, data: Data) -> CompiledTrial:
        """Returns the program of a config, whatever its seed and its starting weights."""
        train = ConfigDict(config.train.to_dict() | {"init_from": ""})
        key = config_key(config.model, config.data, train)
        if self._program is None or key != self._key:
            self._program = None  # frees the old one's device memory before the new one's is taken
            self._program, self._key = compile_trial(config, data, jax.devices()), key
        return self._program


def config_key(*sections: ConfigDict) -> str:
    """Returns a text that is the same for equal configs."""
    return json.dumps([section.to_dict() for section in sections], sort_keys=True)
