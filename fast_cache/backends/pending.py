"""Changes that wait for the end of a transaction.

While one is open, what would change a store is collected by the code that runs in it: in its task or thread, and in
what that starts. Whether anything is done with it is decided at the end. Until then the changes are known, so that
whoever made them is not answered by what they are going to remove; nobody else notices anything.

Hits take a path on which nothing can be asked. So what a transaction is going to change is veiled while it is open:
others see through a veil, which costs a hit 0.1 µs, and code in a transaction does not.

A process that is forked while one is open is not in it: its changes are its parent's to make, and whoever drew a veil
is not there.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol

from fast_cache.backends.keyspace import check_key, check_keys, check_prefix, check_values
from fast_cache.durations import optional_seconds, seconds
from fast_cache.entry import Entry, Shelf
from fast_cache.errors import ConfigurationError
from fast_cache.keys import text_of
from fast_cache.keys.binder import Namespace, compile_function, passed_on, spelled
from fast_cache.ports import Port
from fast_cache.serializers import name_digest

if TYPE_CHECKING:
    from fast_cache.backends.store import Address, Store


class Scope(NamedTuple):
    """What a change is about: values by their text keys or by how these begin, and whatever has one of some tags."""

    keys: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


EVERYTHING: Final = Scope(prefixes=("",))


class Veiled(Protocol):
    """What may be looked at without a question: a store, or one function. Each veil is taken away again."""

    def veil(self) -> None:
        """Let nobody find anything there who is in a transaction."""

    def unveil(self) -> None:
        """Take that back."""


class Change:
    """One change of a store, ready to be made.

    Either ``scope`` is given, or an ``address`` where the change is the removal of that and nothing else: such ones may
    be made together.
    """

    __slots__ = ("address", "scope", "step", "store", "veiled")

    def __init__(
        self,
        store: Store,
        scope: Scope | None,
        step: Callable[[Port], Awaitable[Any]],
        *,
        veiled: Veiled | None = None,
        address: Address | None = None,
    ) -> None:
        self.store = store
        self.scope = scope
        self.step = step
        self.veiled: Veiled = store if veiled is None else veiled
        self.address = address


class Request:
    """What stands for a request in its context, and in the copies of that by which its threads run.

    What one of them sets in its copy is lost with it. So a transaction that goes on when its thread has done is noted
    in something that all copies share: as the ``inner`` one of the transaction around it, or of this.
    """

    is_open: ClassVar[bool] = False
    parent: Pending | None = None
    inner: Pending | None = None


class Pending:
    """What is collected by one open transaction, inside ``parent`` if there is one around it."""

    def __init__(self, parent: Pending | None) -> None:
        self.parent = parent
        self.inner: Pending | None = None
        """One that was opened in a copy of a context in which this is the current one, and is so there too."""
        self._process = _process
        self._open = True
        self._lock = threading.RLock()  # garbage collected in here may run code of the user's that changes the cache
        self._changes: list[Change] = []
        self._veiled: dict[Veiled, None] = {}
        self._touched: dict[Store, _Touched] = {}

    @property
    def is_open(self) -> bool:
        return self._open and self._process is _process

    def add(self, changes: Iterable[Change]) -> bool:
        """Collect changes; False if it is too late for that."""
        changes = list(changes)
        veiled = {change.veiled: None for change in changes if change.veiled not in self._veiled}
        for one in veiled:  # first, and without the lock: those who draw a veil have locks of their own
            one.veil()
        with self._lock:
            in_time = self.is_open
            if in_time:
                spare = [one for one in veiled if one in self._veiled]
                self._veiled |= veiled
                for change in changes:
                    scope = change.scope or Scope(keys=(text_of(change.address),))
                    self._touched.setdefault(change.store, _Touched()).add(scope)
                self._changes += changes
        for one in spare if in_time else veiled:
            one.unveil()
        return in_time

    def close(self) -> list[Change]:
        """Collect no more, and return what was collected. What is asked from here on sees what is stored."""
        if self._process is not _process:
            return []  # and the lock may have been held by a thread that is not here
        with self._lock:
            self._open = False
            changes, self._changes = self._changes, []
            veiled, self._veiled = self._veiled, {}
            self._touched = {}
        for one in veiled:
            one.unveil()
        return changes

    def touches(self, store: Store, key: str, tags: Iterable[str]) -> bool:
        """Whether what lies under ``key`` is to be changed here or around, or anything that has one of ``tags``."""
        return any(touched.covers(key, tags) for touched in self._touched_in(store))

    def loses(self, store: Store, tags: Iterable[Hashable]) -> bool:
        """Whether one of the tags that an entry was found to have, by name or digest, is to be invalidated."""
        found = frozenset(tags)
        return bool(found) and any(touched.has_lost(found) for touched in self._touched_in(store))

    def _touched_in(self, store: Store) -> Iterator[_Touched]:
        pending: Pending | None = self
        while pending is not None:
            if (touched := pending._touched.get(store)) is not None:
                yield touched
            pending = pending.parent


class _Touched:
    """What a transaction is going to change in one store."""

    __slots__ = ("_digests", "_keys", "_prefixes", "_tags")

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._prefixes: tuple[str, ...] = ()
        self._tags: set[str] = set()
        self._digests: set[bytes] = set()

    def add(self, scope: Scope) -> None:
        self._keys.update(scope.keys)
        if scope.prefixes:
            self._prefixes = tuple({*self._prefixes, *scope.prefixes})
        self._tags.update(scope.tags)
        self._digests.update(map(name_digest, scope.tags))

    def covers(self, key: str, tags: Iterable[str]) -> bool:
        return key in self._keys or key.startswith(self._prefixes) or not self._tags.isdisjoint(tags)

    def has_lost(self, tags: frozenset[Hashable]) -> bool:
        return not tags.isdisjoint(self._tags) or not tags.isdisjoint(self._digests)


_current: ContextVar[Pending | Request | None] = ContextVar("fast_cache_transaction", default=None)


def current() -> Pending | None:
    """The innermost open transaction that the running code is in."""
    pending = _current.get()
    if pending is None:
        return None
    while pending.inner is not None:
        pending = pending.inner
    while pending is not None and not pending.is_open:
        pending = pending.parent
    return pending  # type: ignore[return-value]  # a request is never open


def enter_request() -> None:
    """The running code is about to answer a request.

    It need not say when that is done: in a context that is used for more, this is of no effect.
    """
    request = Request()
    if _current.get() is not None:
        request.parent = current()
    _current.set(request)


def enter(*, leaves_context: bool = False) -> Pending:
    """Open a transaction, for the running code and what it starts.

    Args:
        leaves_context: it goes on when the running code has ended, whose context is a copy: for all of the request.

    Raises:
        ConfigurationError: that there is no request of which we know.
    """
    pending = Pending(current())
    if leaves_context:
        _hand_over(pending)
    _current.set(pending)
    return pending


def _hand_over(pending: Pending) -> None:
    """Let those see it who have other copies of this context."""
    place = at = _current.get()
    if at is None or place is None:
        raise ConfigurationError(
            "cache.transaction() would be left without effect here: FastAPI enters a generator written def on a thread "
            "that forgets it, and to this app cache.init_app was not applied; write async def, and async with "
            "cache.transaction()"
        )
    while at.inner is not None:
        at = at.inner
        if at.is_open:
            place = at
    place.inner = pending


def leave(pending: Pending, *, well: bool) -> list[Change]:
    """Close it, wherever that happens; if it ends ``well``, return the changes that are to be made now.

    None, if there is a transaction around it: then they are left to that one.
    """
    changes = pending.close()
    # Not a token's reset: a generator that serves as a dependency is finished in another context than it began in.
    _current.set(current())
    outer = pending.parent
    while outer is not None and changes:
        if not well or outer.add(changes):
            return []
        outer = outer.parent
    return changes if well else []


def deferred(*changes: Change) -> bool:
    """Whether changes are left to the transaction that the running code is in; else they are to be made now."""
    pending = current()
    while pending is not None:
        if pending.add(changes):
            return True
        pending = current()  # it has ended in this moment, on another thread
    return False


@contextmanager
def at_once() -> Iterator[None]:
    """In here changes are made as they come, for calls whose answer is needed."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


