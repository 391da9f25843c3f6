"""Keys that are named by their templates: which functions have one, and which of their keys are meant.

``"items:{item_id}"`` with the values of its fields is exact: whatever has these values is one key of a function whose
template reads so. ``"items:5"`` is what such a template makes: each field's text may be the encoding as it stands in
the key, or the value as one would write it down, by the annotation of its parameter. Where it may be both, both keys
are meant, since too much is invalidated rather than too little. ``"items:*"`` is everything that begins so.

The fixed text of a template stands between its fields in the key; what the encoding adds to it is added here too.
"""

from __future__ import annotations

import inspect
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice, product
from typing import Annotated, Any, Final, NamedTuple, get_args, get_origin

from pydantic import TypeAdapter

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.pending import Change
from fast_cache.backends.store import Store
from fast_cache.binding import Binding
from fast_cache.decorator import Operations
from fast_cache.entry import MISSING, MissingType
from fast_cache.errors import ConfigurationError, InvalidTypeError, UnkeyableError
from fast_cache.flow import removal, removal_of_match
from fast_cache.keys import KeyMaker, address_of
from fast_cache.keys.template import GLOB, Field, parse_template

_MOST: Final = 256
"""How many readings of one text are followed; one that has more means all results of a function."""

_SHOWN: Final = 10
"""How many templates an error names."""

_ENCODING: Final = re.compile(
    r"-?\d[\w.+-]*|-?inf|nan|None|True|False|'[^']*'|b'[0-9a-f]*'|h:[0-9a-f]{32}|[A-Za-z_][\w.<>%-]*\(.*\)", re.DOTALL
)
"""What the encoding of a value looks like that has no parts."""


_BEGINS_INT: Final = re.compile(r"-?\d*")


class Named(NamedTuple):
    """What is meant of one function: some keys, whatever begins in some way, or all that there is."""

    keys: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    everything: bool = False


class Naming:
    """A text that names keys: read once, and held against the functions that there are.

    Args:
        text: a template, what a template makes, or the beginning of either with a ``*`` behind it.
        parameters: the names that its fields may begin with.

    Raises:
        ConfigurationError: the text is empty or malformed, a pattern of another kind, or has a field that begins with
            something else.
        InvalidTypeError: it is not text.
    """

    def __init__(self, text: str, parameters: Iterable[str]) -> None:
        if not isinstance(text, str):
            raise InvalidTypeError(f"a key template must be text, not {type(text).__name__}")
        self.text = text
        self.is_beginning = text.endswith("*")
        begins = text[:-1] if self.is_beginning else text
        if not begins:
            raise ConfigurationError(
                "name the template whose keys are to go, such as 'items:*'; cache.clear() removes everything"
                if text
                else "the key template is empty; write one such as 'items:{item_id}'"
            )
        pieces = parse_template(begins, tuple(parameters), option="template", encoding=_not_encoded)
        self._fields = [piece for piece in pieces if isinstance(piece, Field)]
        self._literals = _literals(begins)
        if not GLOB.isdisjoint("".join(self._literals)):
            raise ConfigurationError(
                f"{text!r} is a pattern; name one key, or let one * stand at the end, without any other * ? [ or ]"
            )

    @property
    def parameters(self) -> frozenset[str]:
        """What has to be given to :meth:`of`."""
        return frozenset(field.parameter for field in self._fields)

    def of(self, maker: KeyMaker, values: Mapping[str, Any]) -> Named | None:
        """What is meant of a function, with ``values`` for the fields; ``None`` if its template is another one.

        Raises:
            UnkeyableError: a value can't be in a key.
        """
        if maker.template is None:
            return None
        known = _Template(maker)
        if not self._fields:
            return known.beginning(self._literals[0]) if self.is_beginning else known.whole(self._literals[0])
        count = len(self._fields)
        fits = known.literals[:count] == self._literals[:count] and len(known.fields) >= count
        last = known.literals[count] if fits else ""
        if not fits or not (last.startswith(self._literals[-1]) if self.is_beginning else last == self._literals[-1]):
            return None
        if not self.is_beginning and len(known.fields) > count:
            return None
        encodings = [
            theirs.encode(field.read(values[field.parameter]))
            for theirs, field in zip(known.fields, self._fields, strict=False)
        ]
        if not self.is_beginning:
            return Named(keys=(known.key(encodings),))
        if len(known.fields) == count:  # nothing is open but the end of the text
            return Named(keys=(known.key(encodings),))
        return Named(prefixes=(known.prefix(encodings),))


