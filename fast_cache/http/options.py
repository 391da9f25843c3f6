"""What an author says about pages: for an application, and for one endpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fast_cache.errors import ConfigurationError, InvalidTypeError

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110, section 5.6.2."""

_FIELD_VALUE: Final = re.compile(r"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")
"""RFC 9110, section 5.5."""

_NO_BODY: Final = frozenset({204, 205, 206, 304})


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPOptions:
    """What ``init_app`` is told about the responses of cached endpoints.

    Args:
        cache_status: the name of this cache in the header ``Cache-Status`` (RFC 9211); ``None``: it is not sent.
        cache_status_key: whether that header tells the key, which a visitor might learn something from.
        cache_groups: whether ``Cache-Groups`` (RFC 9875) tells the tags of a page.
        max_body: how many bytes a body has at most that is stored; a longer one is sent, and not stored.
        max_variants: how many combinations of the values of ``vary_on`` headers are stored for a route, in one process
            and minute: those that come first. Requests with others run uncached.

    Raises:
        ConfigurationError: ``cache_status`` is no printable ASCII text, or a number is below 1 or no ``int``.
    """

    cache_status: str | None = "fast_cache"
    cache_status_key: bool = False
    cache_groups: bool = False
    max_body: int = 2**20
    max_variants: int = 100

    def __post_init__(self) -> None:
        name = self.cache_status
        if name is not None and not isinstance(name, str):
            raise InvalidTypeError(f"cache_status must be text, or None, not {type(name).__name__}")
        if name is not None and (not name.isascii() or not name.isprintable() or not name):
            raise ConfigurationError(f"cache_status must be printable ASCII text, or None, not {name!r}")
        for option in ("cache_status_key", "cache_groups"):
            if not isinstance(getattr(self, option), bool):
                raise InvalidTypeError(f"{option} must be True or False, not {type(getattr(self, option)).__name__}")
        for option in ("max_body", "max_variants"):
            number = getattr(self, option)
            if not isinstance(number, int) or isinstance(number, bool):
                raise InvalidTypeError(f"{option} must be an int, not {type(number).__name__}")
            if number < 1:
                raise ConfigurationError(f"{option} must be at least 1, got {number}")


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What the decorator is told about the pages of an endpoint.

    ``vary_on`` are names of headers in lower case. ``cache_control`` is the header as it is sent, ``b""`` for none,
    ``None`` for one that is made from the lifetime.
    """

    public: bool = False
    vary_on: tuple[str, ...] = ()
    methods: frozenset[str] = frozenset({"GET"})
    statuses: frozenset[int] = frozenset({200})
    cache_control: bytes | None = None
    client_control: bool = False

    @classmethod
    def of(
        cls,
        *,
        public: Any = False,
        vary_on: Any = (),
        methods: Any = ("GET",),
        statuses: Any = (200,),
        cache_control: Any = None,
        client_control: Any = False,
    ) -> PageOptions:
        """Validate the options as a user gives them.

        Raises:
            ConfigurationError: an option that can't work.
        """
        for option, flag in (("public", public), ("client_control", client_control)):
            if not isinstance(flag, bool):
                raise InvalidTypeError(f"{option} must be True or False, not {type(flag).__name__}")
        names = [name.lower() for name in _texts("vary_on", vary_on, "header names")]
        for name in names:
            if name == "*":
                raise ConfigurationError("vary_on='*' would make of each request one of its own; name headers")
            if name in ("authorization", "cookie"):
                raise ConfigurationError(
                    f"vary_on={name!r} would make an entry for each visitor out of what identifies one: take what the "
                    "result depends on as a parameter of the endpoint"
                )
        verbs = [verb.upper() for verb in _texts("methods", methods, "HTTP methods")]
        if not verbs:
            raise ConfigurationError("methods is empty: no request would ever be answered from the cache")
        for verb in verbs:
            if verb in ("HEAD", "OPTIONS", "TRACE", "CONNECT"):
                raise ConfigurationError(f"methods={verb!r}: answers to {verb} are not cached")
        return cls(
            public,
            tuple(dict.fromkeys(names)),
            frozenset(verbs),
            _codes(statuses),
            _field(cache_control),
            client_control,
        )


PAGE_OPTIONS: Final = frozenset(PageOptions.__dataclass_fields__)


def page_options(given: Mapping[str, Any]) -> PageOptions:
    """Those among the keywords of a decorator."""
    return PageOptions.of(**{name: given[name] for name in PAGE_OPTIONS & given.keys()})


def _texts(option: str, given: Any, what: str) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
    for text in texts:
        if not isinstance(text, str):
            raise InvalidTypeError(f"{option} must be {what}, not {type(text).__name__}")
        if not _TOKEN.fullmatch(text):
            raise ConfigurationError(f"{option}={text!r}: that is none of the {what} that there can be")
    return texts


def _codes(given: Any) -> frozenset[int]:
    codes = [given] if isinstance(given, int) else list(given) if isinstance(given, Iterable) else [given]
    for code in codes:
        if not isinstance(code, int) or isinstance(code, bool):
            raise InvalidTypeError(f"statuses must be numbers, not {type(code).__name__}")
        if not 200 <= code <= 599 or code in _NO_BODY:
            raise ConfigurationError(f"statuses={code}: a response with this status is not stored")
    if not codes:
        raise ConfigurationError("statuses is empty: no response would ever be stored")
    return frozenset(codes)


def _field(given: Any) -> bytes | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise InvalidTypeError(f"cache_control must be text, not {type(given).__name__}")
    field = given.strip()
    if field and not _FIELD_VALUE.fullmatch(field):
        raise ConfigurationError("cache_control has characters that no header can hold")
    return field.encode("latin-1")
