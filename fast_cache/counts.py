"""Whole numbers as options: how many of something."""

from __future__ import annotations

from fast_cache.errors import ConfigurationError, InvalidTypeError


def count(value: object, *, option: str) -> int:
    """Return ``value`` if it is a whole number from 1 on; ``option`` names the setting in the error.

    Raises:
        InvalidTypeError: not a whole number.
        ConfigurationError: below 1.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidTypeError(f"{option} must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise ConfigurationError(f"{option} must be at least 1, got {value}")
    return value


def optional_count(value: object, *, option: str) -> int | None:
    """The same, where ``None`` says that there is no such number."""
    return None if value is None else count(value, option=option)
