"""Tags: names under which entries are invalidated together, as templates over the arguments of a function.

``tags=("user:{user_id}", "catalogue")``. A field stands for its value as text, the one that ``str`` makes of plain
values, so that whoever invalidates can write the tag down. Two values with one text share a tag, which at worst
invalidates too much.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from fast_cache.errors import ConfigurationError, InvalidTypeError, UnkeyableError
from fast_cache.keys.groups import CALL, GROUP
from fast_cache.keys.roles import Role
from fast_cache.keys.template import GLOB, Field, parse_template

MAX_TAG_LENGTH: Final = 1024
"""Characters."""

MAX_TAGS: Final = 64
"""Of one entry."""

_PLAIN: Final = (str, int, float, bool, Decimal, UUID, date, datetime, time)


class TagMaker:
    """The tags of one function.

    Args:
        tags: the templates.
        parameters: what each parameter is to the key.

    Raises:
        ConfigurationError: a template that is empty or malformed, or has a field that is not in the key.
        InvalidTypeError: not text, nor several of them.
    """

    def __init__(self, tags: str | Iterable[str], parameters: Mapping[str, Role]) -> None:
        templates = check_tags(tags)
        for template in templates:
            if not GLOB.isdisjoint(_literal(template)):
                raise ConfigurationError(f"tags={template!r}: a tag is a name, not a pattern; leave out * ? [ and ]")
        self._templates = [
            parse_template(template, tuple(parameters), option="tags", encoding=_text_of) for template in templates
        ]
        for pieces in self._templates:
            for field in pieces:
                if isinstance(field, Field) and parameters[field.parameter] not in (Role.KEYED, Role.BUILT):
                    raise ConfigurationError(
                        f"tags: {{{field.text}}} is not in the key as it is ({parameters[field.parameter].value}); "
                        "make tags of what is, or add them while loading: cache.current.tags.add(...)"
                    )

    def tags(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The tags of a call, from the values of its parameters.

        Raises:
            UnkeyableError: a field has no text, or a tag is empty or too long.
        """
        made = dict.fromkeys(
            "".join(piece if isinstance(piece, str) else piece(values[piece.parameter]) for piece in template)
            for template in self._templates
        )
        for tag in made:
            if not 0 < len(tag) <= MAX_TAG_LENGTH or tag.startswith((GROUP, CALL)):
                raise UnkeyableError(
                    f"tags: a tag has 1 to {MAX_TAG_LENGTH} characters, the first of which is not U+0000 or U+0001",
                    path="tags",
                )
        return tuple(made)


def check_tags(tags: str | Iterable[str]) -> tuple[str, ...]:
    """Tags as a user gives them: one, or several.

    Raises:
        ConfigurationError: none, an empty one, one that is too long, or too many.
        InvalidTypeError: not text.
    """
    given: tuple[Any, ...]
    try:
        given = (tags,) if isinstance(tags, str) else tuple(dict.fromkeys(tags))
    except TypeError:
        raise InvalidTypeError(f"tags must be text or several texts, not {type(tags).__name__}") from None
    if not given:
        raise ConfigurationError("tags is empty; name at least one, or leave it out")
    if len(given) > MAX_TAGS:
        raise ConfigurationError(f"an entry has at most {MAX_TAGS} tags, here are {len(given)}")
    for tag in given:
        if not isinstance(tag, str):
            raise InvalidTypeError(f"a tag must be text, not {type(tag).__name__}")
        if not 0 < len(tag) <= MAX_TAG_LENGTH or tag.startswith((GROUP, CALL)):
            raise ConfigurationError(
                f"a tag must have 1 to {MAX_TAG_LENGTH} characters, the first of which is not U+0000 or U+0001"
            )
        try:
            tag.encode()
        except UnicodeEncodeError:
            raise ConfigurationError("a tag must be encodable as UTF-8; it contains a lone surrogate") from None
    return given


def _literal(template: str) -> str:
    """What stands outside of the fields, as far as that can be told of a template that may be malformed."""
    parts = template.split("{")
    return parts[0] + "".join(part.rpartition("}")[2] for part in parts[1:])


def _text_of(value: Any, path: str) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    if type(value) in _PLAIN:
        return str(value)
    raise UnkeyableError(
        f"{path}: a {type(value).__name__} has no text for a tag; use an attribute of it that is plain", path=path
    )
