"""What a return annotation allows, as text that changes when a class in it does."""

from __future__ import annotations

import json
import sys
from hashlib import blake2b
from typing import Any

from pydantic import TypeAdapter

from fast_cache.serializers.annotations import describe, says_nothing


def schema_digest(annotation: Any) -> str:
    """Return a digest of the names in ``annotation`` and of the fields of its classes.

    Where neither Pydantic nor msgspec has a schema for it, it is a digest of the names alone.
    """
    schema = None if says_nothing(annotation) else _pydantic_schema(annotation) or _msgspec_schema(annotation)
    text = json.dumps([describe(annotation), schema], sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _pydantic_schema(annotation: Any) -> Any:
    try:
        return TypeAdapter(annotation).json_schema(mode="serialization", by_alias=False)
    except Exception:  # whatever the classes of a user make of it
        return None


def _msgspec_schema(annotation: Any) -> Any:
    msgspec = sys.modules.get("msgspec.json")  # who has structs has imported it
    try:
        return None if msgspec is None else msgspec.schema(annotation)
    except Exception:
        return None
