"""What all keys of one function begin with.

``namespace:module.qualname:version:``, or without ``namespace:``. Parts are escaped, so none can imitate a boundary. A
function's name always has a dot and a version never does: a key with a namespace is never one without.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from fast_cache.errors import ConfigurationError, InvalidTypeError
from fast_cache.keys.text import escape_part

DEFAULT_VERSION: Final = "1"

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def make_prefix(fn: Callable[..., Any], *, namespace: str | None, version: str | int | None, suffix: str) -> str:
    """Return the prefix of a function's keys.

    Args:
        fn: the function.
        namespace: text without control characters, or ``None``.
        version: text without control characters, an int, or ``None`` for the default.
        suffix: what else tells the function from others of its name, or ``""``.

    Raises:
        ConfigurationError: namespace or version is empty or has control characters.
        InvalidTypeError: one of them is of another type.
    """
    name = escape_part(f"{fn.__module__}.{fn.__qualname__}") + (f"~{suffix}" if suffix else "")
    if isinstance(version, int) and not isinstance(version, bool):
        version = str(version)
    number = escape_part(_checked("version", DEFAULT_VERSION if version is None else version)).replace(".", "%2E")
    space = "" if namespace is None else escape_namespace(namespace)
    return f"{space}{name}:{number}:"


def prefixes_of(key: str) -> tuple[str, str]:
    """What a text key would begin with that is a function's, without a namespace and with one."""
    end = key.find(":", key.find(":") + 1) + 1
    return key[:end], key[: key.find(":", end) + 1] if end else ""


def escape_namespace(namespace: object) -> str:
    """What the keys of a namespace begin with; raises what :func:`make_prefix` does."""
    return f"{escape_part(_checked('namespace', namespace))}:"


def _checked(option: str, text: object) -> str:
    if not isinstance(text, str):
        raise InvalidTypeError(f"{option}= must be text, not {type(text).__name__}")
    if not text:
        raise ConfigurationError(f"{option}= is empty; leave it out (None) for the default")
    if _CONTROL.search(text):
        raise ConfigurationError(f"{option}={text!r} has control characters, which stores and logs can't take")
    return text
