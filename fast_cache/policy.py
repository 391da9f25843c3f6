"""Every option of one cached function, validated once and immutable from then on.

What an option means is decided here; when it is asked for is decided by the flow. Nothing in this module does I/O.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal

from starlette.responses import Response

from fast_cache.backends.store import Store, Terms
from fast_cache.durations import Duration, optional_seconds, seconds
from fast_cache.entry import MISSING, MissingType
from fast_cache.errors import ConfigurationError, InvalidTypeError
from fast_cache.freshness import LASTING, Found, Freshness, FreshnessOptions, Life
from fast_cache.once import warn_once
from fast_cache.outcome import Absent, Outcome
from fast_cache.serializers import Codec, RaisingCodec, Serializer, checked_serializer, codec_for, register
from fast_cache.single_flight import Mark

_READ_ONCE = (Iterator, AsyncIterator, Generator, AsyncGenerator, Awaitable)


Lock = Literal["local", "distributed", False]
"""How far concurrent callers of one key share a load: in this process, across processes, or not at all."""

_LOCK_TIMEOUT = 30.0


class LoadOptions(FreshnessOptions, total=False):
    """The options that concern age, those that concern loads at the same time, and how values become bytes."""

    lock: Lock
    lock_timeout: Duration | None
    serializer: Serializer[Any] | None


_OPTIONS = LoadOptions.__annotations__.keys()
_LOCKS = frozenset({"lock", "lock_timeout"})
_AGES = FreshnessOptions.__annotations__.keys()


class Keeping(enum.Enum):
    """What may be done with a result."""

    STORE = "store"
    SHARE = "share"
    """Not stored, but given to those who waited for it."""
    REMOVE = "remove"
    """The same; what was stored before goes."""
    ALONE = "alone"
    """Its caller's alone."""


