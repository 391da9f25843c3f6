"""How old a value may be: fresh, due for a refresh, stale but better than waiting, or better than an error.

Pure decisions over durations in seconds. Stores tell how long a value is still fresh; nothing here reads a clock, so
the same rules hold for local memory and for a server with a clock of its own.
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypedDict

from fast_cache.counts import optional_count
from fast_cache.durations import Duration, optional_seconds, seconds
from fast_cache.entry import NEVER
from fast_cache.errors import ConfigurationError, InvalidTypeError
from fast_cache.outcome import Absent

_EARLY_REACH: Final = 10.0
"""From how many load times before expiry on an early refresh is drawn for: earlier ones come once in e^10 = 22,000."""

_THROTTLE: Final = 1.0


class FreshnessOptions(TypedDict, total=False):
    """The options that concern age, as :meth:`Cache.cached` documents them."""

    stale_while_revalidate: Duration | None
    stale_if_error: Duration | None
    errors: type[Exception] | Iterable[type[Exception]] | None
    throttle: Duration | None
    refresh_ahead: Duration | None
    early: float | None
    jitter: float | None
    hits: int | None
    refresh_after: int | None
    timeout: Duration | None
    hard_timeout: Duration | None


class Life(NamedTuple):
    """How long a result is good for, in seconds from the moment it is stored. ``fresh`` is ``None`` for ever.

    After ``fresh`` it is kept ``stale`` seconds more. Within ``due`` seconds no reader has anything to decide; ``None``
    if there never is anything, but that it has expired.
    ``load`` is how long it took to compute. Where it is ``counted`` how often it is found, each reader decides.
    """

    fresh: float | None = None
    stale: float = 0.0
    due: float | None = None
    load: float = 0.0
    counted: bool = False

    @property
    def kept(self) -> float | None:
        """How long it is stored."""
        return None if self.fresh is None else self.fresh + self.stale


class Found(NamedTuple):
    """A stored value. It is fresh for ``fresh_for`` more seconds, of ``lifetime``; stale for so long if negative.

    ``hits`` is how often it was found, this time included, where that is counted. ``tags`` (by their digests, or by
    their names in local memory) and ``version``, which no other value of the key has, are told to those who ask. Of
    several places ``source`` names the one where it was.
    """

    value: Any
    fresh_for: float = NEVER
    lifetime: float = NEVER
    load: float = 0.0
    hits: int = 0
    tags: tuple[Hashable, ...] = ()
    version: bytes | None = None
    source: str = ""


class Verdict(enum.Enum):
    """What to do with a value that was found."""

    FRESH = "fresh"
    """Serve it."""
    DUE = "due"
    """Serve it, and refresh it behind the caller's back."""
    STALE = "stale"
    """The same, of a value that has expired."""
    SPARE = "spare"
    """Load; serve it if that fails or takes too long."""


