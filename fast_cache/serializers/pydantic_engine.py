"""Pydantic's JSON, for annotations whose schema is proved to run nobody's code.

Reading a stored value must do the same today and tomorrow, so a schema with a validator, serialiser, constructor,
``model_post_init`` or default factory of the user is refused, and the tagged codec takes raw attributes instead. Unset
fields are not written, which keeps them unset; their defaults become part of the engine's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from inspect import signature
from typing import Any, Final

import pydantic
from pydantic import TypeAdapter

from fast_cache.serializers.annotations import constant_text
from fast_cache.serializers.engines import Engine

_HARMLESS_FACTORIES: Final = frozenset({bool, bytes, dict, float, frozenset, int, list, set, str, tuple})
_NOT_RUN: Final = frozenset({"config", "metadata", "computed_fields", "cls"})
"""Parts of a schema that neither reading nor writing a round trip looks at."""

_BY_FIELD_NAME: Final[dict[str, Any]] = (
    {"by_alias": False, "by_name": True} if "by_name" in signature(TypeAdapter.validate_json).parameters else {}
)
"""Since Pydantic 2.11 fields can be read by their own names; before, models with aliases go to the tagged codec."""

_CAN_BE_DEFERRED: Final = hasattr(TypeAdapter, "rebuild")
"""Since Pydantic 2.10 a schema may be a placeholder until it is asked for."""


class PydanticEngine(Engine):
    """A ``TypeAdapter``."""

    mark = b"P"

    def __init__(self, adapter: TypeAdapter[Any], defaults: list[str]) -> None:
        version = ".".join(pydantic.VERSION.split(".")[:2])
        digest = blake2b(repr(defaults).encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        self.name = f"pydantic-{version} {digest}"
        self._adapter = adapter

    @classmethod
    def for_annotation(cls, annotation: Any) -> PydanticEngine | None:
        """An engine for ``annotation``; None if Pydantic has none or its schema is not proved."""
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(annotation)
            if _CAN_BE_DEFERRED:
                adapter.rebuild(raise_errors=True)
            schema = adapter.core_schema
            return cls(adapter, list(_defaults(schema))) if isinstance(schema, dict) else None
        except Exception:  # whatever the classes of a user make of it
            return None

    def dump(self, value: Any) -> bytes:
        return self._adapter.dump_json(value, by_alias=False, exclude_unset=True, round_trip=True, warnings="error")

    def load(self, payload: bytes) -> Any:
        return self._adapter.validate_json(payload, **_BY_FIELD_NAME)


class _UnprovedError(Exception):
    """The schema runs code that is not known to do the same each time."""


def _defaults(schema: Any) -> Iterator[str]:
    """Yield the default values in ``schema`` as text.

    Raises:
        _UnprovedError: it runs somebody's code, or has a default that is no constant.
    """
    if isinstance(schema, (list, tuple)):
        for part in schema:
            yield from _defaults(part)
    elif isinstance(schema, dict):
        if not isinstance(schema.get("type"), str):  # schemas by name: a field may be called anything
            yield from _defaults(list(schema.values()))
            return
        _prove(schema)
        for key, part in schema.items():
            if key == "default":
                text = constant_text(part)
                if text is None:
                    raise _UnprovedError
                yield text
            elif key not in _NOT_RUN:
                yield from _defaults(part)


def _prove(node: dict[str, Any]) -> None:
    kind = node["type"]
    if kind.startswith("function-") and not _is_harmless(node["function"]):
        raise _UnprovedError
    if kind == "call" or node.get("post_init") or node.get("custom_init") or node.get("missing"):
        raise _UnprovedError
    if "default_factory" in node and node["default_factory"] not in _HARMLESS_FACTORIES:
        raise _UnprovedError
    if kind == "tagged-union" and callable(node["discriminator"]):
        raise _UnprovedError


def _is_harmless(function: Any) -> bool:
    """Whether a validator or serialiser came with Pydantic, as those of paths and URLs, and imports nothing."""
    inner = function["function"] if isinstance(function, dict) else function
    package, _, module = (getattr(inner, "__module__", None) or "").partition(".")
    if package != "pydantic" or module.startswith("experimental"):  # pipelines there wrap the user's functions
        return False
    return getattr(inner, "__name__", "") != "import_string"  # what bytes name is not imported