class Veil(Shelf):
    """A shelf on which code in a transaction finds nothing at a glance, and everybody else what lies on ``shelf``."""

    __slots__ = ()

    def __init__(self, shelf: Shelf) -> None:
        super().__init__()
        self.table = _Glance(shelf)  # type: ignore[assignment]  # it is looked into, and nothing else


class _Glance:
    __slots__ = ("_shelf",)

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def get(self, key: Hashable) -> Entry | None:
        return self._shelf.table.get(key) if current() is None else None


_process = object()
"""Another one in a forked child."""


def _after_fork() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


# The methods of a backend.


def defer_methods(cls: type) -> None:
    """Let a transaction collect the changes that the methods which ``cls`` itself defines would make."""
    for name, method in list(vars(cls).items()):
        if inspect.isfunction(method) and not getattr(method, "__isabstractmethod__", False):
            if (deferral := _DEFERRALS.get(name)) is not None:
                setattr(cls, name, _deferring(method, deferral))
            elif name in _ANSWERED:
                setattr(cls, name, _answering(method))


class _Deferral(NamedTuple):
    """How a method is put off: its name without its ``a``, what it answers, its scope, and what is kept of it."""

    name: str
    answer: Any
    scope: Callable[..., Scope]
    check: Callable[..., object]
    keep: Callable[[Any], Any]


