"""What tells apart functions that their name does not: local ones and lambdas.

Two closures of one factory, two lambdas of a module, two local functions of one name: without more they would read each
other's entries. A digest of the code and of the immutable values in the cells goes behind the name. Cells that the
function assigns to (``nonlocal calls``) change from call to call and are left out; a cell that only a sibling assigns
to can't be told from a constant.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from enum import Enum
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from fast_cache.keys.encode import encode
from fast_cache.keys.scalars import IMMUTABLE
from fast_cache.keys.text import digest

_LENGTH: Final = 16
_ASSIGNS: Final = frozenset({"STORE_DEREF", "DELETE_DEREF"})


def local_digest(fn: Callable[..., Any]) -> tuple[str, tuple[str, ...]]:
    """Return a digest of what a local function is and was made with, and the closed-over names that are not in it.

    The digest is empty for a function that its name identifies. Modules, classes and functions in cells are not counted
    as data. Functions under ``__wrapped__`` are looked at too: the factory's values may be in theirs. The same source
    gives the same digest in every process of one Python version.
    """
    if "<" not in fn.__qualname__:  # neither <locals> nor <lambda>
        return "", ()
    layers = _layers(fn)
    constants: list[tuple[str, Any]] = []
    others: list[str] = []
    for name, value in (cell for layer in layers for cell in _cells(layer)):
        if _is_constant(value):
            constants.append((name, value))
        elif not isinstance(value, (ModuleType, type, FunctionType)):
            others.append(name)
    return digest(encode([[_form(layer.__code__) for layer in layers], constants]))[:_LENGTH], tuple(others)


def code_digest(fn: Callable[..., Any]) -> str:
    """Return a digest of a function's code, and of what it wraps: not of the functions that it calls.

    The same source gives the same digest in every process of one Python version.
    """
    return digest(encode([_form(layer.__code__) for layer in _layers(fn)]))[:_LENGTH]


def _layers(fn: Any) -> list[FunctionType]:
    layers: list[FunctionType] = []
    while isinstance(fn, FunctionType) and fn not in layers:
        layers.append(fn)
        fn = getattr(fn, "__wrapped__", None)
    return layers


def _cells(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    assigned = _assigned(fn.__code__)
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        if name in assigned:
            continue
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _assigned(code: CodeType) -> set[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname in _ASSIGNS}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _assigned(constant) & set(constant.co_freevars)
    return names


def _form(code: CodeType) -> tuple[object, ...]:
    """What the code does, as a value: no file, no line numbers, so that moving it changes nothing."""
    constants = [_form(item) if isinstance(item, CodeType) else item for item in code.co_consts]
    return code.co_code, code.co_exceptiontable, constants, code.co_names, code.co_freevars


def _is_constant(value: object) -> bool:
    if type(value) in (tuple, frozenset):
        return all(_is_constant(item) for item in value)  # type: ignore[attr-defined]
    return type(value) in IMMUTABLE or (isinstance(value, Enum) and "<locals>" not in type(value).__qualname__)
