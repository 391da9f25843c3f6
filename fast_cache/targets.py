"""What a write leaves to be invalidated: read once where it is decorated, and made out of each call's arguments.

A target is a cached function, alone or with a function that says which of its results are meant, or a key template;
tags and whole functions come on top. Everything that can be wrong is refused at decoration, if it can be told there.
When the write has happened nothing is refused any more: what can't be told is invalidated as a whole, with a warning.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from inspect import Parameter
from typing import Any, Final, NamedTuple, Protocol

from starlette.responses import Response

from fast_cache.backends.pending import Change
from fast_cache.backends.store import Store
from fast_cache.binding import Binding
from fast_cache.decorator import Operations
from fast_cache.entry import MISSING
from fast_cache.errors import ConfigurationError, FastCacheError, InvalidTypeError
from fast_cache.flow import removal_of_tags
from fast_cache.http.refuse import refuse_generators
from fast_cache.keys import Role, check_tags
from fast_cache.keys.tags import TagMaker
from fast_cache.many import CachedMany, ManyOperations
from fast_cache.method import BoundCachedMethod, CachedMethod
from fast_cache.naming import Naming, as_declared, named_functions, removals
from fast_cache.once import warn_once

RESULT: Final = "result"
"""The parameter by which a function that names arguments asks for what the write returned."""

_IN_KEY: Final = (Role.KEYED, Role.HASHED, Role.REQUEST, Role.BUILT)
_STARRED: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class Write(NamedTuple):
    """A write that has happened: whose it was, its arguments by name, and what it returned."""

    name: str
    arguments: Mapping[str, Any]
    result: Any = None


class _Target(Protocol):
    def changes(self, write: Write, store: Store) -> Iterable[Change]:
        """What has to go. May raise whatever users' functions do."""

    def otherwise(self, store: Store) -> Iterable[Change]:
        """What has to go if that can't be told."""

    def __str__(self) -> str:
        """What it is, for a warning."""


class Targets:
    """Everything that one write names.

    Args:
        binding: of the cache whose templates are meant.
        name: the write's, for messages.
        parameters: the names of its parameters; ``None`` if they are not known yet.
        targets, tags, everything: as given to ``cache.invalidates``.

    Raises:
        ConfigurationError: nothing is named, or something that can't be.
    """

    def __init__(
        self,
        binding: Binding,
        name: str,
        parameters: Collection[str] | None,
        targets: Sequence[Any],
        tags: str | Iterable[str] | None,
        everything: Any,
    ) -> None:
        self._binding = binding
        self._name = name
        self._targets: list[_Target] = list(_read(binding, parameters, targets, name))
        if tags is not None:
            self._targets.append(_Tags(tags, parameters))
        for function in _several(everything):
            self._targets.append(_Whole(_cached(function, "everything").operations))
        if not self._targets:
            raise ConfigurationError(
                "nothing is named that is to be invalidated: give a cached function, a key template, tags= or "
                "everything="
            )

    def changes(self, arguments: Mapping[str, Any], result: Any) -> list[Change]:
        """What a write that has happened removes. Does not raise."""
        store = self._binding.store
        if not store.caches:
            return []
        write = Write(self._name, arguments, result)
        changes: list[Change] = []
        for target in self._targets:
            try:
                changes += target.changes(write, store)
            except Exception as error:
                # The message of a user's own exception may quote values.
                why = str(error) if isinstance(error, FastCacheError) else f"{type(error).__name__} was raised"
                warn_once(
                    f"{self._name} has written, and which results of {target} are to be invalidated can't be told "
                    f"({why}): all of them are",
                    "invalidates",
                    self._name,
                    str(target),
                )
                changes += target.otherwise(store)
        return changes


class _Cached(NamedTuple):
    """A cached function as it was given: perhaps a method, with what it is bound to."""

    operations: Operations
    first: tuple[Any, ...] = ()


class _Results:
    """Results of one cached function."""

    def __init__(self, cached: _Cached, arguments: Callable[[Write], Iterable[_Arguments]]) -> None:
        self._operations = cached.operations
        self._first = cached.first
        self._arguments = arguments

    def changes(self, write: Write, store: Store) -> Iterable[Change]:
        for args, kwargs in list(self._arguments(write)):
            yield from self._operations.removals(store, (*self._first, *args), dict(kwargs))

    def otherwise(self, store: Store) -> Iterable[Change]:
        return [self._operations.removal_of_all(store)]

    def __str__(self) -> str:
        return self._operations.policy.name


