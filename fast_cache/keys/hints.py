"""Annotations as objects, and what they say about a parameter.

Text annotations (``from __future__ import annotations``) are evaluated one by one, so that one name that exists only
for type checkers does not hide the others: an unknown name becomes a ``ForwardRef``, so that ``NotKeyed`` around it is
still seen; what can't be evaluated at all stays text. Nothing here raises for an annotation's sake.
"""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ForwardRef


class _Names(dict[str, Any]):
    """Every name that an annotation may use; the unknown ones stand for themselves."""

    def __missing__(self, name: str) -> ForwardRef:
        return ForwardRef(name)


@dataclasses.dataclass(frozen=True, slots=True)
class Outline:
    """An annotation taken apart: the classes it names (``None`` left aside), and all ``Annotated`` metadata.

    ``complete`` is false where some member of it is no class: a name that is unknown, ``Any``, a literal.
    """

    classes: tuple[type, ...]
    metadata: tuple[Any, ...]
    complete: bool


def resolve_hints(fn: Callable[..., Any], *, localns: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the annotations of a function's parameters and its ``return``, with ``Annotated`` kept.

    Args:
        fn: a function, decorated or not: its signature is what :func:`inspect.signature` says.
        localns: names of the scope in which the function was defined, if that is no module.
    """
    inner = inspect.unwrap(fn)
    namespace = getattr(inner, "__globals__", {})
    names = _Names({**vars(builtins), **namespace, **_closed_over(inner), **(localns or {})})
    for parameter in getattr(inner, "__type_params__", ()):
        names[parameter.__name__] = parameter
    signature = inspect.signature(fn)
    annotations = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    annotations["return"] = signature.return_annotation
    return {
        name: _evaluate(annotation, namespace, names)
        for name, annotation in annotations.items()
        if annotation is not inspect.Signature.empty
    }


def outline(annotation: Any) -> Outline:
    """Take an annotation apart, through ``Annotated``, unions, aliases, ``NewType`` and generics."""
    classes: list[type] = []
    metadata: list[Any] = []
    complete = True
    for member in _members(annotation, metadata):
        if member is None or member is types.NoneType:
            continue
        if isinstance(member, type):
            classes.append(member)
        else:
            complete = False
    return Outline(tuple(classes), tuple(metadata), complete)


def _members(annotation: Any, metadata: list[Any]) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        metadata.extend(annotation.__metadata__)
        yield from _members(annotation.__origin__, metadata)
    elif origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _members(argument, metadata)
    elif isinstance(annotation, typing.NewType):
        yield from _members(annotation.__supertype__, metadata)
    elif type(annotation).__name__ == "TypeAliasType":
        yield from _members(annotation.__value__, metadata)
    else:
        yield annotation if origin is None else origin


def _evaluate(annotation: Any, namespace: dict[str, Any], names: _Names) -> Any:
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=namespace, localns=names, include_extras=True)["it"]
    except Exception:  # an annotation may hold any expression, and may fail in any way
        return annotation


def _closed_over(fn: Callable[..., Any]) -> dict[str, Any]:
    code, cells = getattr(fn, "__code__", None), getattr(fn, "__closure__", None) or ()
    found: dict[str, Any] = {}
    for name, cell in zip(getattr(code, "co_freevars", ()), cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found
