"""What a process under fault caches in: Redis alone, or local memory before it; and what it knows of it."""

from __future__ import annotations

from typing import Any, Final

from fast_cache import LayeredBackend, RedisBackend

STALENESS: Final = 1.0
"""Seconds: for how long two tiers may serve what another process has invalidated, if they do not hear of it."""


class Tiers:
    """One tier is Redis alone, two have local memory before it."""

    def __init__(self, url: str, tiers: int, **options: Any) -> None:
        self.redis = RedisBackend(url, **options)
        self.backend = self.redis if tiers == 1 else LayeredBackend(l2=self.redis, max_staleness=STALENESS)

    @property
    def away(self) -> bool:
        """Whether Redis is taken to be away, and left alone."""
        return self.redis._link._breaker.is_open

    @property
    def owes(self) -> bool:
        """Whether there are invalidations that Redis was not told yet."""
        return self.redis._link._invalidations.pending

    @property
    def sure(self) -> bool:
        """Whether what is in local memory, if there is one, is served from there."""
        coherence = self.backend.stats().coherence
        return coherence is None or coherence.sure


def lag(tiers: int) -> float:
    """For how long a process may serve what another one has invalidated."""
    return 0.0 if tiers == 1 else STALENESS
