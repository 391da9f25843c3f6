"""The user's own clients: where and as whom they connect is taken over, with our patience instead of theirs.

One client is enough for both flavours, unless its connections are of a class of its own. Nothing is asked of a client,
and no connection of its pool is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
from fast_cache.backends.redis.driver import MODULES, Address, Maker, no_retry, parameters, standard
from fast_cache.errors import ConfigurationError, InvalidTypeError

_CARRIED_OVER: Final = frozenset(
    {"host", "port", "path", "db", "username", "password", "credential_provider", "client_name"}
    | {"socket_keepalive", "ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs"}
    | {"ssl_ca_data", "ssl_ca_path", "ssl_check_hostname", "ssl_password", "ssl_min_version", "ssl_ciphers"}
    | {"ssl_include_verify_flags", "ssl_exclude_verify_flags", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled"}
    | {"ssl_ocsp_context", "ssl_ocsp_expected_cert", "socket_keepalive_options"}
)
"""What is taken from the user's client: where to connect, as whom, and whom to trust."""

_STANDARD: Final = ("Connection", "SSLConnection", "UnixDomainSocketConnection")
_CLUSTERS: Final = (redis.RedisCluster, redis.asyncio.RedisCluster)
_SENTINEL_POOLS: Final = (redis.sentinel.SentinelConnectionPool, redis.asyncio.sentinel.SentinelConnectionPool)
_SENTINEL_CLASSES: Final = (
    redis.sentinel.SentinelManagedConnection,
    redis.sentinel.SentinelManagedSSLConnection,
    redis.asyncio.sentinel.SentinelManagedConnection,
    redis.asyncio.sentinel.SentinelManagedSSLConnection,
)
_SSL: Final = (redis.connection.SSLConnection, redis.asyncio.connection.SSLConnection)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one client, or two alike, say."""

    maker: Maker
    hosts: tuple[Address, ...] = ()
    """Sentinels, or nodes of a Cluster."""
    service: str | None = None
    asking: Maker | None = None
    host: str | None = None
    """Sentinels: what is connected to instead of the host that they name."""
    remap: Callable[[Address], Address] | None = None


@dataclass(frozen=True, slots=True)
class _Client:
    """What one client says, in the terms of its flavour."""

    kind: str
    connection_class: type
    kwargs: Mapping[str, Any]
    hosts: tuple[Address, ...] = ()
    service: str | None = None
    asking: Mapping[str, Any] = field(default_factory=dict)
    asking_class: str = "Connection"
    host: str | None = None
    remap: Callable[[Address], Address] | None = None

    @property
    def class_name(self) -> str | None:
        """The driver's class of connections; ``None`` for one of the user's own."""
        made = self.connection_class
        if self.kind != "server":
            return "SSLConnection" if issubclass(made, _SSL) else "Connection"
        standard = made.__name__ in _STANDARD and made.__module__ in (module.__name__ for module in MODULES.values())
        return made.__name__ if standard else None


def read_clients(clients: tuple[Any, ...], waits: Mapping[str, float], asking_waits: Mapping[str, float]) -> Seen:
    """Where ``clients`` connect: one, or one of each flavour.

    Args:
        waits: the driver's options for our patience; ``asking_waits`` those with Sentinels.

    Raises:
        InvalidTypeError: one is no client of the driver's.
        ConfigurationError: they are of one flavour, of different deployments, or have no like in the other flavour.
    """
    for client in clients:
        if not hasattr(client, "connection_pool") and not isinstance(client, _CLUSTERS):
            raise InvalidTypeError(f"redis_url must be text or a redis client, not {type(client).__name__}")
    by_flavour = {_flavour(client): _read(client) for client in clients}
    if len(by_flavour) < len(clients):
        raise ConfigurationError("two clients of the same flavour were given; give one redis.Redis and one asyncio")
    if len({client.kind for client in by_flavour.values()}) > 1:
        raise ConfigurationError("the two clients are for different deployments; give two for the same")
    first = next(iter(by_flavour.values()))
    blocking, suspending = (_connections(by_flavour, flavour, waits) for flavour in MODULES)
    asking = None
    if first.kind == "sentinel":
        makes = (_standard(flavour, first.asking_class, first.asking, asking_waits) for flavour in MODULES)
        asking = Maker(*makes, setting="client", server="a Sentinel")
    maker = Maker(blocking, suspending, setting="client")
    return Seen(maker, first.hosts, first.service, asking, first.host, first.remap)


def _flavour(client: Any) -> str:
    return "suspending" if isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster) else "blocking"


def _read(client: Any) -> _Client:
    if isinstance(client, _CLUSTERS):
        return _read_cluster(client)
    pool = client.connection_pool
    if isinstance(pool, _SENTINEL_POOLS) and pool.connection_class in _SENTINEL_CLASSES:
        return _read_sentinel(pool)
    return _Client("server", pool.connection_class, pool.connection_kwargs)


def _read_cluster(client: Any) -> _Client:
    manager = client.nodes_manager
    kwargs = manager.connection_kwargs
    tls = kwargs.get("ssl") or issubclass(kwargs.get("connection_class") or object, _SSL)
    hosts = tuple((str(node.host), int(node.port)) for node in manager.startup_nodes.values())
    remap = getattr(manager, "address_remap", None)
    return _Client("cluster", _SSL[0] if tls else redis.connection.Connection, kwargs, hosts, remap=remap)


def _read_sentinel(pool: Any) -> _Client:
    if not pool.is_master:
        raise ConfigurationError("the client reads from replicas; give one of Sentinel.master_for")
    manager = pool.sentinel_manager
    pools = [sentinel.connection_pool for sentinel in manager.sentinels]
    return _Client(
        "sentinel",
        pool.connection_class,
        pool.connection_kwargs,
        tuple((str(each.connection_kwargs["host"]), int(each.connection_kwargs["port"])) for each in pools),
        str(pool.service_name),
        pools[0].connection_kwargs,
        "SSLConnection" if issubclass(pools[0].connection_class, _SSL) else "Connection",
        getattr(manager, "_force_master_ip", None),
    )


def _connections(clients: Mapping[str, _Client], flavour: str, waits: Mapping[str, float]) -> partial[Any]:
    """Connections as the user's clients would make them, with our patience."""
    own = flavour in clients
    client = clients[flavour] if own else next(iter(clients.values()))
    if client.class_name is not None:
        return _standard(flavour, client.class_name, client.kwargs, waits)
    if own:
        # The driver's pools ask for RESP3 and what is announced over it, unless they are told otherwise.
        plain = {name: value for name, value in client.kwargs.items() if not name.startswith("maint_notifications")}
        ours = {**waits, "retry": no_retry(flavour), "encoding": "utf-8", "protocol": 2}
        return partial(client.connection_class, **{**plain, **ours})
    raise ConfigurationError(
        f"a client with connections of the kind {client.connection_class.__name__} has no like in the other flavour; "
        "give both, as client= and async_client="
    )


def _standard(flavour: str, class_name: str, kwargs: Mapping[str, Any], waits: Mapping[str, float]) -> partial[Any]:
    known = parameters(getattr(MODULES[flavour], class_name))
    carried = {name: value for name, value in kwargs.items() if name in _CARRIED_OVER & known}
    return standard(flavour, class_name, {**carried, **waits})
