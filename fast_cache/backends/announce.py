"""Hooks round the methods of a backend class, so that the engine learns what users do to the store directly.

A ``set``, ``delete`` or ``clear`` is announced before it acts and again after, which fences off the loads in flight
and those that began meanwhile. A ``get`` or ``has`` is asked to overlook a key whose fenced-off write is still being
undone. Classes with an engine store of their own are left alone: they do the same within their own steps.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol


class Listener(Protocol):
    """A store that wants to be told."""

    def changing(self, key: str, value: object = None) -> None:
        """``key`` is about to be set to ``value``, or deleted."""

    def clearing(self) -> None:
        """Everything is about to be removed."""

    def overlooks(self, key: str) -> bool:
        """Whether ``key`` has to look absent just now."""


def fence_methods(cls: type) -> None:
    """Wrap those of the ten methods that ``cls`` itself defines."""
    for name, before in _BEFORE.items():
        method = cls.__dict__.get(name)
        if inspect.isfunction(method) and not getattr(method, "__isabstractmethod__", False):
            setattr(cls, name, _hooked(method, before))


def _before_change(store: Listener, key: str, value: object = None, *_: object, **__: object) -> None:
    store.changing(key, value)


def _before_clear(store: Listener) -> None:
    store.clearing()


def _before_get(store: Listener, key: str, default: object = None) -> object:
    return (default,) if store.overlooks(key) else None


def _before_has(store: Listener, key: str) -> object:
    return (False,) if store.overlooks(key) else None


_BEFORE: dict[str, Callable[..., Any]] = {
    "get": _before_get,
    "has": _before_has,
    "set": _before_change,
    "delete": _before_change,
    "clear": _before_clear,
}
_BEFORE.update({f"a{name}": before for name, before in list(_BEFORE.items())})


def _hooked(method: Callable[..., Any], before: Callable[..., Any]) -> Callable[..., Any]:
    """Run ``before``; a one-tuple from it is the answer, and the method is not called."""

    changes = before in (_before_change, _before_clear)

    def announce(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return before(self.engine_store(), *args, **kwargs)

    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def suspending(self: Any, *args: Any, **kwargs: Any) -> Any:
            answer = announce(self, args, kwargs)
            if answer is not None:
                return answer[0]
            try:
                return await method(self, *args, **kwargs)
            finally:
                if changes:
                    announce(self, args, kwargs)

        return suspending

    @functools.wraps(method)
    def blocking(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = announce(self, args, kwargs)
        if answer is not None:
            return answer[0]
        try:
            return method(self, *args, **kwargs)
        finally:
            if changes:
                announce(self, args, kwargs)

    return blocking
