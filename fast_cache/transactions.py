"""Transactions: changes of the cache that are made when a block ends well, and forgotten when it does not.

What is collected, and what code in a transaction sees meanwhile, stands in :mod:`fast_cache.backends.pending`; here is
what opens and ends one. Changes that could not be left to a transaction are made by the same steps.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from types import FrameType, TracebackType
from typing import Any, TypeVar

from fast_cache.backends.pending import Change, Pending, deferred, enter, leave
from fast_cache.batches import invalidate_each
from fast_cache.errors import ConfigurationError
from fast_cache.http.refuse import refuse_generators
from fast_cache.once import warn_once
from fast_cache.ports import ASYNCIO, BLOCKING, BatchPort, run_blocking

F = TypeVar("F", bound=Callable[..., Any])


class Transaction:
    """What ``cache.transaction()`` returns: for ``with``, for ``async with``, or above a function."""

    def __init__(self) -> None:
        self._pending: Pending | None = None

    def __enter__(self) -> None:
        self._open(leaves_context=_is_stepped_by_thread())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _settle(run_blocking(_made(BLOCKING, self._end(well=kind is None))))

    async def __aenter__(self) -> None:
        self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _settle(await _made_whole(self._end(well=kind is None)))

    def __call__(self, fn: F) -> F:
        """Run each call of ``fn`` in a transaction of its own."""
        refuse_generators(fn)
        decorated: Any
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def suspending(*args: Any, **kwargs: Any) -> Any:
                async with Transaction():
                    return await fn(*args, **kwargs)

            decorated = suspending
        else:

            @functools.wraps(fn)
            def blocking(*args: Any, **kwargs: Any) -> Any:
                with Transaction():
                    return fn(*args, **kwargs)

            decorated = blocking
        return decorated  # type: ignore[no-any-return]

    def _open(self, *, leaves_context: bool = False) -> None:
        if self._pending is not None:
            raise ConfigurationError("this transaction is open already; call cache.transaction() for another one")
        self._pending = enter(leaves_context=leaves_context)

    def _end(self, *, well: bool) -> list[Change]:
        pending, self._pending = self._pending, None
        assert pending is not None
        return leave(pending, well=well)


def _is_stepped_by_thread() -> bool:
    """Whether a generator is running whose one step is all that its thread has to do: the next one, behind ``yield``,
    is another thread's, in another copy of the context. So FastAPI runs dependencies that are written ``def``.
    """
    if threading.current_thread() is threading.main_thread():
        return False
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        caller = frame.f_back
        if frame.f_code.co_flags & inspect.CO_GENERATOR and (
            _is_worker(caller) or _is_worker(caller and caller.f_back)
        ):
            return True
        frame = caller
    return False


def _is_worker(frame: FrameType | None) -> bool:
    return frame is not None and str(frame.f_globals.get("__name__")).startswith("anyio.")


def make_blocking(changes: Sequence[Change]) -> None:
    """Leave changes to the transaction around, or make them now. What their stores can't be told does not raise."""
    if not deferred(*changes):
        _report(run_blocking(_made(BLOCKING, changes)))


async def make_suspending(changes: Sequence[Change]) -> None:
    """The same, awaiting. A caller who is cancelled meanwhile leaves none behind."""
    if not deferred(*changes):
        _report(await _made_whole(changes))


async def _made_whole(changes: Sequence[Change]) -> Sequence[BaseException]:
    if not changes:
        return ()
    if all(change.store.local for change in changes):
        return run_blocking(_made(BLOCKING, changes))
    return await ASYNCIO.finish(_made(ASYNCIO, changes), at_end=_nothing)


async def _made(port: BatchPort, changes: Iterable[Change]) -> Sequence[BaseException]:
    """Make all changes, in order; what went wrong with some does not keep the others from being made."""
    errors: list[BaseException] = []
    for removes, group in groupby(changes, _removal_of):
        for step in [_together(removes, list(group))] if removes is not None else [one.step for one in group]:
            for _ in range(2):
                try:
                    await step(port)
                    break
                except GeneratorExit:  # it is being thrown away, and must not wait for anything more
                    raise
                except Exception as error:
                    errors.append(error)
                    break
                except (
                    BaseException
                ) as interruption:  # such as the end of the loop: once more, who knows how far it got
                    errors.append(interruption)
    return errors


def _removal_of(change: Change) -> Any:
    """The store, if the change removes one value and nothing else: neighbours then are removed together."""
    return None if change.address is None else change.store


def _together(store: Any, changes: list[Change]) -> Callable[[BatchPort], Any]:
    if len(changes) == 1:
        return changes[0].step
    addresses = list(dict.fromkeys(change.address for change in changes))
    return lambda port: invalidate_each(port, store, addresses)


def _settle(errors: Sequence[BaseException]) -> None:
    """Raise the first of the errors; how many there are besides is a note of it."""
    if errors:
        first = errors[0]
        if len(errors) > 1:
            first.add_note(f"at the end of this transaction {len(errors) - 1} more changes of the cache failed")
        raise first


def _report(errors: Sequence[BaseException]) -> None:
    """Let no trouble of the cache reach who has done something else; what is no error ends the program all the same."""
    for error in errors:
        if not isinstance(error, Exception):
            raise error
        kind = type(error).__name__
        warn_once(f"an invalidation after a write raised {kind}, and what is cached may be old", "after a write", kind)


def _nothing() -> None:
    """At the end of the changes there is nothing to do."""
