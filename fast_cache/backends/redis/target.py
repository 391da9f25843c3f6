"""Where Redis is: a URL or the user's own clients become a target, checked before anything connects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fast_cache.backends.redis.clients import read_clients
from fast_cache.backends.redis.cluster import Cluster
from fast_cache.backends.redis.deployment import Server, Target
from fast_cache.backends.redis.driver import MODULES, Credentials, Maker, standard
from fast_cache.backends.redis.sentinel import Sentinels
from fast_cache.backends.redis.url import Place, read_url
from fast_cache.errors import ConfigurationError, InvalidTypeError


def target_of(
    redis_url: str | None,
    clients: tuple[Any, ...] = (),
    *,
    timeout: float,
    connect_timeout: float,
    credential_provider: Any = None,
) -> Target:
    """What connects to where ``redis_url`` says, or like ``clients``, one or one of each flavour.

    Args:
        timeout: how long a server may be silent, in seconds.
        connect_timeout: how long one connection may take, in seconds.
        credential_provider: asked for the user and the password whenever a connection is made.

    Raises:
        ConfigurationError: a malformed URL, an unknown option, clients that can't be taken; nothing is connected yet.
        InvalidTypeError: neither a URL nor a client, or no provider of credentials.
    """
    waits = {"socket_timeout": timeout, "socket_connect_timeout": connect_timeout}
    asking_waits = dict.fromkeys(waits, connect_timeout)
    if clients:
        if credential_provider is not None:
            raise ConfigurationError("credential_provider goes with a URL; a client brings its own")
        seen = read_clients(clients, waits, asking_waits)
        if seen.asking is not None:
            return Sentinels(
                seen.maker,
                seen.asking,
                seen.hosts,
                seen.service or "",
                timeout=timeout,
                connect_timeout=connect_timeout,
                host=seen.host,
                setting="client",
            )
        if seen.hosts:
            return Cluster(seen.maker, seen.hosts, timeout=timeout, connect_timeout=connect_timeout, remap=seen.remap)
        return Server(seen.maker, connect_within=connect_timeout + timeout)
    if not isinstance(redis_url, str):
        raise InvalidTypeError(f"redis_url must be text or a redis client, not {type(redis_url).__name__}")
    place = read_url(redis_url)
    credentials = _credentials(credential_provider, place)
    maker = _maker(place, {**waits, **place.options, **credentials})
    if place.service is not None:
        asking = _maker(place, {**place.asking, **asking_waits}, server="a Sentinel")
        hosts, service = place.hosts, place.service
        return Sentinels(maker, asking, hosts, service, timeout=timeout, connect_timeout=connect_timeout)
    if place.hosts:
        return Cluster(maker, place.hosts, timeout=timeout, connect_timeout=connect_timeout)
    return Server(maker, connect_within=connect_timeout + timeout)


def _credentials(provider: Any, place: Place) -> Mapping[str, Any]:
    if provider is None:
        return {}
    if not callable(getattr(provider, "get_credentials", None)):
        raise InvalidTypeError(
            f"credential_provider must be a redis.CredentialProvider, not {type(provider).__name__}: "
            "it needs get_credentials()"
        )
    if {"username", "password"} & place.options.keys():
        raise ConfigurationError("redis_url has a user name or a password, and credential_provider is given; drop one")
    return {"credential_provider": Credentials(provider)}


def _maker(place: Place, options: Mapping[str, Any], *, server: str = "the server") -> Maker:
    maker = Maker(*(standard(flavour, place.class_name, options) for flavour in MODULES), server=server)
    if not _can_be_made(maker):
        raise ConfigurationError("redis_url is malformed: the driver can't use the options in its query")
    return maker


def _can_be_made(maker: Maker) -> bool:
    """Whether the driver takes the options. What it makes here is not connected, and dropped."""
    try:
        maker.blocking()
        maker.suspending()
    except Exception:
        return False
    return True
