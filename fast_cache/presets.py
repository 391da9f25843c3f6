"""The strategies of cashews under their names there: each is :meth:`Cache.cached` with certain options.

Their lifetimes are those of cashews: ``ttl`` is how long a value is kept at all, and the second one says from when on
something is done about it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fast_cache.durations import Duration, seconds
from fast_cache.errors import ConfigurationError

if TYPE_CHECKING:
    from fast_cache.decorated import Decorator

_PART = 0.33
"""What part of ``ttl`` the second lifetime is where it is not given, as in cashews."""

_AT_ONCE = "1ms"
"""The shortest lifetime that every store can tell."""


class Presets(ABC):
    """Decorators for those who come from cashews. Every option of :meth:`Cache.cached` may be added."""

    @abstractmethod
    def cached(self, *args: Any, **options: Any) -> Any:
        """Cache the results of a function."""

    def early(self, ttl: Duration, early_ttl: Duration | None = None, **options: Any) -> Decorator:
        """From ``early_ttl`` on, whoever asks starts one refresh behind the callers.

        The same as ``cached(expire=ttl, refresh_ahead=ttl - early_ttl)``.

        Raises:
            ConfigurationError: ``early_ttl`` is not below ``ttl``, or another option can't work.
        """
        whole, part = _two(ttl, early_ttl, "early_ttl")
        decorator: Decorator = self.cached(expire=whole, refresh_ahead=timedelta(seconds=whole - part), **options)
        return decorator

    def soft(
        self,
        ttl: Duration,
        soft_ttl: Duration | None = None,
        exceptions: type[Exception] | Iterable[type[Exception]] | None = None,
        **options: Any,
    ) -> Decorator:
        """From ``soft_ttl`` on the function runs again, and if it raises, the old result is served until ``ttl``.

        The same as ``cached(expire=soft_ttl, stale_if_error=ttl - soft_ttl, errors=exceptions)``.

        Raises:
            ConfigurationError: ``soft_ttl`` is not below ``ttl``, or another option can't work.
        """
        whole, part = _two(ttl, soft_ttl, "soft_ttl")
        decorator: Decorator = self.cached(expire=part, stale_if_error=whole - part, errors=exceptions, **options)
        return decorator

    def failover(
        self, ttl: Duration, exceptions: type[Exception] | Iterable[type[Exception]] | None = None, **options: Any
    ) -> Decorator:
        """The function runs each time; if it raises, the last result is served until ``ttl``.

        Concurrent callers share a run, and after a failure the function is left in peace for a second (``throttle=``).

        Raises:
            ConfigurationError: an option that can't work.
        """
        decorator: Decorator = self.cached(
            expire=_AT_ONCE, stale_if_error=seconds(ttl, option="ttl"), errors=exceptions, **options
        )
        return decorator

    fail = failover

    def hit(self, ttl: Duration, cache_hits: int = 1, update_after: int | None = None, **options: Any) -> Decorator:
        """A result is served ``cache_hits`` times, and refreshed behind the callers after ``update_after`` of these.

        The same as ``cached(expire=ttl, hits=cache_hits, refresh_after=update_after)``.

        Raises:
            ConfigurationError: an option that can't work.
        """
        decorator: Decorator = self.cached(expire=ttl, hits=cache_hits, refresh_after=update_after, **options)
        return decorator

    def locked(self, ttl: Duration, **options: Any) -> Decorator:
        """Of all processes that share the backend one runs the function, and the others wait for its result.

        The same as ``cached(expire=ttl, lock="distributed")``.

        Raises:
            ConfigurationError: an option that can't work, or a backend that can't lock across processes.
        """
        decorator: Decorator = self.cached(expire=ttl, lock="distributed", **options)
        return decorator


def _two(ttl: Duration, other: Duration | None, name: str) -> tuple[float, float]:
    whole = seconds(ttl, option="ttl")
    part = whole * _PART if other is None else seconds(other, option=name)
    if part >= whole:
        raise ConfigurationError(f"{name} ({part:g} s) must be shorter than ttl ({whole:g} s)")
    return whole, part
