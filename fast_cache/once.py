"""Warnings that are given once, and outages that are logged once.

A cache is called thousands of times a second; what it has to say about one cause is said one time. The memory of
what was said is bounded.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Final

from fast_cache.errors import BackendError, BackendUnavailable

logger: Final = logging.getLogger("fast_cache")

_REMEMBERED: Final = 4096
_said: OrderedDict[tuple[str, ...], None] = OrderedDict()
_lock = threading.Lock()


def warn_once(message: str, *about: str) -> None:
    """Log ``message`` as a warning, unless it was logged before about the same things.

    ``about`` are identifiers (a function, a parameter, a kind of trouble), never values.
    """
    with _lock:
        if about in _said:
            return
        _said[about] = None
        if len(_said) > _REMEMBERED:
            _said.popitem(last=False)
    logger.warning(message)


class Health:
    """Whether a store works, told to the log once when it stops and once when it is back.

    A store that can't be reached is back with whatever works next. One that refuses a kind of step, such as writing
    when it is full, is back when that kind works: its other steps say nothing about it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._failing: set[str] = set()
        self.failures = 0
        """Failed steps since the start."""

    @property
    def failing(self) -> bool:
        return bool(self._failing)

    def failed(self, step: str, error: BackendError) -> None:
        """Count a failed step; log the first one of an outage."""
        with self._lock:
            self.failures += 1
            first = not self._failing
            self._failing.add(_ANYTHING if isinstance(error, BackendUnavailable) else step)
        if first:
            # Our own words may be shown; those of a driver may quote a password, an address or a value.
            why = str(error) if error.setting else type(error.__cause__ or error).__name__
            logger.warning(
                "%s fails (%s); calls run uncached until it is back. Logged once per outage.", self.name, why
            )

    def works(self, step: str) -> None:
        """A step succeeded."""
        if self._failing:
            with self._lock:
                failed_before = bool(self._failing)
                self._failing -= {_ANYTHING, step}
                back = failed_before and not self._failing
            if back:
                logger.info("%s works again", self.name)


_ANYTHING: Final = "anything"
"""Stands among the failing steps for a store that can't be reached at all."""