@dataclass(frozen=True)
class CachePolicy:
    """How the results of one function are kept.

    ``name`` is the function's full name, for messages. ``expire`` is in seconds, ``None`` for the cache's default;
    or it says so of each result.
    ``annotation`` resolves the return annotation: at first use, because it may name what is defined further down.
    """

    name: str
    expire: float | Callable[..., Any] | None = None
    freshness: Freshness = LASTING
    cache_errors: tuple[tuple[type[Exception], float], ...] = ()
    """Exceptions that are stored, and for how many seconds."""
    condition: Callable[[Any], Any] | None = None
    annotation: Callable[[], Any] = field(default=lambda: inspect.Signature.empty)
    namespace: str | None = None
    lock: Lock = "local"
    lock_timeout: float = _LOCK_TIMEOUT
    """How long the load of another process is waited for, in seconds."""
    serializer: Codec | None = None
    """What makes bytes of results in place of their annotation, for stores that hold bytes."""
    shared: bool = False
    """The author's word that an endpoint answers everyone alike whom its guards let in."""
    author_keyed: bool = False
    """Whether the author makes the key, and so answers for what the endpoint's parameters carry."""
    groups: tuple[str, ...] = ()
    """What its results are invalidated with, whatever the arguments."""
    immutable: bool = False
    """Whether results can't be changed, so that those who share a load may share what it made."""

    @classmethod
    def of(
        cls,
        *,
        name: str = "",
        expire: Duration | Callable[..., Any] | None,
        condition: Callable[[Any], Any] | None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        namespace: str | None = None,
        shared: bool = False,
        author_keyed: bool,
        freshness: Mapping[str, Any] = MappingProxyType({}),
    ) -> CachePolicy:
        """Validate the options as a user gives them. ``freshness`` are those of :class:`LoadOptions`.

        Raises:
            ConfigurationError: an option that can't work, or two that contradict each other.
        """
        unknown = sorted(freshness.keys() - _OPTIONS)
        if unknown:
            known = ", ".join(_OPTIONS)
            raise InvalidTypeError(f"there is no option {unknown[0]}=; those that have no parameter here are: {known}")
        lock, lock_timeout = _lock(**{name: freshness[name] for name in _LOCKS & freshness.keys()})
        serializer = checked_serializer(freshness.get("serializer"))
        freshness = {name: value for name, value in freshness.items() if name in _AGES}
        if callable(expire):
            if inspect.iscoroutinefunction(expire):
                raise InvalidTypeError("expire must be a duration, or a plain function that returns one")
            lifetime = None
        else:
            expire = lifetime = optional_seconds(expire, option="expire")
        if not isinstance(shared, bool):
            raise InvalidTypeError(f"shared must be True or False, not {type(shared).__name__}")
        if condition is not None and (not callable(condition) or inspect.iscoroutinefunction(condition)):
            raise InvalidTypeError("condition must be a plain function of the result that returns whether to store it")
        return cls(
            name=name,
            expire=expire,
            freshness=Freshness.of(expires=expire is not None, lifetime=lifetime, **freshness),
            cache_errors=_errors(cache_errors),
            condition=condition,
            namespace=namespace,
            lock=lock,
            lock_timeout=lock_timeout,
            serializer=serializer,
            shared=shared,
            author_keyed=author_keyed,
        )

    def of_function(self, function: Callable[..., Any], annotation: Callable[[], Any]) -> CachePolicy:
        """The same options, for a function whose results have this annotation.

        Raises:
            ConfigurationError: a function among the options does not take what it will be called with.
        """
        name = f"{function.__module__}.{function.__qualname__}"
        return replace(self, name=name, annotation=annotation).checked(inspect.signature(function))

    def checked(self, signature: inspect.Signature) -> CachePolicy:
        """The same options, if the functions among them can be called for a function of this signature."""
        if self.condition is not None:
            _check_takes("condition", "the result", self.condition, None)
        parameters = signature.parameters.values()
        if callable(self.expire) and not any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters):
            named = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
            places = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
            what = ", ".join(["the result", *places, *(f"{name}=" for name in named)])
            _check_takes("expire", what, self.expire, None, *places, **dict.fromkeys(named))
        return self

    def check(self, store: Store) -> None:
        """Refuse a store that can't do what the options ask of it.

        Raises:
            ConfigurationError: the message names the option and the backend.
        """
        if self.lock == "distributed" and store.caches and not store.leases:
            raise ConfigurationError(
                f'{self.name} has lock="distributed", and {store.health.name} can\'t lock across processes; '
                'use RedisBackend, or lock="local"'
            )

    def terms(self, tags: tuple[str, ...] = ()) -> Terms:
        """What its calls want of an entry that has ``tags``."""
        freshness = self.freshness
        due = freshness.due if freshness.soft else None
        return Terms(self.codec, freshness.soft, freshness.hits > 0, tags, self.groups, due)

    def codec(self, default: Codec | None = None) -> Codec:
        """How results become bytes and come back; only stores that hold bytes ask for it.

        ``default`` is the serializer of the store.
        """
        known = self.__dict__.get("_codec")  # made at first use, for one store at a time
        if known is None or known[0] is not default:
            known = self.__dict__["_codec"] = (default, self._make_codec(default))
        codec: Codec = known[1]
        return codec

    def _make_codec(self, default: Codec | None) -> Codec:
        codec = default if self.serializer is None else self.serializer
        if codec is None:
            codec = codec_for(self.annotation())
        else:
            register(codec)
        if not self.cache_errors:
            return codec
        raising = RaisingCodec(codec, [kind for kind, _ in self.cache_errors])
        register(raising)
        return raising

    def life(
        self, outcome: Outcome, said: Mark, args: tuple[Any, ...], kwargs: dict[str, Any], default: float | None
    ) -> Life | None:
        """How long a result is good for; ``None`` if it is not to be stored.

        ``said`` is what the function itself said about it, ``default`` the cache's lifetime.
        """
        if said.skipped:
            return None
        if outcome.error is not None:
            lifetime = self._lifetime_of(outcome.error)
            # Due at once, so that nobody takes it for a value who only glances at it.
            return None if lifetime is None else Life(lifetime, due=0.0, load=outcome.seconds)
        if said.expire is not None:
            return self.freshness.life(said.expire, outcome.seconds)
        given = self.lifetime(outcome.value, args, kwargs, default)
        return None if given is MISSING else self.freshness.life(given, outcome.seconds)

    def lifetime(
        self, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], default: float | None
    ) -> float | MissingType | None:
        """For how many seconds a result is good, ``None`` for ever; ``MISSING`` if it is not to be stored."""
        if not callable(self.expire):
            return default if self.expire is None else self.expire
        try:
            given = self.expire(value, *args, **kwargs)
            if isinstance(given, timedelta):
                given = given.total_seconds()
            if isinstance(given, (int, float)) and given <= 0:
                return MISSING
            return default if given is None else seconds(given, option="expire")
        except Exception as error:
            kind = type(error).__name__
            warn_once(f"expire of {self.name} raised {kind}; the result is not stored", "expire", self.name)
            return MISSING

    def knows(self, error: Exception) -> bool:
        """Whether this function may have met a stored ``error``."""
        return type(error) is not Absent or any(kind is Absent for kind, _ in self.cache_errors)

    def keeping_error(self, error: Exception, spare: Found | None) -> Keeping:
        """What may be done with an exception; one that ``spare`` covers for does not take its place."""
        lasting = self._lifetime_of(error) is not None
        if type(error) is Absent:
            return Keeping.STORE if lasting else Keeping.SHARE if spare is None else Keeping.REMOVE
        if not lasting:
            return Keeping.SHARE
        if spare is not None and (spare.fresh_for > 0 or self.freshness.forgives(error, spare)):
            return Keeping.SHARE
        return Keeping.STORE

    def _lifetime_of(self, error: Exception) -> float | None:
        kinds = dict(self.cache_errors)
        if type(error) is Absent:  # an exception to us only: no type of the user's may stand for it
            return kinds.get(Absent)
        return next((lifetime for kind, lifetime in self.cache_errors if isinstance(error, kind)), None)

    def keeping(self, value: Any) -> Keeping:
        """What may be done with a result."""
        refusal = _refusal(value)
        if refusal is not None:
            warn_once(f"{self.name} {refusal}", "refused", self.name, refusal)
            return Keeping.ALONE
        return Keeping.STORE if self.wanted(value) else Keeping.SHARE

    def wanted(self, value: Any) -> bool:
        """Whether the author wants a result stored."""
        if self.condition is None:
            return True
        try:
            return bool(self.condition(value))
        except Exception as error:
            # The caller has its result; a faulty condition must not take it away. Its message may quote the value.
            kind = type(error).__name__
            warn_once(f"the condition of {self.name} raised {kind}; the result is not stored", "condition", self.name)
            return False


