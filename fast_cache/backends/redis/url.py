"""Reading URLs: where Redis is and as whom to connect, checked before anything connects.

Messages name what is wrong and repeat nothing of the URL, since any part of a malformed one may be the password. For
the same reason errors are raised outside of ``except`` clauses: they would carry the driver's own, which quote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis.connection
from fast_cache.backends.redis.driver import MODULES, Address, parameters
from fast_cache.errors import ConfigurationError

SCHEMES: Final = {
    "redis://": "Connection",
    "rediss://": "SSLConnection",
    "unix://": "UnixDomainSocketConnection",
    "redis+sentinel://": "Connection",
    "rediss+sentinel://": "SSLConnection",
    "redis+cluster://": "Connection",
    "rediss+cluster://": "SSLConnection",
}
"""The driver's class of connections for each scheme."""

_OPTIONS: Final = frozenset(
    {"host", "port", "path", "db", "username", "password", "client_name", "protocol"}
    | {"socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_read_size"}
    | {"health_check_interval", "retry_on_timeout", "decode_responses", "encoding", "encoding_errors"}
    | {"ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path"}
    | {"ssl_check_hostname", "ssl_password", "ssl_min_version", "ssl_ciphers"}
    | {"ssl_include_verify_flags", "ssl_exclude_verify_flags"}
)
"""What the query of a URL may set: those of the driver's options that text can express."""

_OF_ONE_SERVER: Final = frozenset({"host", "port", "path"})
"""Those of no meaning where several servers are named."""

_SENTINELS_OWN: Final = {"sentinel_username": "username", "sentinel_password": "password"}
"""Options for the connections to Sentinels, which have users of their own."""

_PARTS: Final = re.compile(r"([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
"""User and hosts, path, query."""

_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:\[\]%@\\]+))(?::(\d{1,5}))?")
"""A host or an IPv6 address in brackets, and a port."""

_MALFORMED: Final = (
    "redis_url is malformed: its host or port can't be read; "
    "in a user name or password write / as %2F, # as %23 and ? as %3F"
)


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says. ``options`` are the driver's; one server's address is among them."""

    class_name: str
    options: Mapping[str, Any]
    service: str | None = None
    """The name under which Sentinels know the master; ``hosts`` are theirs, and ``asking`` the options for them."""
    asking: Mapping[str, Any] = field(default_factory=dict)
    hosts: tuple[Address, ...] = ()
    """Without a ``service``: nodes of a Cluster."""


def read_url(url: str) -> Place:
    """Where ``url`` says that Redis is.

    Raises:
        ConfigurationError: it is malformed, or has options that its scheme does not know.
    """
    scheme = next((scheme for scheme in SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        raise ConfigurationError(f"redis_url must start with one of {', '.join(SCHEMES)}")
    return _read_many(scheme, url) if "+" in scheme else _read_one(scheme, url)


def options_of(scheme: str) -> frozenset[str]:
    """What the query of a URL may set: what both flavours of the driver know, and what has a meaning there."""
    known = _OPTIONS.intersection(*(parameters(getattr(module, SCHEMES[scheme])) for module in MODULES.values()))
    if "+" not in scheme:
        return known
    return (known - _OF_ONE_SERVER) | (_SENTINELS_OWN.keys() if "sentinel" in scheme else set[str]())


def _read_one(scheme: str, url: str) -> Place:
    parts = _split(url)
    if parts is None:
        raise ConfigurationError(_MALFORMED)
    if scheme != "unix://":
        if parts.port == 0:
            raise ConfigurationError("redis_url names port 0; Redis usually listens on 6379")
        _check_database(parts.path.strip("/"))
    known = options_of(scheme)
    _check_options(scheme, known, parts.query)
    options = _options(url, known)
    if scheme == "unix://" and (not options.get("path") or options["path"].endswith("/")):
        raise ConfigurationError("redis_url names no socket; write it like unix:///path/to/redis.sock")
    return Place(SCHEMES[scheme], options)


def _read_many(scheme: str, url: str) -> Place:
    sentinel = "sentinel" in scheme
    parts = _PARTS.fullmatch(url, len(scheme))
    assert parts is not None, "it matches anything"
    authority, path, query = parts[1], parts[2], parts[3] or ""
    user, _, named = authority.rpartition("@")
    hosts = [_host(text, 26379 if sentinel else 6379) for text in named.split(",")]
    if None in hosts:
        raise ConfigurationError(f"{_MALFORMED}; write hosts like {scheme}host1:port1,host2:port2")
    known = options_of(scheme)
    _check_options(scheme, known, query)
    options = _options(f"{'rediss' if scheme.startswith('rediss') else 'redis'}://?{query}", known)
    name, _, password = user.partition(":")
    options |= {key: unquote(value) for key, value in (("username", name), ("password", password)) if value}
    asking = {name: options.pop(option) for option, name in _SENTINELS_OWN.items() if option in options}
    asking |= {name: value for name, value in options.items() if name.startswith(("ssl_", "socket_"))}
    service, database = _service(path) if sentinel else ("", path.strip("/"))
    _check_database(database)
    options.setdefault("db", int(database or 0))
    if sentinel:
        if not service:
            raise ConfigurationError(f"redis_url names no service; write it like {scheme}host1,host2/service/0")
        return Place(SCHEMES[scheme], options, service, asking, tuple(host for host in hosts if host))
    if options["db"]:
        raise ConfigurationError("redis_url names a database; a Redis Cluster has only number 0")
    return Place(SCHEMES[scheme], options, hosts=tuple(host for host in hosts if host))


def _host(text: str, port: int) -> Address | None:
    """A host and its port, or the usual one; ``None`` where that can't be."""
    parsed = _HOST.fullmatch(text)
    if parsed is None or (parsed[3] is not None and not 0 < int(parsed[3]) < 65536):
        return None
    return parsed[1] or parsed[2], int(parsed[3] or port)


def _service(path: str) -> tuple[str, str]:
    """The service and the database that the path of a URL for Sentinels names."""
    service, _, database = path.removeprefix("/").partition("/")
    return unquote(service), database.removesuffix("/")


def _check_database(text: str) -> None:
    if text and not (text.isascii() and text.isdigit()):
        raise ConfigurationError("redis_url must end in a database number such as /0, or in nothing")


def _check_options(scheme: str, known: frozenset[str], query: str) -> None:
    if not known.issuperset(name for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise ConfigurationError(
            f"redis_url has an option in its query that {scheme} does not know; it knows {', '.join(sorted(known))}"
            + (f"; options of TLS need {scheme.replace('redis', 'rediss')}" if SCHEMES[scheme] == "Connection" else "")
        )


def _split(url: str) -> SplitResult | None:
    """Return the parts of the URL if host and port can be read."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises
    except ValueError:
        return None
    return parts


def _options(url: str, known: frozenset[str]) -> dict[str, Any]:
    """Return what the driver reads from the URL."""
    unread = ""
    parsed: dict[str, Any] = {}
    try:
        parsed = dict(redis.connection.parse_url(url))  # type: ignore[no-untyped-call]
    except ValueError as error:
        text = str(error)
        unread = next((name for name in sorted(known) if f"'{name}'" in text), "an option")
    if unread:
        raise ConfigurationError(f"redis_url is malformed: {unread} in its query can't be read")
    parsed.pop("connection_class", None)
    return parsed
