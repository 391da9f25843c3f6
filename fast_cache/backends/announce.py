"""Hooks round the methods of a backend class, so that the engine learns what users do to the store directly.

A ``set``, ``delete`` or ``clear``, and whichever call beyond the ten changes something, is announced before it acts and
again after, which fences off the loads in flight and those that began meanwhile. A ``get`` or ``has`` is asked to
overlook a key whose fenced-off write is still being undone. How long a ``set`` said is noted. Classes with an engine
store of their own are left alone: they do the same within their own steps.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, Protocol

from fast_cache.entry import MISSING


class Listener(Protocol):
    """A store that wants to be told."""

    def changing(self, key: str, value: object = MISSING) -> None:
        """``key`` is about to be set to ``value``, or changed otherwise."""

    def clearing(self) -> None:
        """Everything is about to be removed, or who knows what."""

    def setting(self, key: str) -> Callable[[object], None]:
        """``key`` is about to be set; what is returned is called when it was, with how long it is to live."""

    def overlooks(self, key: str) -> bool:
        """Whether ``key`` has to look absent just now."""


def fence_methods(cls: type) -> None:
    """Wrap those of the methods that ``cls`` itself defines."""
    for name, before in _BEFORE.items():
        method = cls.__dict__.get(name)
        if inspect.isfunction(method) and not getattr(method, "__isabstractmethod__", False):
            setattr(cls, name, _hooked(method, before))


def _before_set(store: Listener, key: str, value: object, *_: object, **__: object) -> None:
    store.changing(key, value)


def _before_change(store: Listener, key: str, *_: object, **__: object) -> None:
    store.changing(key)


def _before_call(store: Listener, *args: object, **named: object) -> None:
    """Before a call beyond the ten that changes a key. Backends may have had a method of that name for themselves."""
    key = args[0] if args else named.get("key")
    if isinstance(key, str):
        store.changing(key)


def _before_calls(store: Listener, *args: object, **named: object) -> None:
    """Before one that changes several keys: all that are named, or who knows which."""
    keys = args if len(args) != 1 or isinstance(args[0], str) else args[0]
    keys = next(iter(named.values()), ()) if not args else keys
    keys = (keys,) if isinstance(keys, str) else keys
    if not isinstance(keys, Collection) or not all(isinstance(key, str) for key in keys):
        store.clearing()
        return
    for key in keys:
        store.changing(key)


def _before_clear(store: Listener, *_: object, **__: object) -> None:
    store.clearing()


def _lifetime_of(key: str, value: object = None, expire: object = None, *_: object, **__: object) -> tuple[str, object]:
    return key, expire


def _before_get(store: Listener, key: str, default: object = None) -> object:
    return (default,) if store.overlooks(key) else None


def _before_has(store: Listener, key: str) -> object:
    return (False,) if store.overlooks(key) else None


_BEFORE: dict[str, Callable[..., Any]] = {
    "get": _before_get,
    "has": _before_has,
    "set": _before_set,
    "delete": _before_change,
    "clear": _before_clear,
    "add": _before_call,
    "incr": _before_call,
    "decr": _before_call,
    "expire": _before_call,
    "touch": _before_call,
    "set_many": _before_calls,
    "delete_many": _before_calls,
    "delete_match": _before_clear,
}
_BEFORE.update({f"a{name}": before for name, before in list(_BEFORE.items())})


def _hooked(method: Callable[..., Any], before: Callable[..., Any]) -> Callable[..., Any]:
    """Run ``before``; a one-tuple from it is the answer, and the method is not called."""

    changes = before not in (_before_get, _before_has)

    def announce(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return before(self.engine_store(), *args, **kwargs)

    def noting(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], None]:
        if before is not _before_set:
            return _nothing
        key, expire = _lifetime_of(*args, **kwargs)
        note = self.engine_store().setting(key)
        return lambda: note(expire)

    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def suspending(self: Any, *args: Any, **kwargs: Any) -> Any:
            answer = announce(self, args, kwargs)
            if answer is not None:
                return answer[0]
            note = noting(self, args, kwargs)
            try:
                result = await method(self, *args, **kwargs)
                note()
                return result
            finally:
                if changes:
                    announce(self, args, kwargs)

        return suspending

    @functools.wraps(method)
    def blocking(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = announce(self, args, kwargs)
        if answer is not None:
            return answer[0]
        note = noting(self, args, kwargs)
        try:
            result = method(self, *args, **kwargs)
            note()
            return result
        finally:
            if changes:
                announce(self, args, kwargs)

    return blocking


def _nothing() -> None:
    """Of other methods there is nothing to note."""