class _Whole:
    """Everything of one cached function."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def changes(self, write: Write, store: Store) -> Iterable[Change]:
        return [self._operations.removal_of_all(store)]

    def otherwise(self, store: Store) -> Iterable[Change]:
        return self.changes(Write("", {}), store)

    def __str__(self) -> str:
        return self._operations.policy.name


class _Keys:
    """Keys by a template. Which functions have one like it is known when all are decorated."""

    def __init__(self, binding: Binding, text: str, parameters: Collection[str] | None) -> None:
        self._binding = binding
        self._naming = Naming(text, _fields_of(text) if parameters is None else parameters)

    def changes(self, write: Write, store: Store) -> Iterable[Change]:
        backend = self._binding.backend
        assert backend is not None
        return removals(named_functions(self._naming, self._binding.functions, write.arguments), store, backend)

    def otherwise(self, store: Store) -> Iterable[Change]:
        """Everything of the functions whose templates begin as this one does."""
        begin = self._naming.text.partition("{")[0]
        return [
            function.removal_of_all(store)
            for function in self._binding.functions
            if begin and (function.keys.template or "").startswith(begin)
        ]

    def __str__(self) -> str:
        return f"the template {self._naming.text!r}"


class _Tags:
    """Tags, as templates over the write's arguments."""

    def __init__(self, tags: str | Iterable[str], parameters: Collection[str] | None) -> None:
        self._templates = check_tags(tags)
        if parameters is None:
            parameters = {name for template in self._templates for name in _fields_of(template)}
        self._maker = TagMaker(self._templates, dict.fromkeys(parameters, Role.KEYED))

    def changes(self, write: Write, store: Store) -> Iterable[Change]:
        return [removal_of_tags(store, self._maker.tags(write.arguments))]

    def otherwise(self, store: Store) -> Iterable[Change]:
        """Those that have no fields: no value that has no text for a tag has ever been given one by a template."""
        plain = tuple(template for template in self._templates if "{" not in template)
        return [removal_of_tags(store, plain)] if plain else []

    def __str__(self) -> str:
        return "the tags"


_Arguments = tuple[Sequence[Any], Mapping[str, Any]]


def _read(binding: Binding, parameters: Collection[str] | None, targets: Sequence[Any], name: str) -> Iterator[_Target]:
    left = list(targets)
    while left:
        target = left.pop(0)
        if isinstance(target, str):
            yield _Keys(binding, target, parameters)
            continue
        cached = _cached(target, "a target")
        if left and not isinstance(left[0], str) and _as_cached(left[0]) is None:
            yield _Results(cached, _mapped(cached, left.pop(0), parameters))
        else:
            yield _Results(cached, _by_name(cached, parameters, name))


def _several(everything: Any) -> list[Any]:
    if everything is None:
        return []
    if _as_cached(everything) is None and isinstance(everything, Iterable) and not isinstance(everything, str):
        return list(everything)
    return [everything]


def _cached(given: Any, what: str) -> _Cached:
    cached = _as_cached(given)
    if cached is None:
        shown = getattr(given, "__qualname__", type(given).__name__)
        raise InvalidTypeError(
            f"{what} must be a function decorated with @cache.cached or @cache.cached_many, or a key template, not "
            f"{shown}; a function that names arguments stands behind the cached function they are for"
        )
    return cached


def _as_cached(given: Any) -> _Cached | None:
    """What was decorated, from the decorated function; ``None`` if it is none."""
    if isinstance(given, (staticmethod, classmethod)):
        given = given.__func__
    if isinstance(given, BoundCachedMethod):
        return _Cached(given.__func__._operations, (given.__self__,))
    if isinstance(given, CachedMethod):
        return _Cached(given._operations)
    if isinstance(given, CachedMany):
        return _Cached(given._operations, given._first)
    operations = getattr(getattr(given, "invalidate", None), "__self__", None)
    return _Cached(operations) if isinstance(operations, Operations) else None


def _by_name(cached: _Cached, parameters: Collection[str] | None, name: str) -> Callable[[Write], Iterable[_Arguments]]:
    """The arguments that have the names of the cached function's parameters."""
    operations = cached.operations
    theirs = list(inspect.signature(operations.fn).parameters.values())[len(cached.first) :]
    roles = operations.keys.parameters
    keyed = [parameter.name for parameter in theirs if roles[parameter.name] in _IN_KEY]
    lacking = [] if parameters is None else [one for one in keyed if one not in parameters]
    if lacking:
        raise ConfigurationError(
            f"the results of {operations.policy.name} depend on {', '.join(lacking)}, which {name} has no parameter "
            "for: put a function behind it that returns its arguments, such as lambda item_id: (item_id, None), or "
            "pass it as everything="
        )

    def arguments(write: Write) -> Iterable[_Arguments]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in theirs:
            if parameter.name not in write.arguments and parameter.name in keyed:
                raise InvalidTypeError(f"there is no argument {parameter.name}")
            value = write.arguments.get(parameter.name)  # whatever it is, it is in no key
            if parameters is None and isinstance(value, str):
                read = as_declared(value, operations.keys.hints.get(parameter.name, str))
                value = value if read is MISSING else read
            if isinstance(value, Iterator):
                raise InvalidTypeError(f"{parameter.name} can be read only once, and the write has done so")
            if parameter.kind is Parameter.VAR_POSITIONAL:
                args += value or ()
            elif parameter.kind is Parameter.VAR_KEYWORD:
                kwargs |= value or {}
            elif parameter.kind is Parameter.KEYWORD_ONLY:
                kwargs[parameter.name] = value
            else:
                args.append(value)
        return [(args, kwargs)]

    return arguments


