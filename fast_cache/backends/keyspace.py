"""What may be a key and what may be a namespace: checked once, at the border, for every built-in backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fast_cache.errors import ConfigurationError, InvalidTypeError

MAX_KEY_LENGTH = 4096
"""Characters. Keys made by decorated functions are far shorter: long arguments are digested."""


def check_key(key: str) -> str:
    """Return ``key`` if a value can be stored under it.

    Raises:
        InvalidTypeError: not text.
        ConfigurationError: empty, longer than 4096 characters, or not encodable as UTF-8.
    """
    if type(key) is not str and not isinstance(key, str):
        raise InvalidTypeError(f"a key must be text, not {type(key).__name__}")
    if not key:
        raise ConfigurationError("a key must not be empty")
    if len(key) > MAX_KEY_LENGTH:
        raise ConfigurationError(f"a key may have at most {MAX_KEY_LENGTH} characters, this one has {len(key)}")
    if not key.isascii():
        _check_encodable(key, "a key")
    return key


def check_keys(keys: Iterable[str | Iterable[str]]) -> tuple[str, ...]:
    """Return the keys that were given as arguments, or as one iterable of them.

    Raises:
        InvalidTypeError, ConfigurationError: as for :func:`check_key`.
    """
    given = tuple(keys)
    if len(given) == 1 and not isinstance(given[0], str) and isinstance(given[0], Iterable):
        given = tuple(given[0])
    return tuple(check_key(key) for key in given)  # type: ignore[arg-type]  # that is what is checked


def check_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values if each can be stored under its key.

    Raises:
        InvalidTypeError, ConfigurationError: as for :func:`check_key`; or it is no mapping.
    """
    if not isinstance(values, Mapping):
        raise InvalidTypeError(f"set_many takes a dict of values by their keys, not a {type(values).__name__}")
    return {check_key(key): value for key, value in values.items()}


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if keys may begin with it; it may be empty.

    Raises:
        InvalidTypeError, ConfigurationError: as for :func:`check_key`.
    """
    return check_key(prefix) if not isinstance(prefix, str) or prefix else prefix


def check_namespace(namespace: str) -> str:
    """Return ``namespace`` if it can be the first part of keys.

    Raises:
        InvalidTypeError: not text.
        ConfigurationError: empty, longer than 256 characters, with control characters, or not encodable as UTF-8.
    """
    if not isinstance(namespace, str):
        raise InvalidTypeError(f"namespace must be text, not {type(namespace).__name__}")
    if not namespace or len(namespace) > 256:
        raise ConfigurationError("namespace must have 1 to 256 characters")
    if any(ord(char) < 32 or 127 <= ord(char) < 160 for char in namespace):
        raise ConfigurationError("namespace must not contain control characters")
    _check_encodable(namespace, "namespace")
    return namespace


def _check_encodable(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{what} must be encodable as UTF-8; it contains a lone surrogate") from None