def named_functions(
    naming: Naming, functions: Iterable[Operations], values: Mapping[str, Any]
) -> list[tuple[Operations, Named]]:
    """What is meant of which functions.

    Raises:
        ConfigurationError: of none, as no template reads so and none can make such a text.
        UnkeyableError: a value can't be in a key.
    """
    known = list(functions)
    meant = [(function, named) for function in known if (named := naming.of(function.keys, values)) is not None]
    if meant:
        return meant
    templates = sorted({function.keys.template for function in known if function.keys.template is not None})
    shown = ", ".join(repr(template) for template in templates[:_SHOWN]) + (", ..." if len(templates) > _SHOWN else "")
    raise ConfigurationError(
        f"{naming.text!r} is none of the key templates of this cache, and none of them makes such a key: "
        + (f"they are {shown}" if shown else "no function has one; decorate it with key='items:{item_id}'")
    )


def named_changes(binding: Binding, text: str, values: Mapping[str, Any]) -> list[Change]:
    """What removes what ``text`` names, with ``values`` for its fields.

    Raises:
        ConfigurationError: it is wrong in itself, or names nothing; a value is missing, or one too many.
        UnkeyableError: a value can't be in a key.
    """
    naming = Naming(text, values)
    unused = sorted(values.keys() - naming.parameters)
    if unused:
        raise ConfigurationError(f"{text!r} has no field for {', '.join(unused)}")
    meant = named_functions(naming, binding.functions, values)
    backend = binding.backend
    return [] if backend is None else removals(meant, binding.store, backend)


def removals(meant: Iterable[tuple[Operations, Named]], store: Store, backend: CacheBackend) -> list[Change]:
    """What removes all that."""
    changes = []
    for function, named in meant:
        everything = function.removal_of_all(store)
        if named.everything:
            changes.append(everything)
        for key in named.keys:
            changes.append(removal(store, address_of(key) if store.slotted else key, function))
            changes += function.removal_of_pages(store, key)
        for prefix in named.prefixes:
            changes.append(removal_of_match(store, backend, prefix, everything))
            if function.is_endpoint:  # nobody knows of a page how the key of its function began
                changes.append(everything)
    return changes


