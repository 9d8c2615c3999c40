"""Does what costs time now and then, so that it stays a small part of the whole."""

import time
from collections.abc import Callable


class Throttle:
    """Calls a function at most each `least` seconds, and so that it takes at most `share` of them.

    So the cost of each of many events does not grow with what the function has to do.
    """

    def __init__(self, function: Callable[[], object], least: float = 5.0, share: float = 0.05):
        self._function, self._least, self._share = function, least, share
        self._due = 0.0  # the first time at once

    def call(self) -> None:
        """Calls the function if it is due."""
        begun = time.monotonic()
        if begun < self._due:
            return
        self._function()
        ended = time.monotonic()
        self._due = ended + max(self._least, (ended - begun) / self._share)