@dataclass(frozen=True)
class Freshness:
    """The options of one function that concern age. Durations are in seconds.

    RFC 5861 names the two stale windows. ``refresh_ahead`` is in seconds, ``refresh_ahead_part`` of the lifetime.
    """

    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    errors: tuple[type[Exception], ...] = (Exception,)
    throttle: float = _THROTTLE
    refresh_ahead: float = 0.0
    refresh_ahead_part: float = 0.0
    early: float = 0.0
    jitter: float = 0.0
    hits: int = 0
    refresh_after: int = 0
    timeout: float | None = None
    hard_timeout: float | None = None

    @classmethod
    def of(
        cls,
        *,
        expires: bool,
        lifetime: float | None,
        stale_while_revalidate: Duration | None = None,
        stale_if_error: Duration | None = None,
        errors: type[Exception] | Iterable[type[Exception]] | None = None,
        throttle: Duration | None = None,
        refresh_ahead: Duration | None = None,
        early: float | None = None,
        jitter: float | None = None,
        hits: int | None = None,
        refresh_after: int | None = None,
        timeout: Duration | None = None,
        hard_timeout: Duration | None = None,
    ) -> Freshness:
        """Validate the options as a user gives them.

        Args:
            expires: whether the function names a lifetime, and
            lifetime: which, in seconds, if it is always the same.

        Raises:
            ConfigurationError: an option that can't work, or two that contradict each other; the message names both.
        """
        named = {
            "stale_while_revalidate": stale_while_revalidate,
            "stale_if_error": stale_if_error,
            "refresh_ahead": refresh_ahead,
            "early": early,
            "jitter": jitter,
        }
        for option, value in named.items():
            if value is not None and not expires:
                raise ConfigurationError(
                    f"{option} needs expire= beside it, where default_expire does not count: what never expires is "
                    "never stale"
                )
        while_revalidating = optional_seconds(stale_while_revalidate, option="stale_while_revalidate") or 0.0
        on_error = optional_seconds(stale_if_error, option="stale_if_error") or 0.0
        if errors is not None and not on_error:
            raise ConfigurationError("errors needs stale_if_error=: without it every error is raised")
        if throttle is not None and not (on_error or while_revalidating or refresh_ahead or early or refresh_after):
            raise ConfigurationError(
                "throttle needs stale_if_error= or an option that refreshes behind the callers: without one a function "
                "that raised is called by whoever asks next"
            )
        soft = optional_seconds(timeout, option="timeout")
        hard = optional_seconds(hard_timeout, option="hard_timeout")
        if soft is not None and not (while_revalidating or on_error):
            raise ConfigurationError(
                "timeout needs stale_if_error= or stale_while_revalidate=: with nothing stale to give there is nothing "
                "to do but wait; hard_timeout= ends the waiting with an error"
            )
        if soft is not None and hard is not None and soft >= hard:
            raise ConfigurationError(f"timeout ({soft:g} s) must be shorter than hard_timeout ({hard:g} s)")
        if refresh_after is not None and hits is None:
            raise ConfigurationError("refresh_after needs hits=: it says after how many of them")
        most = optional_count(hits, option="hits") or 0
        after = optional_count(refresh_after, option="refresh_after") or 0
        if most and after >= most:
            raise ConfigurationError(f"refresh_after ({after}) must be below hits ({most})")
        shorter = 0.0 if jitter is None else _number(jitter, option="jitter", most=1.0)
        part, ahead = _refresh_ahead(refresh_ahead, lifetime)
        if lifetime is not None and ahead and ahead >= lifetime * (1 - shorter):
            raise ConfigurationError(
                f"refresh_ahead ({ahead:g} s) must be shorter than the shortest lifetime that jitter ({shorter:g}) "
                f"leaves of expire ({lifetime:g} s)"
            )
        return cls(
            stale_while_revalidate=while_revalidating,
            stale_if_error=on_error,
            errors=_exceptions(errors, option="errors"),
            throttle=_THROTTLE if throttle is None else seconds(throttle, option="throttle"),
            refresh_ahead=ahead,
            refresh_ahead_part=part,
            early=_number(early, option="early", most=100.0) if early is not None else 0.0,
            jitter=shorter,
            hits=most,
            refresh_after=after,
            timeout=soft,
            hard_timeout=hard,
        )

    @property
    def soft(self) -> bool:
        """Whether a reader has to know how old a value is."""
        return (
            self.stale > 0 or self.early > 0 or self.refresh_ahead > 0 or self.refresh_ahead_part > 0 or self.hits > 0
        )

    @property
    def impatient(self) -> bool:
        """Whether a caller waits for a limited time."""
        return self.timeout is not None or self.hard_timeout is not None

    def patience(self, spare: Found | None) -> float | None:
        """How long a caller waits for a load, ``spare`` in hand; ``None`` for as long as it takes."""
        return self.timeout if spare is not None and self.timeout is not None else self.hard_timeout

    @property
    def stale(self) -> float:
        """How long a value is kept after it has expired."""
        return max(self.stale_while_revalidate, self.stale_if_error)

    def life(self, lifetime: float | None, load: float) -> Life:
        """How long a result is good for that is to be fresh for ``lifetime`` and took ``load`` seconds to compute."""
        if lifetime is None:
            return Life(due=NEVER, load=load, counted=True) if self.hits else Life(load=load)
        if self.jitter:
            lifetime *= random.uniform(1.0 - self.jitter, 1.0)
        if not self.soft:
            return Life(lifetime, load=load)
        return Life(lifetime, self.stale, self.due(lifetime, lifetime, load), load, counted=self.hits > 0)

    def due(self, fresh_for: float, lifetime: float, load: float) -> float:
        """For how many seconds nobody has anything to decide about a value that is fresh for so long."""
        return max(min(fresh_for - self._ahead(lifetime), fresh_for - _EARLY_REACH * self.early * load), 0.0)

    def judge(self, found: Found) -> Verdict:
        """What to do with ``found``.

        An early refresh is drawn for with a probability that grows towards the expiry, and with the time that a load
        takes: XFetch, from Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention",
        PVLDB 8(8), 2015.
        """
        left = found.fresh_for
        if self.hits and found.hits > self.hits:
            return Verdict.SPARE  # served as often as it may be
        if left > 0:
            if self.refresh_after and found.hits > self.refresh_after:
                return Verdict.DUE
            if left <= self._ahead(found.lifetime):
                return Verdict.DUE
            if self.early and left <= -math.log(1.0 - random.random()) * self.early * found.load:
                return Verdict.DUE
            return Verdict.FRESH
        return Verdict.STALE if -left < self.stale_while_revalidate else Verdict.SPARE

    def forgives(self, error: Exception, spare: Found) -> bool:
        """Whether ``spare`` is to be served in place of ``error``.

        That there is nothing any more is no error, nor is an HTTP status below 500, unless the author says so by
        ``errors``: RFC 5861, section 4, is about servers that fail.
        """
        if type(error) is Absent or not isinstance(error, self.errors) or not self.spares(spare):
            return False
        status = getattr(error, "status_code", None)
        return not (isinstance(status, int) and status < 500) or self.errors != (Exception,)

    def spares(self, spare: Found) -> bool:
        """Whether ``spare`` is young enough to be served in place of an error."""
        return self.stale_if_error > 0 and -spare.fresh_for < self.stale_if_error

    def _ahead(self, lifetime: float) -> float:
        """How long before its end a value is due; a lifetime that is shorter than that has no such time."""
        ahead = self.refresh_ahead or self.refresh_ahead_part * lifetime if lifetime < NEVER else 0.0
        return ahead if ahead < lifetime else 0.0