class _Template:
    """The template of one function: fixed texts, and a field between each two of them."""

    def __init__(self, maker: KeyMaker) -> None:
        assert maker.template is not None
        self._maker = maker
        self.fields: Sequence[Field] = maker.template_fields
        self.literals = _literals(maker.template)
        self._between = _between(maker.template, maker)

    def key(self, encodings: Sequence[str]) -> str:
        """The key in which the fields have these encodings."""
        parts = [self._maker.prefix, self._between[0]]
        for encoding, between in zip(encodings, self._between[1:], strict=True):
            parts += (encoding, between)
        return "".join(parts)

    def prefix(self, encodings: Sequence[str]) -> str:
        """What all keys begin with in which the first fields have these encodings."""
        parts = [self._maker.prefix, self._between[0]]
        for encoding, between in zip(encodings, self._between[1:], strict=False):
            parts += (encoding, between)
        return "".join(parts)

    def whole(self, text: str) -> Named | None:
        """The keys that ``text`` may stand for; ``None`` if there is none."""
        keys: list[str] = []
        for fields in _split(text, self.literals):
            keys += map(self.key, self._encoded(fields))
            if len(keys) > _MOST:
                return Named(everything=True)
        return Named(keys=tuple(dict.fromkeys(keys))) if keys else None

    def beginning(self, text: str) -> Named | None:
        """The keys that begin as ``text`` does; ``None`` if there can be none."""
        if self.literals[0].startswith(text):
            return Named(everything=True)
        prefixes: list[str] = []
        cut: list[tuple[tuple[str, ...], str]] = []
        surely = True
        for fields, rest, in_field in _split_beginning(text, self.literals):
            if in_field:
                cut.append((fields, rest))
            else:
                prefixes += map(self.prefix, self._encoded(fields))
                surely = surely and not all(map(self._is_declared, self.fields, fields))
            if len(prefixes) + len(cut) > _MOST:
                return Named(everything=True)
        for fields, rest in cut:
            begun = list(self._begun(self.fields[len(fields)], rest, surely=surely))
            prefixes += (self.prefix(before) + one for before in self._encoded(fields) for one in begun)
        if len(prefixes) > _MOST or self.prefix(()) in prefixes:
            return Named(everything=True)
        return Named(prefixes=tuple(dict.fromkeys(prefixes))) if prefixes else None

    def _encoded(self, fields: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """What fields may be in a key that are written so; nothing if one of them can't be."""
        readings = [list(self._readings(field, text)) for field, text in zip(self.fields, fields, strict=False)]
        return islice(product(*readings), _MOST + 1)

    def _readings(self, field: Field, text: str) -> Iterator[str]:
        if _ENCODING.fullmatch(text):
            yield text
        annotation = self._annotation(field)
        value = text if annotation is str else as_declared(text, annotation)
        if value is not MISSING:
            with suppress(UnkeyableError):
                yield field.encode(value)

    def _is_declared(self, field: Field, text: str) -> bool:
        """Whether ``text`` is a whole value of the parameter's type, as one would write it."""
        annotation = self._annotation(field)
        return annotation is str or as_declared(text, annotation) is not MISSING

    def _begun(self, field: Field, text: str, *, surely: bool) -> Iterator[str]:
        """How the encodings may begin of values that begin with ``text``."""
        annotation = self._annotation(field)
        if annotation is str:
            yield field.encode(text).removesuffix("'")
        if annotation is str or (annotation is int and _BEGINS_INT.fullmatch(text)):
            yield text
        elif annotation is not int and surely:
            yield ""  # of a value that is cut off nobody knows how it is written: every value

    def _annotation(self, field: Field) -> Any:
        """The type of what a field names; text where nobody says, because that is how one would write it."""
        if not field.is_whole:
            return str
        annotation = self._maker.hints.get(field.parameter, str)
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        return str if annotation in (Any, object, inspect.Parameter.empty) else annotation


def as_declared(text: str, annotation: Any) -> Any | MissingType:
    """The value that is written as ``text`` where ``annotation`` says what it is; ``MISSING`` if it is none."""
    try:
        return adapter_of(annotation).validate_strings(text)
    except Exception:  # nothing that such a parameter takes, or no annotation that could tell
        return MISSING


@lru_cache(maxsize=1024)
def adapter_of(annotation: Any) -> TypeAdapter[Any]:
    """What reads values of this type; raises whatever Pydantic does about what is none, or has no hash."""
    return TypeAdapter(annotation)


def _literals(template: str) -> list[str]:
    """The fixed texts before, between and behind the fields of a template that is known to be one."""
    literals = [""]
    for literal, name, _, _ in string.Formatter().parse(template):
        literals[-1] += literal
        if name is not None:
            literals.append("")
    return literals


def _between(template: str, maker: KeyMaker) -> list[str]:
    """The same as they stand in a key."""
    between = [""]
    for piece in parse_template(template, tuple(maker.parameters)):
        if isinstance(piece, Field):
            between.append("")
        else:
            between[-1] += piece
    return between


def _split(text: str, literals: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The ways in which ``text`` is made of ``literals`` and some text between each two of them."""
    first, *others = literals
    if not others:
        if text == first:
            yield ()
        return
    if not text.startswith(first):
        return
    rest = text[len(first) :]
    for field, behind in _fields_before(rest, others[0], is_last=len(others) == 1):
        for fields in _split(behind, others):
            yield (field, *fields)


def _split_beginning(text: str, literals: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """The ways in which ``text`` begins what ``literals`` are a part of: the fields that are complete, and the rest,
    which begins the next literal or the next field."""
    first, *others = literals
    if first.startswith(text):
        yield (), text, False
        return
    if not others or not text.startswith(first):
        return
    rest = text[len(first) :]
    yield (), rest, True
    for field, behind in _fields_before(rest, others[0], is_last=False):
        for fields, left, in_field in _split_beginning(behind, others):
            yield (field, *fields), left, in_field


def _fields_before(text: str, literal: str, *, is_last: bool) -> Iterator[tuple[str, str]]:
    """The ways in which ``text`` is a field and then what begins with ``literal``, or with a part of it at its end."""
    if not literal:
        for end in [len(text)] if is_last else range(1, len(text) + 1):
            if end:
                yield text[:end], text[end:]
        return
    for end in range(1, len(text)):
        behind = text[end:]
        if behind.startswith(literal) or (not is_last and literal.startswith(behind)):
            yield text[:end], behind


def _not_encoded(value: Any, path: str) -> str:
    raise AssertionError("fields are read here, and encoded by those of the function")
