"""The kinds of classes whose instances can be stored, and what their instances are made of.

An instance is taken apart and put together from its raw attributes: no constructor, validator or ``__post_init__``
runs, so nothing is hidden, checked again or changed. What ``functools.cached_property`` and ``typing.Generic`` leave in
an instance is no part of the value. A class whose instances keep anything elsewhere is not of any kind.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
import typing
from functools import cached_property
from types import MemberDescriptorType
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from pydantic import BaseModel


class Kind(enum.Enum):
    """What sort of class; the values are the tags of instances in stored JSON.

    A typed dict has fields, and so versions, but no instances of its own: they are plain dicts.
    """

    ENUM = "$enum"
    MODEL = "$model"
    DATACLASS = "$dataclass"
    NAMEDTUPLE = "$namedtuple"
    STRUCT = "$struct"
    TYPEDDICT = "$typeddict"


class Anatomy(NamedTuple):
    """Where the instances of a class keep what they are. Holds no reference to the class.

    ``fields``: of a struct or named tuple, in order. ``slots``: attributes outside ``__dict__``, without those that
    every Pydantic model has. ``memos``: names in ``__dict__`` that are no part of the value. ``hooked``: instances can
    be made only by calling the class, and that runs the user's code.
    """

    kind: Kind
    fields: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    memos: frozenset[str] = frozenset()
    has_dict: bool = False
    hooked: bool = False


_UNSEEN: Final = Anatomy(Kind.TYPEDDICT)
_anatomies: WeakKeyDictionary[type, Anatomy | None] = WeakKeyDictionary()


def anatomy_of(cls: type) -> Anatomy | None:
    """The anatomy of ``cls``; None if its instances can't be stored."""
    found = _anatomies.get(cls, _UNSEEN)
    if found is _UNSEEN:
        found = _anatomies[cls] = _dissect(cls)
    return found


def kind_of(cls: type) -> Kind | None:
    """The kind of ``cls``, by its ancestry alone: no code of the class runs."""
    mro = cls.__mro__
    if enum.Enum in mro:
        return Kind.ENUM
    if BaseModel in mro:
        return Kind.MODEL
    if any("__dataclass_fields__" in vars(base) for base in mro):
        return Kind.DATACLASS
    if tuple in mro and any("_fields" in vars(base) for base in mro):
        return Kind.NAMEDTUPLE
    if dict in mro and hasattr(cls, "__required_keys__"):
        return Kind.TYPEDDICT
    # A struct can only exist where msgspec was imported.
    struct = getattr(sys.modules.get("msgspec"), "Struct", None)
    return Kind.STRUCT if struct in mro else None


def state_of(value: Any, anatomy: Anatomy) -> dict[str, Any]:
    """The raw attributes of an instance; those it lacks are left out. Not to be changed: it may be its ``__dict__``."""
    state: dict[str, Any] = value.__dict__ if anatomy.has_dict else {}
    if not anatomy.memos.isdisjoint(state):
        state = {name: part for name, part in state.items() if name not in anatomy.memos}
    if anatomy.slots:
        state = dict(state)
        for name in anatomy.slots:
            try:
                state[name] = object.__getattribute__(value, name)
            except AttributeError:
                continue
    return state


def fields_of(cls: type, kind: Kind) -> list[tuple[str, Any]]:
    """The names and annotations of the fields of ``cls``, as they were written."""
    if kind is Kind.MODEL:
        model = typing.cast("type[BaseModel]", cls)
        if not model.__pydantic_complete__:
            # It names a class that was defined after it: look again, or its fields would read differently later.
            model.model_rebuild(raise_errors=False)
        private = [(name, "private") for name in model.__private_attributes__]
        return [(name, field.annotation) for name, field in model.model_fields.items()] + private
    if kind is Kind.DATACLASS:
        return [(field.name, field.type) for field in dataclasses.fields(cls)]
    if kind is Kind.ENUM:
        return []
    if kind is Kind.TYPEDDICT:
        return list(inspect.get_annotations(cls).items())
    annotations: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        annotations |= inspect.get_annotations(base)
    return [(name, annotations.get(name, "untyped")) for name in _positional(cls, kind)]


def resolved_fields_of(cls: type, kind: Kind) -> list[tuple[str, Any]]:
    """Like :func:`fields_of`, with annotations that are text looked up where that is possible."""
    fields = fields_of(cls, kind)
    if kind is Kind.MODEL or kind is Kind.ENUM:
        return fields  # Pydantic has looked them up
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception:  # whatever evaluating an annotation may raise
        return fields
    return [(name, hints.get(name, annotation)) for name, annotation in fields]


def _dissect(cls: type) -> Anatomy | None:
    kind = kind_of(cls)
    if kind is None or kind is Kind.TYPEDDICT:
        return None
    if kind is Kind.ENUM:
        return Anatomy(kind)
    if hasattr(cls, "__del__"):
        return None  # it holds something that must be given back once, not once per copy
    fields = _positional(cls, kind)
    slots = _slots(cls) if kind is Kind.MODEL or kind is Kind.DATACLASS else []
    if slots is None or (kind is Kind.MODEL and slots) or not _can_be_made(cls, kind, len(fields)):
        return None
    return Anatomy(
        kind,
        fields,
        slots=tuple(slots),
        memos=_memos(cls),
        has_dict=cls.__dictoffset__ != 0,
        hooked=kind is Kind.STRUCT and hasattr(cls, "__post_init__"),
    )


def _positional(cls: Any, kind: Kind) -> tuple[str, ...]:
    if kind is Kind.NAMEDTUPLE:
        return tuple(cls._fields)
    return tuple(cls.__struct_fields__) if kind is Kind.STRUCT else ()


def _slots(cls: type) -> list[str] | None:
    """The names of the slots; None if one is covered by an attribute of a subclass, and so out of reach."""
    slots = []
    for base in cls.__mro__:
        for name, part in vars(base).items():
            if isinstance(part, MemberDescriptorType) and base is not BaseModel:
                if inspect.getattr_static(cls, name) is not part:
                    return None
                slots.append(name)
    return slots


def _memos(cls: type) -> frozenset[str]:
    cached = {name for base in cls.__mro__ for name, part in vars(base).items() if isinstance(part, cached_property)}
    return frozenset(cached | {"__orig_class__"} if typing.Generic in cls.__mro__ else cached)


def _can_be_made(cls: type, kind: Kind, length: int) -> bool:
    """Whether a bare instance can be made: not of a class that inherits data kept in C, as from dict or Exception."""
    try:
        if kind is Kind.NAMEDTUPLE:
            tuple.__new__(cls, (None,) * length)
        elif kind is not Kind.STRUCT:
            object.__new__(cls)
    except TypeError:
        return False
    return True
