"""Where Redis is: a URL or the user's own clients, checked before anything connects.

From either come connections of two flavours, those that block threads and those that suspend tasks. Messages name the
setting that is wrong and repeat nothing of the URL, since any part of a malformed one may be the password. For the same
reason errors about it are raised outside of ``except`` clauses: they would carry the driver's own, which quote it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.connection
from fast_cache.errors import BackendUnavailable, ConfigurationError, InvalidTypeError
from fast_cache.ports import BLOCKING, Port
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

_CLASSES: Final = {
    "redis://": "Connection",
    "rediss://": "SSLConnection",
    "unix://": "UnixDomainSocketConnection",
}

_OPTIONS: Final = frozenset(
    {"host", "port", "path", "db", "username", "password", "client_name", "protocol"}
    | {"socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_read_size"}
    | {"health_check_interval", "retry_on_timeout", "decode_responses", "encoding", "encoding_errors"}
    | {"ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path"}
    | {"ssl_check_hostname", "ssl_password", "ssl_min_version", "ssl_ciphers"}
    | {"ssl_include_verify_flags", "ssl_exclude_verify_flags"}
)
"""What the query of a URL may set: those of the driver's options that text can express."""

_CARRIED_OVER: Final = frozenset(
    {"host", "port", "path", "db", "username", "password", "credential_provider", "client_name"}
    | {"socket_keepalive", "ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs"}
    | {"ssl_ca_data", "ssl_ca_path", "ssl_check_hostname", "ssl_password", "ssl_min_version", "ssl_ciphers"}
    | {"ssl_include_verify_flags", "ssl_exclude_verify_flags", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled"}
    | {"ssl_ocsp_context", "ssl_ocsp_expected_cert", "socket_keepalive_options"}
)
"""What is taken from the user's client: where to connect, as whom, and whom to trust."""

_MODULES: Final = {"blocking": redis.connection, "suspending": redis.asyncio.connection}

LONGEST_WAIT: Final = 1.0
"""For how many seconds the server may keep a connection waiting that is there for it."""

_STANDARD: Final = ("Connection", "SSLConnection", "UnixDomainSocketConnection")


class Target:
    """How to connect: makes connections of either flavour, not connected yet, and pools for them."""

    def __init__(
        self,
        redis_url: str | None,
        clients: tuple[Any, ...],
        *,
        pool_size: int,
        max_connections: int,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        self.most = max_connections
        self.waiting = max(1, max_connections // 4)
        for client in clients:
            if not hasattr(client, "connection_pool"):
                raise InvalidTypeError(f"redis_url must be text or a redis client, not {type(client).__name__}")
        pools = {_flavour(client): client.connection_pool for client in clients}
        if len(pools) < len(clients):
            raise ConfigurationError("two clients of the same flavour were given; give one redis.Redis and one asyncio")
        waits = {"socket_timeout": timeout, "socket_connect_timeout": connect_timeout}
        if clients:
            self.blocking_connection = _like(pools, "blocking", waits)
            self.suspending_connection = _like(pools, "suspending", waits)
        else:
            class_name, kwargs = _parse(redis_url)
            self.blocking_connection = _plain("blocking", class_name, waits | kwargs)
            self.suspending_connection = _plain("suspending", class_name, waits | kwargs)
            if not (_can_be_made(self.blocking_connection) and _can_be_made(self.suspending_connection)):
                raise ConfigurationError("redis_url is malformed: the driver can't use the options in its query")

    async def connect(self, port: Port) -> Any:
        """A new connection of the driver's, ready for commands."""
        connection = self.blocking_connection() if port is BLOCKING else self.suspending_connection()
        try:
            await port.do(connection.connect, connection.connect)
        except Exception as error:
            raise BackendUnavailable("Redis did not answer") from error
        return connection


def _like(pools: dict[str, Any], flavour: str, waits: dict[str, Any]) -> partial[Any]:
    """Connections as the user's clients would make them, with our patience."""
    pool = pools.get(flavour)
    own = pool is not None
    if pool is None:
        pool = next(iter(pools.values()))
    made = pool.connection_class
    if made.__name__ in _STANDARD and made.__module__ in (redis.connection.__name__, redis.asyncio.connection.__name__):
        known = _parameters(getattr(_MODULES[flavour], made.__name__))
        kwargs = {name: value for name, value in pool.connection_kwargs.items() if name in _CARRIED_OVER & known}
        return _plain(flavour, made.__name__, kwargs | waits)
    if own:
        return partial(made, **{**pool.connection_kwargs, **waits, "retry": _no_retry(flavour), "encoding": "utf-8"})
    raise ConfigurationError(
        f"a client with connections of the kind {made.__name__} has no like in the other flavour; "
        "give both, as client= and async_client="
    )


def _plain(flavour: str, class_name: str, kwargs: dict[str, Any]) -> partial[Any]:
    connection_class = getattr(_MODULES[flavour], class_name)
    ours = {"retry": _no_retry(flavour), "encoding": "utf-8", **_quiet(connection_class)}
    return partial(connection_class, **{**kwargs, **ours})


def _no_retry(flavour: str) -> Any:
    return Retry(NoBackoff(), 0) if flavour == "blocking" else AsyncRetry(NoBackoff(), 0)


def _flavour(client: Any) -> str:
    return "suspending" if isinstance(client, redis.asyncio.Redis) else "blocking"


def _can_be_made(make: Callable[[], Any]) -> bool:
    """Whether the driver takes the options. What it makes here is not connected, and dropped."""
    try:
        make()
    except Exception:
        return False
    return True


def _parse(url: str | None) -> tuple[str, dict[str, Any]]:
    """Return the name of the driver's class of connections, and the options for it."""
    if not isinstance(url, str):
        raise InvalidTypeError(f"redis_url must be text or a redis client, not {type(url).__name__}")
    scheme = next((scheme for scheme in _CLASSES if url.startswith(scheme)), None)
    if scheme is None:
        raise ConfigurationError(f"redis_url must start with one of {', '.join(_CLASSES)}")
    parts = _split(url)
    if parts is None:
        raise ConfigurationError(
            "redis_url is malformed: its host or port can't be read; "
            "in a user name or password write / as %2F, # as %23 and ? as %3F"
        )
    if scheme != "unix://":
        if parts.port == 0:
            raise ConfigurationError("redis_url names port 0; Redis usually listens on 6379")
        database = parts.path.strip("/")
        if database and not (database.isascii() and database.isdigit()):
            raise ConfigurationError("redis_url must end in a database number such as /0, or in nothing")
    class_name = _CLASSES[scheme]
    known = _OPTIONS.intersection(*(_parameters(getattr(module, class_name)) for module in _MODULES.values()))
    if not known.issuperset(name for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise ConfigurationError(
            f"redis_url has an option in its query that {scheme} does not know; it knows {', '.join(sorted(known))}"
            + ("; options of TLS need rediss://" if scheme == "redis://" else "")
        )
    parsed, unread = _options(url, known)
    if unread:
        raise ConfigurationError(f"redis_url is malformed: {unread} in its query can't be read")
    if scheme == "unix://" and (not parsed.get("path") or parsed["path"].endswith("/")):
        raise ConfigurationError("redis_url names no socket; write it like unix:///path/to/redis.sock")
    return class_name, parsed


def _split(url: str) -> SplitResult | None:
    """Return the parts of the URL if host and port can be read."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises
    except ValueError:
        return None
    return parts


def _options(url: str, known: frozenset[str]) -> tuple[dict[str, Any], str]:
    """Return what the driver reads from the URL, and what it can't read, by a name that is known."""
    try:
        parsed: dict[str, Any] = dict(redis.connection.parse_url(url))  # type: ignore[no-untyped-call]
    except ValueError as error:
        text = str(error)
        return {}, next((name for name in sorted(known) if f"'{name}'" in text), "an option")
    parsed.pop("connection_class", None)
    return parsed, ""


def _parameters(connection_class: type) -> set[str]:
    initialisers = [vars(base)["__init__"] for base in connection_class.__mro__ if "__init__" in vars(base)]
    return {name for initialiser in initialisers[:-1] for name in inspect.signature(initialiser).parameters}


def _quiet(connection_class: type) -> dict[str, Any]:
    """Options that keep a new connection from introducing itself: a round trip each, and forbidden on some servers."""
    known = _parameters(connection_class)
    silent: dict[str, Any] = (
        {"driver_info": None} if "driver_info" in known else {"lib_name": None, "lib_version": None}
    )
    return {**silent, "protocol": 2}
