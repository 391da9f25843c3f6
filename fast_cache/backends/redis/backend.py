"""Redis, for values that several processes share.

The ten methods here, and the engine through the store, run the same coroutines over the same link. Redis being away
never raises: reads find nothing, writes are dropped, invalidations are kept and delivered first on its return. The
calls beyond the ten stand in ``calls``; those whose answer would be a lie without Redis raise.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.channel import Channel, Listener
from fast_cache.backends.keyspace import check_key, check_namespace
from fast_cache.backends.redis.calls import RedisCalls
from fast_cache.backends.redis.changes import Changes
from fast_cache.backends.redis.cluster import Cluster
from fast_cache.backends.redis.cluster_link import ClusterLink
from fast_cache.backends.redis.hearing import Hearing
from fast_cache.backends.redis.invalidations import Invalidations
from fast_cache.backends.redis.keeper import Keeper
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.link import Link
from fast_cache.backends.redis.reclaim import Reclaimer
from fast_cache.backends.redis.store import RedisStore
from fast_cache.backends.redis.target import target_of
from fast_cache.backends.steps import CallSteps
from fast_cache.backends.store import Store
from fast_cache.counts import count, optional_count
from fast_cache.durations import Duration, optional_seconds, seconds
from fast_cache.entry import MISSING
from fast_cache.errors import BackendError, ConfigurationError
from fast_cache.ports import ASYNCIO, BLOCKING, Port, run_blocking
from fast_cache.serializers import Serializer, checked_serializer

T = TypeVar("T")

DEFAULTS: Final = {
    "timeout": 0.25,
    "connect_timeout": 1.0,
    "max_load_time": 600.0,
    "max_expire": 30 * 86400.0,
    "lease": 5.0,
}
"""In seconds."""

_SHORTEST_LEASE: Final = 0.1
"""Seconds."""


class RedisBackend(CacheBackend):
    """A cache in Redis (6.2 or later, or Valkey), shared by every process that names the same namespace.

    Args:
        redis_url: ``redis://``, ``rediss://`` or ``unix://``; ``redis+sentinel://host1,host2/service/0`` for the master
            that Sentinels watch; ``redis+cluster://host1,host2`` for a Cluster; both by TLS as ``rediss+…``. Or a
            client of yours, ``redis.Redis`` or ``redis.asyncio.Redis``, one of ``Sentinel.master_for``, or a
            ``RedisCluster``: where and as whom it connects is taken over. Its pool is not used, since that may wait and
            retry for long; connections are ours, and ``timeout`` holds for them.
        namespace: the first part of every key. :meth:`clear` touches nothing outside it.
        pool_size: how many connections stay open at most while nobody uses them, per event loop, and for all threads
            together. Callers share them: one carries what is small, and another one what is large.
        max_connections: how many may be open at once, and up to a quarter more, on which functions with
            ``lock="distributed"`` wait. With 1, small values wait for large ones. Where Redis allows no scripts, each
            process has one more.
        client, async_client: your clients, where both flavours are to be yours. A missing flavour is made alike,
            except from a client with connections of a class of your own: then give both.
        credential_provider: a ``redis.CredentialProvider``, asked for user and password at each new connection.
        timeout: how long the server may be silent (seconds or another duration); 0.25 seconds by default.
        connect_timeout: how long connecting may take; 1 second by default.
        max_load_time: a load that takes longer than this is not stored, since its fence is gone by then; 10 minutes
            by default.
        max_expire: the longest lifetime of an entry, also of one without expiry; 30 days by default. Only the token by
            which :meth:`clear` works, one of 16 bytes for each namespace, stays in Redis without a lifetime.
        max_value_size: the largest entry, in bytes before it is compressed. What is larger can't be stored, and is a
            miss where it lies in Redis all the same. Keep it below the server's ``proto-max-bulk-len`` (512 MB), which
            ends the connection of whoever sends more.
        compress_above: values of more bytes than this are compressed, if that makes them smaller by an eighth; 4 KiB
            by default, ``None`` for never. By Zstandard where the package ``zstandard`` is installed (the extra
            ``zstd``), else by zlib. Both are read everywhere, but for Zstandard where the package is missing: there
            such an entry is a miss.
        serializer: makes bytes of all values, those set by hand too, in place of return annotations:
            :class:`PickleSerializer`, or one of your own, see :class:`Serializer`. Functions may have another
            (``cached(serializer=...)``). Entries that another serializer wrote are a miss.
        wait_for_replicas: an invalidation, or a value set by hand, counts as confirmed only when so many replicas, of
            each master in a Cluster, have acknowledged it within ``timeout`` (1 second at most), by ``WAIT``. Its
            caller is kept waiting for that. One that they have not is a failed step of the cache; it is told again to
            a server that takes the place of this one, however much later, unless replicas, who are asked again in the
            background, have it by then. By default none is asked.
        lease: for functions with ``lock="distributed"``: how soon another process loads in the place of one that died;
            5 seconds by default, 0.1 at least. A load that takes longer keeps its lease.

    Durations may be ``None``, which means the default.

    Raises:
        ConfigurationError: a malformed URL, an unknown option, a number that can't be; nothing is connected yet.
        InvalidTypeError: a namespace, a number or a duration of another type; neither a URL nor a client; no
            serializer.
    """

    def __init__(
        self,
        redis_url: Any = "redis://localhost:6379/0",
        namespace: str = "fastapi-cache",
        pool_size: int = 10,
        max_connections: int = 20,
        *,
        client: Any = None,
        async_client: Any = None,
        credential_provider: Any = None,
        timeout: Duration | None = None,
        connect_timeout: Duration | None = None,
        max_load_time: Duration | None = None,
        max_expire: Duration | None = None,
        max_value_size: int = 64 * 2**20,
        lease: Duration | None = None,
        compress_above: int | None = 4096,
        serializer: Serializer[Any] | None = None,
        wait_for_replicas: int | None = None,
    ) -> None:
        self.namespace = check_namespace(namespace)
        count(pool_size, option="pool_size")
        count(max_connections, option="max_connections")
        count(max_value_size, option="max_value_size")
        optional_count(compress_above, option="compress_above")
        optional_count(wait_for_replicas, option="wait_for_replicas")
        codec = checked_serializer(serializer)
        clients = [given for given in (client, async_client) if given is not None]
        if redis_url is not None and not isinstance(redis_url, str):
            clients.insert(0, redis_url)
        silence = _seconds(timeout, "timeout")
        connecting = _seconds(connect_timeout, "connect_timeout")
        target = target_of(
            redis_url,
            tuple(clients),
            timeout=silence,
            connect_timeout=connecting,
            credential_provider=credential_provider,
        )
        longest = _seconds(max_expire, "max_expire")
        longest_load = _seconds(max_load_time, "max_load_time")
        lasts = _seconds(lease, "lease")
        if lasts < _SHORTEST_LEASE:
            raise ConfigurationError(
                f"lease must be at least {_SHORTEST_LEASE:g} s, got {lasts:g} s: while a load goes on, it is extended "
                "three times in that time"
            )
        layout = Layout(
            namespace,
            fence_ms=max(1, round(longest_load * 1000)),
            counter_ms=max(1, round(longest * 1000)),
            lease_ms=max(1, round(lasts * 1000)),
        )
        link = ClusterLink if isinstance(target, Cluster) else Link
        # A load of another process that began before may store for so long, and what it stores lives for so long.
        invalidations = Invalidations(longest_load + longest, replicate=wait_for_replicas is not None)
        self._link = link(
            target,
            layout,
            invalidations,
            silence=silence,
            keep=pool_size,
            most=max_connections,
            replicas=wait_for_replicas,
        )
        self._layout = layout
        self._keeper = Keeper(self._link, layout, length=lasts, longest=longest_load)
        self._reclaimer = Reclaimer(self._link, layout)
        self._store = RedisStore(
            type(self).__name__,
            self._link,
            layout,
            self._keeper,
            self._reclaimer,
            longest,
            max_value_size,
            compress_above,
            codec,
        )
        # Twice: what was sent over a connection that breaks is sent again over another one.
        changes = Changes(layout, max(1, round(longest_load * 1000)), round(2000 * (silence + connecting)) + 1000)
        self._calls = RedisCalls(self, self._store, self._link, layout, changes, longest)

    def get(self, key: str, default: Any = None) -> Any:
        return run_blocking(self.get_step(BLOCKING, key, default))

    async def aget(self, key: str, default: Any = None) -> Any:
        return await self.get_step(ASYNCIO, key, default)

    def set(self, key: str, value: Any, expire: Duration | None = None) -> None:
        run_blocking(self.set_step(BLOCKING, key, value, expire))

    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> None:
        await self.set_step(ASYNCIO, key, value, expire)

    def delete(self, key: str) -> bool:
        return run_blocking(self.delete_step(BLOCKING, key))

    async def adelete(self, key: str) -> bool:
        return await self.delete_step(ASYNCIO, key)

    def clear(self) -> None:
        run_blocking(self._clear(BLOCKING))

    async def aclear(self) -> None:
        await self._clear(ASYNCIO)

    def has(self, key: str) -> bool:
        return run_blocking(self._has(BLOCKING, key))

    async def ahas(self, key: str) -> bool:
        return await self._has(ASYNCIO, key)

    def close(self) -> None:
        self._reclaimer.close()
        run_blocking(self._keeper.close(BLOCKING))
        self._link.close()

    async def aclose(self) -> None:
        self._reclaimer.close()
        await self._keeper.close(ASYNCIO)
        await self._link.aclose()
        self._link.close()

    def engine_store(self) -> Store:
        return self._store

    def engine_calls(self) -> CallSteps:
        return self._calls

    def engine_channel(self, listener: Listener, *, how: str | None, staleness: float) -> Channel:
        return Hearing(self._link, self._layout, listener, how=how, staleness=staleness)

    # The steps of the ten methods that are taken for many keys at once too.

    async def get_step(self, port: Port, key: str, default: Any) -> Any:
        store = self._store
        value: Any = MISSING
        check_key(key)
        try:
            value = store.plain(key, replies := await self._link.exchange(port, self._layout.read(key)))
            if value is MISSING:
                value = await store.closely(port, key, replies)
        except BackendError as error:
            store.health.failed("read", error)
        else:
            store.health.works("read")
        if value is MISSING:
            store.direct.miss()
            return default
        store.direct.hit()
        return value

    async def set_step(self, port: Port, key: str, value: Any, expire: Duration | None) -> None:
        lifetime = optional_seconds(expire, option="expire")
        await self._or_else(None, self._store.put, port, check_key(key), value, lifetime)

    async def delete_step(self, port: Port, key: str) -> bool:
        return await self._or_else(False, self._store.delete, port, check_key(key))

    async def _clear(self, port: Port) -> None:
        await self._or_else(None, self._store.clear, port)

    async def _has(self, port: Port, key: str) -> bool:
        return await self._or_else(False, self._store.has, port, check_key(key))

    async def _or_else(self, otherwise: T, step: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Carry out ``step``; if the store fails, the trouble is counted and ``otherwise`` is the answer."""
        try:
            result = await step(*args)
        except BackendError as error:
            self._store.health.failed(step.__name__.lstrip("_"), error)
            return otherwise
        self._store.health.works(step.__name__.lstrip("_"))
        return result


def _seconds(value: Duration | None, option: str) -> float:
    return DEFAULTS[option] if value is None else seconds(value, option=option)
