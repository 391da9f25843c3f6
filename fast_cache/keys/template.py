"""Key templates: ``key="user:{user.id}:{page}"``.

A template is read once, at decoration: parameters that do not exist, format specifications, conversions and private
attributes are refused there. Each field's value is encoded, not formatted, and kept apart from the text that follows,
so two calls share a key only if all their fields are equal. Braces are written ``{{`` and ``}}``, as in ``str.format``.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Collection
from typing import Any, Final

from fast_cache.errors import ConfigurationError, InvalidTypeError, UnkeyableError
from fast_cache.keys.encode import encode, encode_hashed
from fast_cache.keys.text import escape_literal

_FIELD: Final = re.compile(r"(?P<parameter>\w+)(?P<steps>(?:\.\w+|\[[^\[\]]+\])*)")
_STEP: Final = re.compile(r"\.(\w+)|\[([^\[\]]+)\]")
GLOB: Final = frozenset("*?[]")
"""What makes a pattern of a text. No name has it: where patterns are taken it would be one."""

_ENDS_A_FIELD: Final = frozenset(":/,;| ")
"""Characters that no encoding continues with: before any other one, a comma is put behind the field."""


Encoding = Callable[[Any, str], str]
"""Makes text of a value; the other argument is the path to it, for errors."""


class Field:
    """One ``{parameter.attribute[item]}``: called with the argument, it returns the encoding of what it names."""

    __slots__ = ("_encode", "_steps", "parameter", "text")

    def __init__(
        self, text: str, parameter: str, steps: tuple[tuple[bool, str | int], ...], encoding: Encoding
    ) -> None:
        self.text = text
        self.parameter = parameter
        self._steps = steps
        self._encode = encoding

    def __call__(self, argument: Any) -> str:
        return self.encode(self.read(argument))

    @property
    def is_whole(self) -> bool:
        """Whether it names the argument itself, and nothing in it."""
        return not self._steps

    def read(self, argument: Any) -> Any:
        """What it names.

        Raises:
            UnkeyableError: there is no such thing.
        """
        value = argument
        try:
            for is_attribute, name in self._steps:
                value = getattr(value, str(name)) if is_attribute else value[name]
        except Exception as error:  # a property of the user's may fail in any way
            message = f"{self.text}: {type(error).__name__} was raised while the template's field was read"
            raise UnkeyableError(message, path=self.text) from error
        return value

    def encode(self, value: Any) -> str:
        """The text of what it names.

        Raises:
            UnkeyableError: it has none.
        """
        return self._encode(value, self.text)


def parse_template(
    template: str,
    parameters: Collection[str],
    *,
    hashed: Collection[str] = (),
    option: str = "key",
    encoding: Encoding | None = None,
) -> list[str | Field]:
    """Return the template as pieces: fixed text, ready for a key, and fields.

    Args:
        template: the text, with fields that start with one of ``parameters``.
        parameters: the names of the function's parameters.
        hashed: the names of those whose values must not be readable in a key.
        option: what the template was given as, for errors.
        encoding: makes text of values where they are not encoded for a key; fixed text is left as it is then.

    Raises:
        ConfigurationError: the template is empty or malformed, or names something that it may not.
        InvalidTypeError: it is not text.
    """
    if not isinstance(template, str):
        raise InvalidTypeError(
            f"{option}= must be a template such as 'user:{{user.id}}', not {type(template).__name__}"
        )
    if not template:
        raise ConfigurationError(f"{option}= is empty; write a template such as 'user:{{user.id}}', or leave it out")
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigurationError(
            f"{option}={template!r} is not a template: {error}; literal braces are doubled"
        ) from None
    pieces: list[str | Field] = []
    for literal, name, specification, conversion in parsed:
        if option == "key" and not GLOB.isdisjoint(literal):
            raise ConfigurationError(f"key={template!r}: a key is a name, not a pattern; leave out * ? [ and ]")
        if literal:
            if encoding is None and pieces and isinstance(pieces[-1], Field) and literal[0] not in _ENDS_A_FIELD:
                pieces.append(",")
            pieces.append(literal if encoding is not None else escape_literal(literal))
        if name is None:
            continue
        if specification or conversion:
            raise ConfigurationError(
                f"{option}={template!r}: {{{name}}} has a format or conversion; values are encoded, so leave it out"
            )
        if encoding is None and pieces and isinstance(pieces[-1], Field):
            pieces.append(",")
        parameter, steps = _path(option, template, name, parameters)
        pieces.append(Field(name, parameter, steps, encoding or (encode_hashed if parameter in hashed else encode)))
    return pieces


def _path(
    option: str, template: str, name: str, parameters: Collection[str]
) -> tuple[str, tuple[tuple[bool, str | int], ...]]:
    """The parameter that a field starts with, and the steps from there."""
    match = _FIELD.fullmatch(name)
    if match is None:
        raise ConfigurationError(
            f"{option}={template!r}: {{{name}}} is not a field; write {{parameter}}, {{parameter.attribute}} "
            f"or {{parameter[item]}}"
        )
    parameter = match["parameter"]
    if parameter not in parameters:
        raise ConfigurationError(
            f"{option}={template!r}: the function has no parameter {parameter!r}; "
            f"it has {', '.join(parameters) or 'none'}"
        )
    steps: list[tuple[bool, str | int]] = []
    for attribute, item in _STEP.findall(match["steps"]):
        if attribute.startswith("_"):
            raise ConfigurationError(f"{option}={template!r}: {{{name}}} reads the private attribute {attribute!r}")
        if attribute and not attribute.isidentifier():
            raise ConfigurationError(f"{option}={template!r}: {attribute!r} in {{{name}}} is not an attribute's name")
        steps.append((True, attribute) if attribute else (False, int(item) if item.isdecimal() else item))
    return parameter, tuple(steps)
