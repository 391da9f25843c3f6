"""A cache's start and stop, composed with the life of the application it serves.

Promises: the cache starts before the user's own lifespan and stops after it, however that ends; what the user yields
is handed on as it is; no cache can keep an application from starting or stopping. Relies on
``app.router.lifespan_context`` being read when a life begins, and on nothing else: where no lifespan ever runs (a
mounted application, a test client outside ``with``) the cache merely starts later, at its first use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import Lifespan

from fast_cache.errors import ConfigurationError
from fast_cache.once import logger

Step = Callable[[], Awaitable[None]]

_BOUND: Final = "_fast_cache_bound"


def bind_lifespan(app: FastAPI, start: Step, stop: Step) -> None:
    """Run ``start`` when ``app`` starts and ``stop`` when it has stopped.

    Any number of caches may be bound to an application, before or after its routes and routers are added; they start
    in the order they were bound and stop in reverse. Binding an equal pair again (the same two methods of the same
    cache) changes nothing. The application may live several times.

    A pair that is bound while the application runs is stopped with it but not started, so ``stop`` has to work
    without ``start``. What either raises is logged and goes no further, save a :class:`ConfigurationError` of
    ``start``, which ends the startup.
    """
    # Kept on the application, not in a table of this module: a table would hold on to applications that are gone,
    # and the wrapper can't be found again once include_router has merged it with another lifespan.
    bound: _Bound | None = getattr(app.state, _BOUND, None)
    if bound is None:
        bound = _Bound()
        setattr(app.state, _BOUND, bound)
        app.router.lifespan_context = _around(app.router.lifespan_context, bound)
    if (start, stop) not in bound.steps:
        bound.steps.append((start, stop))


def life_of(app: FastAPI) -> Mapping[str, Any] | None:
    """What the user's lifespan yielded for the life that ``app`` leads now; ``None`` if none is known of."""
    bound: _Bound | None = getattr(app.state, _BOUND, None)
    return bound.lives[-1] if bound is not None and bound.lives else None


class _Bound:
    """The caches of an application, and what was yielded for each of its lives that have not ended."""

    __slots__ = ("lives", "steps")

    def __init__(self) -> None:
        self.steps: list[tuple[Step, Step]] = []
        self.lives: list[Mapping[str, Any]] = []


def _around(users: Lifespan[Any], bound: _Bound) -> Lifespan[Any]:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        try:
            for start, _ in tuple(bound.steps):
                await _start(start)
            async with users(app) as state:
                life = dict(state or {})
                bound.lives.append(life)
                try:
                    yield state
                finally:
                    bound.lives[:] = [other for other in bound.lives if other is not life]
        finally:
            for _, stop in reversed(bound.steps):
                await _stop(stop)

    return lifespan


async def _start(start: Step) -> None:
    try:
        await start()
    except ConfigurationError:
        raise
    except Exception:
        logger.exception("the cache could not start with the application, and will try again when it is used")


async def _stop(stop: Step) -> None:
    try:
        await stop()
    except Exception:
        logger.exception("the cache could not stop cleanly with the application")