LASTING: Final = Freshness()
"""Without any of the options: fresh until it expires, and then gone."""


def _refresh_ahead(value: Duration | None, lifetime: float | None) -> tuple[float, float]:
    """As a part of the lifetime, or as seconds; 0 for the other one."""
    if value is None:
        return 0.0, 0.0
    if isinstance(value, float) and 0 < value < 1:
        return value, 0.0
    ahead = seconds(value, option="refresh_ahead")
    if lifetime is not None and ahead >= lifetime:
        raise ConfigurationError(
            f"refresh_ahead ({ahead:g} s) must be shorter than expire ({lifetime:g} s); a float below 1 is a part of it"
        )
    return 0.0, ahead


def _exceptions(errors: Any, *, option: str) -> tuple[type[Exception], ...]:
    if errors is None:
        return (Exception,)
    try:
        types = (errors,) if isinstance(errors, type) else tuple(errors)
    except TypeError:
        types = ()
    if not types or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
        raise InvalidTypeError(f"{option} must be an exception type or several of them")
    return types


def _number(value: object, *, option: str, most: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InvalidTypeError(f"{option} must be a number, not {type(value).__name__}")
    if not 0 < value <= most:
        raise ConfigurationError(f"{option} must be above 0 and at most {most:g}, got {value}")
    return float(value)