def _deferring(method: Callable[..., Any], deferral: _Deferral) -> Callable[..., Any]:
    """The method with a look beforehand; compiled with its own signature, since stars would cost twice as much."""
    signature = inspect.signature(method)
    suspends = inspect.iscoroutinefunction(method)
    space = Namespace(signature)
    args, kwargs = passed_on(signature)
    asks = ", ".join((space.add(method), space.add(deferral), args, kwargs))
    lines = [
        f"if {space.add(_current.get)}() is not None and {space.add(current)}() is not None"
        f" and {space.add(_put_off)}({asks}):",
        f"    return {space.add(deferral.answer)}",
        f"return {'await ' if suspends else ''}{space.add(method)}({spelled(signature)})",
    ]
    compiled = compile_function(
        signature, lines, space, name=method.__qualname__, module=method.__module__, suspends=suspends
    )
    return functools.wraps(method)(compiled)


def _answering(method: Callable[..., Any]) -> Callable[..., Any]:
    """What answers by what is stored now changes it now, also where it is made of methods that could wait."""
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def suspending(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            if current() is None:
                return await method(self, *args, **kwargs)
            with at_once():
                return await method(self, *args, **kwargs)

        return suspending

    @functools.wraps(method)
    def blocking(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if current() is None:
            return method(self, *args, **kwargs)
        with at_once():
            return method(self, *args, **kwargs)

    return blocking


def _put_off(method: Callable[..., Any], deferral: _Deferral, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a transaction makes this call when it ends. What is wrong with the arguments is said now."""
    backend, *others = args
    rest, kwargs = tuple(map(deferral.keep, others)), {name: deferral.keep(arg) for name, arg in kwargs.items()}
    bound = inspect.signature(method).bind(backend, *rest, **kwargs)
    given = list(bound.arguments.values())[1:]
    if method.__module__.startswith("fast_cache."):  # what others take as a key or a lifetime is their affair
        deferral.check(*given)
    name = deferral.name

    def step(port: Port) -> Awaitable[Any]:
        return port.do(getattr(backend, name), getattr(backend, f"a{name}"), *rest, **kwargs)

    try:
        scope = deferral.scope(*given)
    except Exception:  # a method of that name that takes something else
        scope = EVERYTHING
    return deferred(Change(backend.engine_store(), scope, step))


def _as_it_is(argument: Any) -> Any:
    return argument


def _as_it_is_now(argument: Any) -> Any:
    """What is given as a collection may be another one when the transaction ends, or read only once."""
    if isinstance(argument, Mapping):
        return dict(argument)
    return tuple(argument) if isinstance(argument, Iterable) and not isinstance(argument, str) else argument


def _of_key(key: str, *_: object) -> Scope:
    return Scope(keys=(check_key(key),))


def _of_keys(keys: Iterable[Any], *_: object) -> Scope:
    return Scope(keys=check_keys(tuple(keys)))


def _of_prefix(prefix: str) -> Scope:
    return Scope(prefixes=(check_prefix(prefix),))


def _of_all(*_: object) -> Scope:
    return EVERYTHING


def _check_value(key: str, value: object, expire: Any = None) -> None:
    check_key(key)
    optional_seconds(expire, option="expire")


def _check_duration(key: str, duration: Any) -> None:
    check_key(key)
    seconds(duration, option="duration")


def _check_lifetime(key: str, expire: Any = None) -> None:
    check_key(key)
    optional_seconds(expire, option="expire")


def _check_values(values: Any, expire: Any = None) -> None:
    check_values(values)
    optional_seconds(expire, option="expire")


_METHODS: Final = (
    _Deferral("set", None, _of_key, _check_value, _as_it_is),
    _Deferral("delete", False, _of_key, _of_key, _as_it_is),
    _Deferral("clear", None, _of_all, _of_all, _as_it_is),
    _Deferral("expire", False, _of_key, _check_duration, _as_it_is),
    _Deferral("touch", False, _of_key, _check_lifetime, _as_it_is),
    _Deferral("set_many", None, _of_keys, _check_values, _as_it_is_now),
    _Deferral("delete_many", 0, _of_keys, _of_keys, _as_it_is_now),
    _Deferral("delete_match", 0, _of_prefix, _of_prefix, _as_it_is),
)
_DEFERRALS: Final = {name: deferral for deferral in _METHODS for name in (deferral.name, f"a{deferral.name}")}

_ANSWERED: Final = ("incr", "aincr", "decr", "adecr", "add", "aadd")
