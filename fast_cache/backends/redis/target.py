"""Where Redis is: a URL or the user's own clients, checked before anything connects.

From either come two pools, one that blocks threads and one that suspends the tasks of one event loop. Messages name
the setting that is wrong and never repeat the URL: it may hold a password.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any, Final
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.connection
from fast_cache.errors import ConfigurationError, InvalidTypeError
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

_SCHEMES: Final = ("redis", "rediss", "unix")

_CARRIED_OVER: Final = frozenset(
    {"host", "port", "path", "db", "username", "password", "credential_provider", "client_name", "socket_timeout"}
    | {"socket_connect_timeout", "socket_keepalive", "ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs"}
    | {"ssl_ca_data", "ssl_ca_path", "ssl_check_hostname", "ssl_password", "ssl_min_version", "ssl_ciphers"}
)
"""What a client of the other flavour takes from the user's: where to connect, as whom, and how patiently."""


class Target:
    """How to connect. ``blocking_pool`` and ``suspending_pool`` make new pools, or return the user's."""

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
        self._pool_size = min(pool_size, max_connections)
        self._max_connections = max_connections
        self._timeout = timeout
        for client in clients:
            if not hasattr(client, "connection_pool"):
                raise InvalidTypeError(f"redis_url must be text or a redis client, not {type(client).__name__}")
        self._own_pools = {_flavour(client): client.connection_pool for client in clients}
        if len(self._own_pools) < len(clients):
            raise ConfigurationError("two clients of the same flavour were given; give one redis.Redis and one asyncio")
        if clients:
            pool = next(iter(self._own_pools.values()))
            self._class_name = pool.connection_class.__name__
            self._kwargs = {name: value for name, value in pool.connection_kwargs.items() if name in _CARRIED_OVER}
        else:
            self._class_name, self._kwargs = _parse(redis_url)
        self._kwargs = {"socket_timeout": timeout, "socket_connect_timeout": connect_timeout} | self._kwargs

    def blocking_pool(self) -> tuple[Any, bool]:
        """A pool for threads, and whether it is ours to close."""
        own = self._own_pools.get("blocking")
        if own is not None:
            return own, False
        pool = _BlockingPool(
            self._pool_size,
            max_connections=self._max_connections,
            timeout=self._timeout,
            connection_class=getattr(redis.connection, self._class_name),
            retry=Retry(NoBackoff(), 0),
            **_quiet(redis.connection.Connection),
            **self._kwargs,
        )
        return pool, True

    def suspending_pool(self, *, first_loop: bool) -> tuple[Any, bool]:
        """A pool for the running event loop, and whether it is ours to close.

        The user's own asyncio client belongs to one loop, the first that asks; further loops get pools like it.
        """
        own = self._own_pools.get("suspending")
        if own is not None and first_loop:
            return own, False
        pool = _SuspendingPool(
            self._pool_size,
            max_connections=self._max_connections,
            timeout=self._timeout,
            connection_class=getattr(redis.asyncio.connection, self._class_name),
            retry=AsyncRetry(NoBackoff(), 0),
            **_quiet(redis.asyncio.connection.Connection),
            **self._kwargs,
        )
        return pool, True


class _Idle:
    """Which connections stay open between exchanges: ``keep`` of them; what was opened beyond that is closed."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._open: set[Any] = set()

    def take(self, connection: Any) -> None:
        with self._lock:
            self._open.discard(connection)

    def may_stay(self, connection: Any) -> bool:
        with self._lock:
            if len(self._open) >= self._keep:
                return False
            self._open.add(connection)
            return True


class _BlockingPool(redis.BlockingConnectionPool):
    def __init__(self, keep: int, **kwargs: Any) -> None:
        self._idle = _Idle(keep)
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        connection = super().get_connection(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._idle.take(connection)
        return connection

    def release(self, connection: Any) -> None:
        if not self._idle.may_stay(connection):
            connection.disconnect()
        super().release(connection)  # type: ignore[no-untyped-call]


class _SuspendingPool(redis.asyncio.BlockingConnectionPool):
    def __init__(self, keep: int, **kwargs: Any) -> None:
        self._idle = _Idle(keep)
        super().__init__(**kwargs)

    async def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().get_connection(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._idle.take(connection)
        return connection

    async def release(self, connection: Any) -> None:
        if not self._idle.may_stay(connection):
            await connection.disconnect(nowait=True)
        await super().release(connection)


def _flavour(client: Any) -> str:
    return "suspending" if isinstance(client, redis.asyncio.Redis) else "blocking"


def _parse(url: str | None) -> tuple[str, dict[str, Any]]:
    if not isinstance(url, str):
        raise InvalidTypeError(f"redis_url must be text or a redis client, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError("redis_url is malformed: its host or port can't be read") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(
            f"redis_url must start with one of {', '.join(f'{name}://' for name in _SCHEMES)}; "
            f"got the scheme {parts.scheme[:20]!r}"
        )
    if parts.scheme != "unix":
        if port == 0:
            raise ConfigurationError("redis_url names port 0; Redis usually listens on 6379")
        database = parts.path.strip("/")
        if database and not (database.isascii() and database.isdigit()):
            raise ConfigurationError("redis_url must end in a database number such as /0, or in nothing")
    try:
        parsed: dict[str, Any] = dict(redis.connection.parse_url(url))  # type: ignore[no-untyped-call]
    except ValueError:
        raise ConfigurationError("redis_url is malformed: an option in its query can't be read") from None
    connection_class = parsed.pop("connection_class", redis.connection.Connection)
    unknown = set(parsed) - set(_parameters(connection_class))
    if unknown:
        raise ConfigurationError(f"redis_url has unknown options: {', '.join(sorted(unknown))[:100]}")
    return connection_class.__name__, parsed


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
