"""The role of each parameter, read from its annotation and default at decoration.

In this order: the author's ``NotKeyed``; a class that is a handle, a request or made for each request; identity, which
is hashed, because no token may stand in a store; else it is keyed. Identity is what FastAPI takes from a header, a
cookie, a security scheme or the request, and what a dependency makes of these: a handle made of it is one visitor's.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, get_args

from fast_cache.keys.classes import ancestry
from fast_cache.keys.hints import Outline, outline, resolve_hints
from fast_cache.keys.roles import NotKeyed, Role, role_of_class

_MARKERS: Final = frozenset({("fastapi", "Header"), ("fastapi", "Cookie"), ("fastapi", "Security")})
_DEPENDS: Final = ("fastapi", "Depends")
_SCHEME: Final = ("fastapi", "SecurityBase")


def role_of_parameter(parameter: inspect.Parameter, hint: Any) -> Role:
    """Return the role that a parameter's annotation, as resolved, and its default give it."""
    outlined = outline(hint)
    if any(mark is NotKeyed or isinstance(mark, NotKeyed) for mark in outlined.metadata):
        return Role.NOT_KEYED
    role = _role_of_classes(outlined)
    if role in (Role.KEYED, Role.HANDLE) and _is_identity(parameter, outlined, []):
        return Role.HASHED if role is Role.KEYED else Role.REQUEST
    return role


def tells_nothing(hint: Any, dependency: Callable[..., Any]) -> bool:
    """Whether what a dependency returns is ``None``, a ``bool`` or a constant, so that it tells no two visitors apart.

    By the annotation of the parameter that takes it or of what it returns (or yields), or, where it returns without
    an annotation, by its code. ``User | None`` tells: its ``None`` is one visitor, the anonymous one.

    Args:
        hint: the annotation of the parameter, as resolved, ``None`` where it has none.
        dependency: what FastAPI calls for it.
    """
    if _is_silent(hint):
        return True
    if isinstance(dependency, type):
        return False
    function = _function_of(dependency)
    returned = hints_of(dependency).get("return")
    if returned is None:
        return _returns_constants(function)
    if _yields(function):  # FastAPI hands on what is yielded; an iterator that is returned is the value itself
        yielded = get_args(returned)[:1]
        return yielded == (None,) or any(map(_is_silent, yielded))
    return _is_silent(returned)


def hints_of(call: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of what calling ``call`` takes and returns; empty where there is no signature to read."""
    try:
        return resolve_hints(_function_of(call))
    except (TypeError, ValueError):
        return {}


def _is_silent(hint: Any) -> bool:
    outlined = outline(hint)
    return hint is not None and outlined.complete and set(outlined.classes) <= {bool}


def _yields(function: Callable[..., Any]) -> bool:
    bare = inspect.unwrap(function)
    return inspect.isgeneratorfunction(bare) or inspect.isasyncgenfunction(bare)


def _returns_constants(function: Callable[..., Any]) -> bool:
    code = getattr(function, "__code__", None)
    if code is None or _yields(function):
        return False
    # Before Python 3.12, and from 3.14 on, a constant is loaded and then returned; in between one step does both.
    return not any(
        step.opname == "RETURN_VALUE" and (step.is_jump_target or before.opname != "LOAD_CONST")
        for before, step in pairwise(dis.get_instructions(code))
    )


def _role_of_classes(outlined: Outline) -> Role:
    roles = {role_of_class(cls) for cls in outlined.classes}
    # What can't be resolved, or may be one thing or another, is judged by the value, at the call.
    return roles.pop() if outlined.complete and len(roles) == 1 else Role.KEYED


def _is_identity(parameter: inspect.Parameter, outlined: Outline, seen: list[Any]) -> bool:
    for mark in (*outlined.metadata, parameter.default):
        family = ancestry(type(mark))
        if family & _MARKERS:
            return True
        if _DEPENDS in family:
            dependencies = outlined.classes if mark.dependency is None else (mark.dependency,)
            if any(_reads_identity(dependency, seen) for dependency in dependencies):
                return True
    return False


def _reads_identity(dependency: Callable[..., Any], seen: list[Any]) -> bool:
    """Whether a dependency is a security scheme, takes a request, or has a parameter that is identity."""
    if _SCHEME in ancestry(type(dependency)):
        return True
    if any(dependency is other for other in seen):
        return False
    seen.append(dependency)
    try:
        parameters = inspect.signature(dependency).parameters
    except (TypeError, ValueError):  # a builtin without a signature reads no request
        return False
    hints = hints_of(dependency)
    for name, parameter in parameters.items():
        outlined = outline(hints.get(name))
        if _role_of_classes(outlined) is Role.REQUEST or _is_identity(parameter, outlined, seen):
            return True
    return False


def _function_of(dependency: Any) -> Callable[..., Any]:
    """The function whose annotations describe what calling ``dependency`` takes."""
    while isinstance(dependency, functools.partial):
        dependency = dependency.func
    if isinstance(dependency, type):
        dependency = dependency.__init__  # type: ignore[misc]
    elif not inspect.isroutine(dependency) and not hasattr(dependency, "__wrapped__"):
        dependency = type(dependency).__call__
    function: Callable[..., Any] = dependency
    return function
