"""Asks after a server that has confirmed something, for as long as that could be lost with it.

Whoever invalidates something and then asks nothing would not learn that another server has taken the place of this one,
or the same one an older snapshot, and others would be served what was revived. So it is asked now and then, and so is
one that has yet to be told something.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any, Final

from fast_cache.backends.redis.invalidations import Invalidations
from fast_cache.backends.redis.rounds import Around, Rounds
from fast_cache.ports import BLOCKING, Port, run_blocking

EVERY: Final = 0.5
"""Seconds between two looks."""


class Watch(Rounds):
    """Looks while something that was confirmed could be lost, or something is owed.

    Args:
        look: asks the server something, unless others do; raises nothing where it is away.
        around: what is put around all looks.
    """

    name = "fast_cache watch"

    def __init__(
        self,
        invalidations: Invalidations,
        look: Callable[[Port], Coroutine[Any, Any, None]],
        around: Around = nullcontext,
    ) -> None:
        self._invalidations = invalidations
        self._look = look
        super().__init__(EVERY, around)

    def needed(self) -> bool:
        return self._invalidations.unsafe()

    def go(self) -> None:
        run_blocking(self._look(BLOCKING))
