"""What tests of deployments share: a user with few rights, credentials that change, and a use of everything."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

from redis.credentials import CredentialProvider

from fast_cache import RedisBackend
from fast_cache.backends.redis.deployment import Target
from fast_cache.backends.redis.driver import Address, discard
from fast_cache.backends.redis.target import target_of
from fast_cache.ports import ASYNCIO, BLOCKING, Port
from fast_cache.testing import Blocking, Flavour, Store
from tests.support.redis_server import RedisServer

NAMESPACE: Final = "shop"

WITHOUT_SCRIPTS: Final = ("~*", "+@all", "-@scripting")
"""The rights of a user who may run no scripts."""

WITHOUT_INFO: Final = (f"~{NAMESPACE}:*", "+@all", "-@dangerous", "+cluster|slots")
"""The rights of a user who may not ask which server it is; before Redis 7.0, CLUSTER is dangerous as a whole."""


def port_of(flavour: Flavour) -> Port:
    """The port by which steps of this flavour are carried out."""
    return BLOCKING if isinstance(flavour, Blocking) else ASYNCIO


def has_ipv6() -> bool:
    """Whether a server can listen on ::1 here."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def add_user(server: RedisServer, name: str, password: str, *rights: str) -> None:
    """Let ``server`` know a user; without ``rights`` one as hosted services have them: it may use the namespace."""
    rights = rights or (f"~{NAMESPACE}:*", "+@all", "-@dangerous", "-@admin", "-client", "-config", "-script", "-info")
    server.command("ACL", "SETUSER", name, "reset", "on", f">{password}", *rights)


class Provider(CredentialProvider):
    """Gives a user and a password, and counts how often it was asked in each flavour."""

    def __init__(self, name: str, password: str) -> None:
        self.name = name
        self.password = password
        self.asked = {"get_credentials": 0, "get_credentials_async": 0}

    def get_credentials(self) -> tuple[str, str]:
        self.asked["get_credentials"] += 1
        return self.name, self.password

    async def get_credentials_async(self) -> tuple[str, str]:
        self.asked["get_credentials_async"] += 1
        return self.name, self.password


async def use_everything(flavour: Flavour, options: dict[str, Any]) -> None:
    """Use a backend with ``options`` by hand and by a cached function: it must do all that it can, without trouble."""
    # Not about time-outs: machines that run tests are busy.
    store = flavour.use(RedisBackend(**({"timeout": 10, "connect_timeout": 10} | options), namespace=NAMESPACE))
    await store.clear()
    await store.set("k", {"a": 1}, 60)
    assert await store.get("k") == {"a": 1}
    assert await store.has("k")
    assert await store.delete("k")
    assert await store.get("k", "absent") == "absent"
    await _use_basic_calls(flavour, store)
    loads = []

    @store.cached(expire=60, tags=["all"])
    async def load(item: int) -> int:
        loads.append(item)
        return item * 2

    @store.cached(expire=60, lock="distributed")
    async def load_alone(item: int) -> int:
        loads.append(item)
        return item * 3

    for fn, factor in ((load, 2), (load_alone, 3)):
        loads.clear()
        for _ in range(2):
            assert await flavour.call(fn, 1) == factor
        assert loads == [1]
        await flavour.call(fn.invalidate, 1)
        assert await flavour.call(fn, 1) == factor
        assert loads == [1, 1]
    await store.clear()
    assert await flavour.call(load, 1) == 2
    assert loads == [1, 1, 1]
    assert store.backend.engine_store().health.failures == 0


async def _use_basic_calls(flavour: Flavour, store: Store) -> None:
    assert await store.ask("ping")
    assert [await store.ask("incr", "n"), await store.ask("incr", "n", 5), await store.ask("decr", "n")] == [1, 6, 5]
    assert await store.ask("add", "added", "first", 60)
    assert not await store.ask("add", "added", "second", 60)
    assert await store.get("added") == "first"
    assert await store.ask("expire", "added", 600)
    assert 60 < await store.ask("ttl", "added") <= 600
    assert await store.ask("touch", "added", 60)
    assert 0 < await store.ask("ttl", "added") <= 60
    many = {f"m:{number}": number for number in range(10)}
    await store.ask("set_many", many, 60)
    assert await store.ask("get_many", [*many, "absent"]) == (*many.values(), None)
    assert set(await store.keys("m:")) == set(many)
    assert await store.ask("delete_many", "m:0", "m:1", "absent") == 2
    assert await store.ask("delete_match", "m:") == 8
    assert await store.keys("m:") == []
    held, wanted = store.backend.lock("lock"), store.backend.lock("lock")

    async def take() -> None:
        await flavour.do(wanted, "acquire")

    await flavour.do(held, "acquire")
    token, waiting = held.token, flavour.start(flavour.function(take))
    await flavour.do(held, "extend", 20)
    assert await flavour.do(held, "release")
    await waiting.result()
    assert wanted.token > token
    assert await flavour.do(wanted, "release")


def make_target(url: str | None, *clients: Any, connect_timeout: float = 5.0, **options: Any) -> Target:
    """A target with much patience, since machines that run tests are busy."""
    return target_of(url, clients, timeout=5.0, connect_timeout=connect_timeout, **options)


@contextlib.asynccontextmanager
async def opened(port: Port, target: Target, address: Address | None = None, **options: Any) -> AsyncIterator[Any]:
    connection = await target.connect(port, address, **options)
    try:
        yield connection
    finally:
        await discard(port, connection)


async def ask(port: Port, target: Target, *words: str | int, address: Address | None = None) -> Any:
    """The reply to one command over a new connection."""
    async with opened(port, target, address) as connection:
        return await target.maker.ask(port, connection, *words)


async def port_reached(port: Port, target: Target, address: Address | None = None) -> int:
    """The port of the server that a new connection leads to, in its own words."""
    reply: list[bytes] = await ask(port, target, "CONFIG", "GET", "port", address=address)
    return int(reply[1])
