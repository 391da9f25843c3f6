"""What is turned away at decoration: functions whose result can be read only once.

A cached result is read by many callers; the second reader of a generator finds nothing. The check sees through
partials, methods and callable objects. It relies on ``inspect`` alone and never calls the function.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from fast_cache.errors import ConfigurationError


def refuse_generators(fn: Callable[..., Any]) -> None:
    """Raise if ``fn`` yields: a streaming endpoint, a ``yield`` dependency, a context manager.

    Raises:
        ConfigurationError: ``fn`` is a generator function or an async generator function, be it beneath
            ``functools.partial``, a method, a callable object or ``contextlib.contextmanager``.
    """
    kind = _kind_that_yields(fn)
    if kind is None:
        return
    target = _bare(fn)
    name = getattr(target, "__qualname__", type(target).__qualname__)
    raise ConfigurationError(
        f"{name} is {kind}: what it gives can be read only once, so it can't be cached; return a list or another "
        "value that can be read again, or cache the function that fetches the data and yield outside of it"
    )


def _kind_that_yields(fn: Callable[..., Any]) -> str | None:
    target = _bare(fn)
    called = target if inspect.isroutine(target) or inspect.isclass(target) else _bare(type(target).__call__)
    if inspect.isgeneratorfunction(called):
        return "a generator function"
    if inspect.isasyncgenfunction(called):
        return "an async generator function"
    # Other decorators may well make a list of what they wrap; those of contextlib never do.
    if getattr(called, "__globals__", None) is vars(contextlib):
        return "a context manager function"
    return None


def _bare(fn: Any) -> Any:
    """``fn`` without partials and bindings (``__func__``: methods, ``staticmethod``, ``classmethod``)."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif hasattr(fn, "__func__"):
            fn = fn.__func__
        else:
            return fn