def _lock(lock: Any = "local", lock_timeout: Duration | None = None) -> tuple[Lock, float]:
    if not (lock is False or lock is True or isinstance(lock, str)):
        raise InvalidTypeError(f'lock must be "local", "distributed" or False, not {type(lock).__name__}')
    if lock is not False and lock not in ("local", "distributed"):
        raise ConfigurationError(f'lock must be "local", "distributed" or False, got {lock!r}')
    patience = optional_seconds(lock_timeout, option="lock_timeout")
    if patience is not None and lock != "distributed":
        raise ConfigurationError(
            f'lock_timeout needs lock="distributed", and lock is {lock!r}: it says how long the load of another '
            "process is waited for"
        )
    return lock, _LOCK_TIMEOUT if patience is None else patience


def _check_takes(option: str, what: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    try:
        accepted = inspect.signature(fn)
    except (TypeError, ValueError):  # some builtins have no signature: nothing to check against
        return
    try:
        accepted.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigurationError(f"{option}= is called with {what}, which it does not accept: {error}") from None


def _errors(given: Mapping[type[Exception], Duration] | None) -> tuple[tuple[type[Exception], float], ...]:
    if given is None:
        return ()
    if not isinstance(given, Mapping) or not given:
        raise InvalidTypeError("cache_errors must be a dict of exception types and for how long they are stored")
    for kind in given:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise InvalidTypeError("cache_errors must have exception types as its keys")
    # Derived classes first: each exception has the lifetime of the type that is closest to its own.
    kinds = sorted(given, key=lambda kind: -len(kind.__mro__))
    return tuple((kind, seconds(given[kind], option="cache_errors")) for kind in kinds)


def _refusal(value: Any) -> str | None:
    """Why a result belongs to its caller alone; ``None`` for one that any number of callers may have."""
    kind = type(value)
    if issubclass(kind, _READ_ONCE):
        return (
            f"returned a {kind.__name__}, which can be read only once: it is not cached; return a list or another "
            "value that can be read again"
        )
    if issubclass(kind, Response):
        return "returned a Response: it is not cached; return the data and let FastAPI serialise it"
    members = value if kind in (list, tuple, set, frozenset) else value.values() if kind is dict else (value,)
    if any(_is_attached(member) for member in members):
        return (
            "returned rows of an open database session, which change when it ends: they are not cached; return "
            "models or dicts made from them, or let the session go first"
        )
    return None


def _is_attached(value: Any) -> bool:
    """Whether ``value`` is an SQLAlchemy (or SQLModel) row whose session is open."""
    if not hasattr(type(value), "_sa_class_manager"):
        return False
    state = getattr(value, "_sa_instance_state", None)
    return getattr(state, "session_id", None) is not None
