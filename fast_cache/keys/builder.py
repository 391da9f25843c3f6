"""How a ``key_builder`` is called: checked once, at decoration, against the function's signature.

By name where the builder names the function's parameters, in any order; else by position, as the function would be
called with its defaults applied. A builder that names a parameter but would be given another one by position is
refused: it would build the wrong key for every call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

from fast_cache.errors import ConfigurationError, InvalidTypeError
from fast_cache.keys.binder import POSITIONAL, stars

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def builder_arguments(builder: Callable[..., Any], signature: Signature) -> str:
    """Return the argument list, as source, with which ``builder`` is called inside a function of ``signature``.

    Raises:
        ConfigurationError: it is a coroutine or generator function, or does not accept the function's parameters.
        InvalidTypeError: it can't be called.
    """
    if not callable(builder):
        raise InvalidTypeError(f"key_builder= must be a function, not {type(builder).__name__}")
    checks = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    if any(check(function) for check in checks for function in (builder, type(builder).__call__)):
        raise ConfigurationError("key_builder= must be a plain function that returns: a key is made without waiting")
    try:
        accepted = inspect.signature(builder)
    except (TypeError, ValueError):  # some builtins have no signature: nothing to check against
        return _by_position(signature)
    if _names_parameters(accepted, signature):
        return ", ".join(f"{name}={name}" for name in signature.parameters)
    _check_positions(accepted, signature)
    return _by_position(signature)


def _names_parameters(accepted: Signature, signature: Signature) -> bool:
    """Whether the builder takes every parameter of the function by its name, and says so."""
    if any(parameter.kind not in _NAMED for parameter in signature.parameters.values()):
        return False
    named = {name for name, parameter in accepted.parameters.items() if parameter.kind in _NAMED}
    if not named & signature.parameters.keys():
        return False
    try:
        accepted.bind(**dict.fromkeys(signature.parameters))
    except TypeError:
        return False
    return True


def _check_positions(accepted: Signature, signature: Signature) -> None:
    places = [name for name, parameter in signature.parameters.items() if parameter.kind in POSITIONAL]
    keywords = [name for name, parameter in signature.parameters.items() if parameter.kind is Parameter.KEYWORD_ONLY]
    try:
        bound = accepted.bind(*places, **dict.fromkeys(keywords))
    except TypeError as error:
        wanted = ", ".join(map(str, signature.parameters.values()))
        raise ConfigurationError(
            f"key_builder= is called with the function's own arguments ({wanted}), which it does not accept: {error}"
        ) from None
    for name, given in bound.arguments.items():
        if given in places and name in places and name != given:
            raise ConfigurationError(
                f"key_builder= takes {name!r} where the function has {given!r}; give it the function's parameters, "
                "by the same names or in the same order"
            )


def _by_position(signature: Signature) -> str:
    pieces: list[str] = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is Parameter.KEYWORD_ONLY:
            pieces.append(f"{name}={name}")
        else:
            pieces.append(f"{stars(parameter)}{name}")
    return ", ".join(pieces)
