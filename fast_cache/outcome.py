"""How a call to the user's function ended: a value or an exception, carried as data.

An exception travels as a value between the flow and the wrapper, because a ``StopIteration`` raised through a
coroutine would end the coroutine instead, and because followers of a flight raise what their leader met.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType, TracebackType, WrapperDescriptorType
from typing import Any, Final

from fast_cache.errors import EncodeError

_NO_MEMBERS: Final = frozenset({"__dict__", "__weakref__"})


class Absent(Exception):
    """There is nothing of what a loader of many was asked for. It is met as an exception, and seen by nobody."""


class Raised:
    """An exception that is stored in the place of a value, without the frames that it was raised through.

    Raises:
        EncodeError: it can't be copied so that the same exception is raised again.
    """

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error: Exception = copied(error)

    @classmethod
    def of(cls, error: Exception) -> Raised | None:
        """The exception as it can be stored; ``None`` if it can't be copied."""
        try:
            return cls(error)
        except EncodeError:
            return None

    def anew(self) -> Exception:
        """The exception as it is raised once: each caller gets a traceback and notes of its own."""
        try:
            made: Exception = _Copies().of(self.error)
        except Exception:  # what could be copied once can be copied again, unless code of the user's has a say in it
            return self.error.with_traceback(None)
        return made


class Outcome:
    """A returned ``value``, or the ``error`` that was raised instead, after so many ``seconds``.

    ``copies`` makes the value anew for each caller who shares the load: without it they share one object.
    """

    __slots__ = ("_traceback", "copies", "error", "seconds", "value")

    def __init__(self, value: Any = None, error: Exception | None = None, seconds: float = 0.0) -> None:
        self.value = value
        self.error = error
        self.seconds = seconds
        self.copies: Callable[[], Any] | None = None
        self._traceback: TracebackType | None = error.__traceback__ if error is not None else None

    def for_follower(self) -> Outcome:
        """The outcome as somebody gets it who waited for another's load."""
        return self if self.copies is None else Outcome(self.copies())

    def unwrap(self) -> Any:
        """Return the value, or raise the error as the user's function raised it."""
        error = self.error
        if error is None:
            return self.value
        # Several callers raise one exception object: each starts from the traceback of the function itself, or
        # the list of frames would grow with the number of callers. The names are dropped because the traceback
        # refers to this frame, which would refer to the exception: a cycle for the garbage collector.
        try:
            raise error.with_traceback(self._traceback)
        finally:
            del self, error


def copied(error: Exception) -> Exception:
    """The same exception without traceback, cause and context, and so without the frames that these keep alive.

    Raises:
        EncodeError: it can't be copied faithfully.
    """
    try:
        made: Exception = _Copies().of(error)
        faithful = type(made) is type(error) and str(made) == str(error)
    except Exception:
        faithful = False
    if not faithful:
        raise EncodeError(f"a {type(error).__name__} can't be copied so that the same exception comes back")
    return made


def made_of(
    cls: type[BaseException], args: tuple[Any, ...], attributes: Mapping[str, Any], members: Mapping[str, Any]
) -> Any:
    """An exception made from its parts. No constructor of the user's runs: it might change the parts, or refuse them.

    Raises:
        Exception: this class can't have these parts.
    """
    return _filled(_bare(cls, args), args, attributes, members)


def members_of(error: BaseException) -> dict[str, Any]:
    """What an exception holds beside ``args`` and its ``__dict__``: fields of builtin exceptions, and ``__slots__``."""
    held = {name: _read(member, error) for name, member in _members(type(error))}
    return {name: value for name, value in held.items() if value is not None}


class _Copies:
    """Copies of an exception and of those that it holds: each of them keeps frames, and each is copied once."""

    def __init__(self) -> None:
        self._made: dict[int, BaseException] = {}

    def of(self, error: BaseException) -> Any:
        known = self._made.get(id(error))
        if known is not None:
            return known
        args = error.args
        if isinstance(error, BaseExceptionGroup):
            args = (error.message, [self.of(member) for member in error.exceptions])
        try:
            made = _bare(type(error), args)
        except TypeError:
            self._made[id(error)] = made = _reduced(error)
            return made
        self._made[id(error)] = made  # first, because its parts may refer to it
        attributes = {name: self._part(value) for name, value in vars(error).items()}
        members = {name: self._part(value) for name, value in members_of(error).items()}
        return _filled(made, tuple(map(self._part, error.args)), attributes, members)

    def _part(self, value: Any) -> Any:
        """What a copy holds: containers of its own, such as the list of notes, and copies of exceptions."""
        if isinstance(value, BaseException):
            return self.of(value)
        kind = type(value)
        if kind is dict:
            return {name: self._item(item) for name, item in value.items()}
        if kind in (list, tuple, set):
            return kind(map(self._item, value))
        return value

    def _item(self, item: Any) -> Any:
        return self.of(item) if isinstance(item, BaseException) else item


def _bare(cls: type[BaseException], args: tuple[Any, ...]) -> Any:
    """A new exception of a class, as the builtin that it descends from makes it."""
    made: Any = None
    for base in cls.__mro__:
        new = vars(base).get("__new__")
        if isinstance(new, BuiltinFunctionType):
            with suppress(TypeError):  # of an ancestor whose instances are laid out otherwise
                made = new(cls, *args)
                break
    if type(made) is not cls:
        raise TypeError(f"no builtin makes a {cls.__name__}")
    init = next(init for base in cls.__mro__ if type(init := vars(base).get("__init__")) is WrapperDescriptorType)
    with suppress(Exception):  # it takes other arguments than are left as ``args``
        init(made, *args)
    return made


def _filled(made: Any, args: tuple[Any, ...], attributes: Mapping[str, Any], members: Mapping[str, Any]) -> Any:
    made.args = args
    for name, member in _members(type(made)):
        if name in members and _read(member, made) is not members[name]:
            member.__set__(made, members[name])
    vars(made).update(attributes)
    return made


def _reduced(error: BaseException) -> BaseException:
    """A copy of an exception whose class is written in another language and knows itself how to copy."""
    made = copy.copy(error)
    if made is error:
        raise TypeError("a copy must be another object")
    made.__cause__ = made.__context__ = None
    return made.with_traceback(None)


def _members(cls: type[BaseException]) -> Iterator[tuple[str, Any]]:
    for base in cls.__mro__:
        if base in (BaseExceptionGroup, BaseException, object):  # what these have is made by __new__, or is args
            continue
        for name, member in vars(base).items():
            if name in _NO_MEMBERS or (base is AttributeError and name == "obj"):  # which is anything, kept for hints
                continue
            if isinstance(member, (MemberDescriptorType, GetSetDescriptorType)):
                yield name, member


def _read(member: Any, error: BaseException) -> Any:
    try:
        return member.__get__(error)
    except (AttributeError, TypeError):  # not assigned
        return None
