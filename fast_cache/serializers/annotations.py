"""Annotations as text that stays the same from process to process.

The text of a type becomes part of what a stored entry says about itself, so that an entry of another type or of an
older version of a class is a miss. It is made of qualified names, never of an address or of a ``repr`` that has one.
"""

from __future__ import annotations

import enum
import inspect
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

_ANYTHING = (inspect.Signature.empty, Any, object, None, type(None))


def says_nothing(annotation: Any) -> bool:
    """Whether an annotation does not tell the type of a value: none, ``Any``, ``None``, or a name not looked up."""
    return isinstance(annotation, (str, typing.ForwardRef)) or any(annotation is nothing for nothing in _ANYTHING)


def describe(annotation: Any) -> str:
    """Return ``annotation`` as text: ``app.User``, ``list[app.User] | None``. Metadata of ``Annotated`` is left out."""
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is ...:
        return "..."
    if isinstance(annotation, str):
        return repr(annotation)
    if isinstance(annotation, typing.ForwardRef):
        return repr(annotation.__forward_arg__)
    if isinstance(annotation, (list, tuple)):
        return f"[{', '.join(map(describe, annotation))}]"
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        return describe(annotation.__origin__)
    if origin is Literal:
        return f"Literal[{', '.join(constant_text(value) or _named(type(value)) for value in get_args(annotation))}]"
    if origin is Union or origin is types.UnionType:
        return " | ".join(map(describe, get_args(annotation)))
    if origin is not None:
        return f"{_named(origin)}[{', '.join(map(describe, get_args(annotation)))}]"
    return _named(annotation)


def constant_text(value: Any) -> str | None:
    """Return a constant as text that stays the same and tells it from any other, or None where there is no such text.

    Constants are ``None``, bools, numbers, text, bytes, enum members, and lists, tuples and dicts of these.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, complex, str, bytes):
        return repr(value)
    if isinstance(value, enum.Enum):
        return f"{_named(kind)}.{value.name}"
    if kind in (list, tuple):
        items = [constant_text(item) for item in value]
        return None if None in items else f"{kind.__name__}({', '.join(filter(None, items))})"
    if kind is dict:
        pairs = constant_text([list(pair) for pair in value.items()])
        return None if pairs is None else f"dict({pairs})"
    return None


def _named(thing: Any) -> str:
    """The qualified name of a class, alias or type variable; of anything else, what it is an instance of."""
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return f"<{_named(type(thing))}>"
    return name if module == "builtins" else f"{module}.{name}"
