"""The names of classes in stored bytes, and the way back from a name to a class.

A name is ``module:qualname#shape``: the shape is a digest of the fields, so that an instance of an older version of a
class is a miss. Bytes are not trusted: a name leads only to a class of the expected kind that this process has
already, looked up in the dictionaries of imported modules; nothing is imported and no code of the user runs. A class
that can't be reached in that way (``<locals>``, ``create_model``) gets a random name, known to this process alone.
"""

from __future__ import annotations

import secrets
import sys
from hashlib import blake2b
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from fast_cache.errors import DecodeError
from fast_cache.serializers.annotations import describe
from fast_cache.serializers.kinds import Kind, fields_of, kind_of

_plain_names: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_private_names: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_private_classes: WeakValueDictionary[str, type] = WeakValueDictionary()


def plain_name(cls: type) -> str:
    """``module:qualname#shape`` of a class of some kind, whether or not that leads back to it."""
    try:
        return _plain_names[cls]
    except KeyError:
        kind = kind_of(cls)
        assert kind is not None, "only classes of some kind are named"
        name = f"{cls.__module__}:{cls.__qualname__}#{_shape(cls, kind)}"
        if getattr(cls, "__pydantic_complete__", True):  # else its annotations are still to be looked up
            _plain_names[cls] = name
        return name


def name_of(cls: type) -> str:
    """The name by which :func:`class_of` finds ``cls`` again: everywhere if possible, else in this process."""
    name = plain_name(cls)
    if _reach(name) is cls:  # looked up each time, because a reloaded module has another class there
        return name
    private = _private_names.get(cls)
    if private is None:
        private = _private_names.setdefault(cls, f"{name}@{secrets.token_hex(8)}")
        _private_classes[private] = cls
    return private


def class_of(name: str, kind: Kind) -> type:
    """Return the class that :func:`name_of` named.

    Raises:
        DecodeError: this process has no such class, or it is of another kind or shape by now.
    """
    found = _private_classes.get(name)
    if found is None:
        found = _reach(name)
        if not isinstance(found, type) or kind_of(found) is not kind or plain_name(found) != name:
            raise DecodeError(f"no imported module has this {kind.name.lower()} class in the version that was stored")
    elif kind_of(found) is not kind:
        raise DecodeError(f"the stored class is no {kind.name.lower()} class")
    return found


def _reach(name: str) -> Any:
    """What the name leads to through dictionaries alone: attribute access could run a module's ``__getattr__``."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.partition("#")[0].split("."):
        # Not vars(): an attribute of a lazily loaded module runs its loader, even ``__dict__``.
        if issubclass(type(found), ModuleType):
            found = object.__getattribute__(found, "__dict__").get(part)
        elif issubclass(type(found), type):
            found = type.__getattribute__(found, "__dict__").get(part)
        else:
            return None
    return found


def _shape(cls: type, kind: Kind) -> str:
    fields = [(name, describe(annotation)) for name, annotation in fields_of(cls, kind)]
    return blake2b(repr((kind.value, fields)).encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