def _mapped(
    cached: _Cached, mapper: Any, parameters: Collection[str] | None
) -> Callable[[Write], Iterable[_Arguments]]:
    """The arguments that a function of the user's returns."""
    takes = _checked_mapper(mapper, parameters)
    many = isinstance(cached.operations, ManyOperations)

    def arguments(write: Write) -> Iterable[_Arguments]:
        given = {RESULT: write.result, **write.arguments}
        args: list[Any] = []
        named: dict[str, Any] = {}
        for one in takes:
            if one.kind is Parameter.VAR_KEYWORD:
                named = {**write.arguments, **named}
            elif one.kind is Parameter.POSITIONAL_ONLY and one.name in given:
                args.append(given[one.name])
            elif one.kind is not Parameter.VAR_POSITIONAL and one.name in given:
                named[one.name] = given[one.name]
            elif one.kind is not Parameter.VAR_POSITIONAL and one.default is Parameter.empty:
                raise InvalidTypeError(f"there is no argument {one.name}")
        answer = mapper(*args, **named)
        if inspect.isawaitable(answer):
            raise InvalidTypeError("what names arguments must not be awaited")
        return _calls(answer, many=many)

    return arguments


def _calls(answer: Any, *, many: bool) -> list[_Arguments]:
    """The calls that an answer names: none, one, or a list of them."""
    if answer is None:
        return []
    answers = answer if isinstance(answer, list) else [answer]
    return [_call(one, many=many) for one in answers]


def _call(answer: Any, *, many: bool) -> _Arguments:
    if isinstance(answer, tuple):
        return answer, {}
    if isinstance(answer, dict):
        return (), answer
    if many and (isinstance(answer, (str, bytes)) or not isinstance(answer, Iterable)):
        return ([answer],), {}  # one element
    return (answer,), {}


def _checked_mapper(mapper: Any, parameters: Collection[str] | None) -> list[Parameter]:
    """The parameters of a function that names arguments.

    Raises:
        ConfigurationError: it is none, or takes what the write does not have.
    """
    if not callable(mapper) or isinstance(mapper, type):
        raise InvalidTypeError(
            "what stands behind a cached function must be another one, a key template, or a plain function that "
            f"returns its arguments, not {getattr(mapper, '__name__', type(mapper).__name__)}"
        )
    shown = getattr(mapper, "__qualname__", type(mapper).__name__)
    if inspect.iscoroutinefunction(mapper) or inspect.iscoroutinefunction(type(mapper).__call__):
        raise InvalidTypeError(f"{shown} names arguments and must be a plain function, not an async one")
    refuse_generators(mapper)
    try:
        takes = list(inspect.signature(mapper).parameters.values())
    except ValueError:
        raise ConfigurationError(f"{shown} has no signature that can be read; wrap it in a lambda") from None
    if parameters is not None:
        if RESULT in parameters and any(one.name == RESULT for one in takes):
            raise ConfigurationError(
                f"{shown} takes {RESULT}, which may be what the write returns or its argument of that name; rename it"
            )
        unknown = [
            one.name
            for one in takes
            if one.kind not in _STARRED
            and one.default is Parameter.empty
            and one.name != RESULT
            and one.name not in parameters
        ]
        if unknown:
            raise ConfigurationError(
                f"{shown} takes {', '.join(unknown)}, which the write has no parameter for; it has "
                f"{', '.join(parameters) or 'none'}, and {RESULT} for what it returns"
            )
    return takes


def _fields_of(template: str) -> set[str]:
    """What the fields of a template may begin with, where nobody knows the parameters: whatever they do."""
    try:
        return {
            name.partition(".")[0].partition("[")[0] for _, name, _, _ in string.Formatter().parse(template) if name
        }
    except ValueError:
        return set()


def is_cached(given: Any) -> bool:
    """Whether it was decorated with ``cached`` or ``cached_many``."""
    return _as_cached(given) is not None


def succeeded(result: Any) -> bool:
    """Whether a write that returned this has been done: a response may say that it has not."""
    return not (isinstance(result, Response) and result.status_code >= 400)
