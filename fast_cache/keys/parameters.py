"""The role of each parameter, read from its annotation and default at decoration.

In this order: the author's ``NotKeyed``; a class that is a handle, a request or made for each request; identity, which
is hashed, because no token may stand in a store; else it is keyed. Identity is what FastAPI takes from a header, a
cookie, a security scheme or the request, and what a dependency makes of these.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

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
    return Role.HASHED if role is Role.KEYED and _is_identity(parameter, outlined, []) else role


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
        hints = resolve_hints(_function_of(dependency))
    except (TypeError, ValueError):  # a builtin without a signature reads no request
        return False
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
    elif not inspect.isroutine(dependency):
        dependency = type(dependency).__call__
    function: Callable[..., Any] = dependency
    return function
