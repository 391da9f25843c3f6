"""Instances of classes that are not the standard library's own: how each class is encoded, decided once per class.

Every encoding carries the class's label, so equal contents of two classes are two keys. State is read raw, from the
attributes: no ``model_dump``, no ``repr``, no serialiser that hides what a result depends on. Secrets are hashed. What
is not known to be a value is refused; nothing falls back to ``repr``, ``hash`` or pickle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final
from weakref import WeakKeyDictionary

from fast_cache.keys.classes import ancestry, cached_properties, defines, importable, label, slots
from fast_cache.keys.containers import CONTAINERS
from fast_cache.keys.scalars import LEAVES, PLAIN
from fast_cache.keys.text import escape_name, hashed, quote
from fast_cache.keys.walk import Encoder, RefusalError, Walk

CACHE_KEY: Final = "__cache_key__"

_ABSENT: Final = object()
_ARRAYS: Final = frozenset({"numpy", "pandas", "polars", "pyarrow", "torch", "tensorflow", "jax"})
"""Packages whose scalars derive from builtins and hold more than the builtin shows (a Timestamp's nanoseconds)."""

_SECRETS: Final = frozenset({("pydantic", "SecretStr"), ("pydantic", "SecretBytes"), ("pydantic", "Secret")})
_CREDENTIALS: Final = frozenset({("fastapi", "HTTPBasicCredentials"), ("fastapi", "HTTPAuthorizationCredentials")})
"""What FastAPI's security schemes return: models with the password or token in plain text."""

_URLS: Final = frozenset(
    (package, name)
    for package in ("pydantic", "pydantic_core")
    for name in ("Url", "MultiHostUrl", "_BaseUrl", "_BaseMultiHostUrl")
)
_known: WeakKeyDictionary[type, Encoder] = WeakKeyDictionary()


def encoder_for(value: Any) -> Encoder:
    """Return the encoder for a value that is not a leaf."""
    cls = type(value)
    container = CONTAINERS.get(cls)
    if container is not None:
        return container
    if not isinstance(value, type) and CACHE_KEY in getattr(value, "__dict__", ()):
        return _by_cache_key
    found = _known.get(cls)
    if found is None:
        found = _known[cls] = _resolve(cls)
    return found


def _resolve(cls: type) -> Encoder:
    """Choose by class. What is returned must not refer to the class: it would never be collected."""
    family = ancestry(cls)
    packages = {package for package, _ in family}
    if defines(cls, CACHE_KEY):
        return _by_cache_key
    if issubclass(cls, type):
        return _class
    if cls in (FunctionType, BuiltinFunctionType):
        return _function
    if packages & _ARRAYS or hasattr(cls, "n_sequence_fields"):  # the second: struct sequences hide fields
        return _refuse
    if family & _SECRETS:
        return _secret
    if ("starlette", "Secret") in family:
        return _starlette_secret
    if family & _URLS:
        return _url
    if issubclass(cls, Enum):
        return _enum
    if ("msgspec", "UnsetType") in family:
        return _singleton
    if any(base.__module__ == "pydantic.main" and base.__name__ == "BaseModel" for base in cls.__mro__):
        return _credentials if family & _CREDENTIALS else _model(cls)
    return _instance(cls)


def _refuse(value: Any, walk: Walk) -> str:
    _own(value)  # says more about rows of an ORM
    cls = type(value)
    raise RefusalError(f"{cls.__module__}.{cls.__qualname__} can't be part of a cache key")


def _by_cache_key(value: Any, walk: Walk) -> str:
    given = getattr(value, CACHE_KEY)
    return f"{label(type(value))}(!{walk.part(f'{CACHE_KEY}()', given() if callable(given) else given)})"


def _class(value: Any, walk: Walk) -> str:
    if not importable(value):
        raise RefusalError("it is a class that can't be imported by its name, so its name does not identify it")
    return f"type({label(value)})"


def _function(value: Any, walk: Walk) -> str:
    if not importable(value):
        raise RefusalError("it is a function that can't be imported by its name (a lambda, a closure, a bound method)")
    return f"function({label(value)})"


def _singleton(value: Any, walk: Walk) -> str:
    return f"{label(type(value))}()"


def _secret(value: Any, walk: Walk) -> str:
    return f"{label(type(value))}({hashed(walk.encode(value.get_secret_value()))})"


def _starlette_secret(value: Any, walk: Walk) -> str:
    return f"{label(type(value))}({hashed(quote(str(value)))})"


def _url(value: Any, walk: Walk) -> str:
    text = quote(str(value))
    return f"{label(type(value))}({hashed(text) if '@' in text else text})"  # a user's name and password


def _enum(value: Any, walk: Walk) -> str:
    cls = type(value)
    name = value._name_
    if cls.__members__.get(name) is not value:  # a combination of flags, or made by _missing_
        text = f"={walk.encode(value._value_)}"
    elif "<locals>" in cls.__qualname__:  # made by a function, perhaps with other values each time
        text = f"{escape_name(name)}={walk.encode(value._value_)}"
    else:
        text = escape_name(name)
    return f"{label(cls)}[{text}]"


def _model(cls: type) -> Encoder:
    derived = cached_properties(cls)

    def encode_model(value: Any, walk: Walk) -> str:
        state = _own(value)
        fields = [(name, state[name]) for name in sorted(state.keys() - derived)]
        return f"{label(type(value))}({_attributes(fields, walk)}{_more(value, walk)})"

    return encode_model


def _credentials(value: Any, walk: Walk) -> str:
    fields = sorted(_own(value).items())
    return f"{label(type(value))}({hashed(_attributes(fields, walk) + _more(value, walk))})"


def _more(value: Any, walk: Walk) -> str:
    """What a Pydantic model keeps beside its fields: extra ones, and private attributes."""
    extra = getattr(value, "__pydantic_extra__", None)
    private = getattr(value, "__pydantic_private__", None)
    text = f";extra={walk.encode(extra)}" if extra else ""
    return f"{text};private={walk.encode(private)}" if private else text


def _instance(cls: type) -> Encoder:
    """An encoder for dataclasses, attrs classes, msgspec structs, and subclasses of a builtin value type."""
    base = next((base for base in cls.__mro__ if base in LEAVES or base in CONTAINERS), None)
    names = _field_names(cls)
    if base is None and names is None:
        return _refuse
    content = _content(base) if base is not None else None
    fields = tuple(sorted(names or ()))
    if not hasattr(cls, "__attrs_attrs__"):  # attrs keeps cached properties in slots of their own
        above = cls.__mro__ if base is None else cls.__mro__[: cls.__mro__.index(base)]
        fields = tuple(sorted(slots(above).union(fields)))
    known = cached_properties(cls).union(fields)

    def encode_instance(value: Any, walk: Walk) -> str:
        own = _own(value)
        found = [(name, item) for name in fields if (item := getattr(value, name, _ABSENT)) is not _ABSENT]
        if own:
            found.extend((name, own[name]) for name in sorted(own.keys() - known))
        text = _attributes(found, walk)
        if content is not None:
            text = f"{content(value, walk)},{text}" if text else content(value, walk)
        return f"{label(type(value))}({text})"

    return encode_instance


def _field_names(cls: Any) -> frozenset[str] | None:
    """Return the declared fields of a value class, or ``None`` if it is not one."""
    if ("msgspec", "Struct") in ancestry(cls):
        return frozenset(cls.__struct_fields__)
    if hasattr(cls, "__attrs_attrs__"):
        return frozenset(field.name for field in cls.__attrs_attrs__)
    if dataclasses.is_dataclass(cls):
        return frozenset(field.name for field in dataclasses.fields(cls))
    return None


def _content(base: type) -> Encoder:
    """An encoder for what an instance holds as an instance of the builtin ``base``."""
    if base in CONTAINERS:
        return CONTAINERS[base]
    leaf: Callable[[Any], str] = LEAVES[base]
    plain = PLAIN.get(base)
    if plain is None:
        return lambda value, walk: leaf(value)
    return lambda value, walk: leaf(plain(value))


def _own(value: Any) -> Mapping[str, Any]:
    """Return the instance's own attributes."""
    own: Mapping[str, Any] = getattr(value, "__dict__", None) or {}
    if "_sa_instance_state" in own:
        # After a commit its attributes are gone until they are read again: every row would have the same key.
        raise RefusalError(
            "it is a row of an SQLAlchemy session, whose loaded attributes come and go; key its id instead"
        )
    return own


def _attributes(fields: list[tuple[str, Any]], walk: Walk) -> str:
    walk.spend(len(fields))
    return ",".join(f"{escape_name(name)}={walk.part(name, value)}" for name, value in fields)
