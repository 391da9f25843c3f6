"""What a function can say about its own result while it computes it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from fast_cache.durations import Duration, optional_seconds
from fast_cache.keys import check_tags
from fast_cache.single_flight import Mark, innermost


class CurrentLoad:
    """The load that the running code is a part of, as ``cache.current`` gives it.

    Where nothing is being loaded (the function was called with ``skip_cache=True``, or before ``init_app``) what is
    said here has no effect. In a function that another cached function calls, it is about the inner one.
    """

    __slots__ = ("_mark",)

    def __init__(self) -> None:
        self._mark = innermost() or Mark()

    @property
    def expire(self) -> float | None:
        """The lifetime of the result in seconds, if one was set here; it comes before ``expire=``.

        Assign seconds, a ``timedelta`` or text such as ``"5m"``; 0 or less means not to store the result.

        Raises:
            ConfigurationError: not a duration.
        """
        return self._mark.expire

    @expire.setter
    def expire(self, lifetime: Duration | None) -> None:
        if isinstance(lifetime, timedelta):
            lifetime = lifetime.total_seconds()
        if isinstance(lifetime, (int, float)) and lifetime <= 0 and lifetime is not False:
            self._mark.skipped = True
        else:
            self._mark.expire = optional_seconds(lifetime, option="expire")

    @property
    def tags(self) -> Tags:
        """The tags of the result, beside those of ``tags=``: ``.tags.add("user:7", "catalogue")``."""
        return Tags(self._mark)

    def skip(self) -> None:
        """Do not store the result. Those who wait for it get it all the same."""
        self._mark.skipped = True


class Tags:
    """The tags that were added to the result of the running function."""

    __slots__ = ("_mark",)

    def __init__(self, mark: Mark) -> None:
        self._mark = mark

    def add(self, *tags: str) -> None:
        """Let the result end when one of ``tags`` is invalidated; also if that happens while it is computed.

        Raises:
            ConfigurationError: not text, empty, too long, or more than 64 in all.
        """
        added = dict.fromkeys(check_tags(tags))
        check_tags((*self._mark.tags, *added))
        self._mark.tags.update(added)  # in one step, because the threads of one load may add tags at once

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._mark.tags))
