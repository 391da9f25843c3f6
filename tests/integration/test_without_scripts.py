"""Servers that allow no scripts: everything works all the same, only not in one step of the server's.

The contract is kept there too, see ``tests/contract``; here is how the refusal is learned and forgotten, and what goes
wrong on the way. What scripts and their procedures do is compared in ``test_scripts_in_plain_words``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from redis.crc import key_slot

from fast_cache import RedisBackend
from fast_cache.backends.redis.conversations import Conversations
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.resp import Command, Reply
from fast_cache.errors import BackendError
from fast_cache.testing import Flavour, in_both_flavours, only_suspending
from tests.faults.faults import information
from tests.support.deployments import NAMESPACE, WITHOUT_SCRIPTS, add_user, use_everything
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.way import Way

LAYOUT = Layout(NAMESPACE, fence_ms=600_000)

LITTLE = (f"~{NAMESPACE}:*", "+@all", "-@dangerous", "-@admin", "-@scripting", "-client", "-config", "-info")
"""As hosted services have it, and no scripts either."""


def without_scripts(server: RedisServer) -> None:
    server.command("ACL", "SETUSER", "default", "-@scripting")


@pytest.fixture
def scriptless(own_redis: RedisServer) -> RedisServer:
    """A server that allows no scripts until it is restarted."""
    without_scripts(own_redis)
    return own_redis


@pytest.fixture
def way(scriptless: RedisServer) -> Iterator[Way]:
    made = Way(scriptless.port)
    yield made
    made.through.set()
    made.close()


def made(server: RedisServer, **options: Any) -> RedisBackend:
    return RedisBackend(server.url, namespace=NAMESPACE, **{"timeout": "5s", **options})


def failures(backend: Any) -> int:
    count: int = backend.engine_store().health.failures
    return count


def done(server: RedisServer, name: str) -> int:
    """How often a command was carried out."""
    return _count(server, name, "calls")


def refused(server: RedisServer, name: str) -> int:
    """How often it was not allowed."""
    return _count(server, name, "rejected_calls")


def _count(server: RedisServer, name: str, what: str) -> int:
    said = information(server, "commandstats").get(f"cmdstat_{name}", f"{what}=0")
    return int(dict(part.split("=") for part in said.split(","))[what])


@pytest.mark.parametrize(
    "rights",
    [WITHOUT_SCRIPTS, ("~*", "+@all", "-eval"), ("~*", "+@all", "-evalsha"), LITTLE],
    ids=["no scripting", "no EVAL", "no EVALSHA", "little"],
)
@in_both_flavours
async def test_a_user_who_may_run_no_scripts(flavour: Flavour, own_redis: RedisServer, rights: Sequence[str]) -> None:
    add_user(own_redis, "hosted", "secret", *rights)
    await use_everything(flavour, {"redis_url": own_redis.url.replace("//", "//hosted:secret@"), "timeout": "5s"})
    assert done(own_redis, "exec") > 0


@in_both_flavours
async def test_a_server_that_has_no_such_commands(flavour: Flavour) -> None:
    renamed = ("--rename-command", "EVAL", "", "--rename-command", "EVALSHA", "")
    with RedisServer(*renamed) as server:
        await use_everything(flavour, {"redis_url": server.url, "timeout": "5s"})
        assert done(server, "exec") > 0


@in_both_flavours
async def test_where_scripts_are_allowed_nothing_else_is_tried(flavour: Flavour, own_redis: RedisServer) -> None:
    await use_everything(flavour, {"redis_url": own_redis.url, "timeout": "5s"})
    assert done(own_redis, "evalsha") > 0
    assert done(own_redis, "watch") == refused(own_redis, "watch") == 0


@in_both_flavours
async def test_that_scripts_are_refused_is_learned_once(flavour: Flavour, scriptless: RedisServer) -> None:
    store = flavour.use(made(scriptless))
    for number in range(20):
        await store.set("k", number)
        assert await store.ask("incr", "n") == number + 1
    assert await store.get("k") == 19
    assert (done(scriptless, "evalsha"), refused(scriptless, "evalsha")) == (0, 1)
    assert done(scriptless, "eval") == refused(scriptless, "eval") == 0
    assert done(scriptless, "exec") == 41, "each is one transaction; the first sum begins a counter: two"
    assert failures(store.backend) == 0


@in_both_flavours
async def test_many_keys_learn_it_once_and_are_all_stored(flavour: Flavour, scriptless: RedisServer) -> None:
    store = flavour.use(made(scriptless))
    values = {f"key {number}": number for number in range(300)}
    await store.ask("set_many", values)
    assert await store.ask("get_many", list(values)) == tuple(values.values())
    assert refused(scriptless, "evalsha") == 300, "they travelled together, before it was known"
    await store.ask("set_many", values)
    assert refused(scriptless, "evalsha") == 300
    assert failures(store.backend) == 0


@pytest.mark.parametrize("first", ["set", "incr"])
@in_both_flavours
async def test_another_server_in_its_place_is_asked_anew(flavour: Flavour, scriptless: RedisServer, first: str) -> None:
    """Also if the first thing that it is asked is one that would have been done by scripts."""
    store = flavour.use(made(scriptless))

    async def change() -> None:
        await (store.set("k", 1) if first == "set" else store.ask("incr", "n"))

    await change()
    await change()
    assert done(scriptless, "exec") > 0
    scriptless.kill()
    scriptless.start()

    async def with_scripts() -> bool:
        with contextlib.suppress(BackendError):
            await change()
        return done(scriptless, "evalsha") > 0

    await flavour.until(with_scripts, "scripts are used again")
    before = done(scriptless, "exec")
    await change()
    assert done(scriptless, "exec") == before <= 2, "no more than was under way"


@in_both_flavours
async def test_a_right_that_is_taken_away_costs_one_change(flavour: Flavour, own_redis: RedisServer) -> None:
    """Where scripts are allowed nobody looks whether they still are; the first one who is refused makes it known."""
    store = flavour.use(made(own_redis))
    await store.set("k", 1)
    without_scripts(own_redis)
    await store.set("k", 2)
    assert failures(store.backend) == 1
    await store.set("k", 3)
    assert await store.get("k") == 3
    await store.set("k", 4)
    assert await store.get("k") == 4
    assert failures(store.backend) == 1
    assert refused(own_redis, "evalsha") == 2


@in_both_flavours
async def test_a_server_that_is_away_has_refused_no_scripts(flavour: Flavour, own_redis: RedisServer) -> None:
    store = flavour.use(made(own_redis, timeout=0.3))
    await store.set("k", "before")
    own_redis.freeze()
    await store.set("k", "lost")
    assert failures(store.backend) == 1
    own_redis.thaw()

    async def stored() -> bool:
        await store.set("k", "after")
        return bool(await store.get("k") == "after")

    await flavour.until(stored, "it is back")
    assert done(own_redis, "watch") == refused(own_redis, "watch") == 0


def interfere(monkeypatch: pytest.MonkeyPatch, letter: bytes, others: Callable[[], object]) -> list[str]:
    """Let ``others`` do something once, before a name of that letter is changed; returns what goes on about it."""
    real = Conversations.talk
    seen: list[str] = []

    async def talk(self: Conversations, where: Any, commands: Sequence[Command], goes_on: bool) -> list[Reply]:
        names = [command[1] for command in commands if len(command) > 1]
        if any(isinstance(name, bytes) and name.split(b":")[1] == letter for name in names):
            seen.append("change" if goes_on else "look")
            if goes_on and seen.count("change") == 1:
                others()
        return await real(self, where, commands, goes_on)

    monkeypatch.setattr(Conversations, "talk", talk)
    return seen


@in_both_flavours
async def test_a_delete_between_the_look_and_the_write_of_a_load_is_not_undone(
    flavour: Flavour, scriptless: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = flavour.use(made(scriptless))
    truth = ["before"]

    @store.cached(expire=60)
    async def load() -> str:
        return truth[0]

    def delete_elsewhere() -> None:
        with contextlib.closing(scriptless.client()) as raw:
            [fence] = raw.scan_iter(f"{NAMESPACE}:f:*")
            assert raw.delete(fence) == 1
        truth[0] = "after"

    seen = interfere(monkeypatch, b"f", delete_elsewhere)
    assert await flavour.call(load) == "before"
    assert seen == ["look", "change", "look"], "it is found out, and not tried again"
    with contextlib.closing(scriptless.client()) as raw:
        assert raw.keys(f"{NAMESPACE}:v:*") == []
    assert await flavour.call(load) == "after"
    assert await flavour.call(load) == "after"
    assert load.stats().loads == 2


@in_both_flavours
async def test_a_value_between_whose_look_and_change_another_one_comes_is_put_after_it(
    flavour: Flavour, scriptless: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = flavour.use(made(scriptless))
    with contextlib.closing(made(scriptless)) as others:
        others.set("warm", 1)
        later: list[Any] = []

        def put_elsewhere() -> None:
            # Over a connection of its own, aside, because this is the line's thread.
            later.append(threading.Thread(target=others.set, args=("k", "later")))
            later[0].start()
            later[0].join(20)

        seen = interfere(monkeypatch, b"f", put_elsewhere)
        await store.set("k", "earlier")
        assert seen == ["look", "look", "change", *seen[3:-3], "look", "look", "change"]
        assert not later[0].is_alive()
        assert await store.get("k") == "earlier", "neither had ended when the other began: whoever ends last stays"
        assert failures(store.backend) == failures(others) == 0


@in_both_flavours
async def test_a_delete_between_the_look_and_the_change_of_a_counter_is_not_undone(
    flavour: Flavour, scriptless: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = flavour.use(made(scriptless))
    with contextlib.closing(made(scriptless)) as others:
        assert await store.ask("incr", "n", 5) == 5
        interfere(monkeypatch, b"v", lambda: others.delete("n"))
        assert await store.ask("incr", "n") == 1
        assert await store.get("n") == 1


def test_processes_count_together(scriptless: RedisServer) -> None:
    """Backends of one process know nothing of each other: the server sees as many clients."""
    backends = [made(scriptless, timeout="20s") for _ in range(4)]
    threads = [
        threading.Thread(target=lambda backend=backend: [backend.incr("n") for _ in range(50)]) for backend in backends
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backends[0].get("n") == 200
    for backend in backends:
        backend.close()


def test_of_many_increments_whose_answers_are_lost_each_counts_once(way: Way) -> None:
    backend = RedisBackend(f"redis://127.0.0.1:{way.port}/0", namespace=NAMESPACE, timeout="20s")
    sums = [backend.incr("n")]
    for number in range(60):
        if number % 3 == 0:
            way.cut_in = number % 2  # of the look, or of the change
        sums.append(backend.incr("n"))
    assert sums == list(range(1, 62))
    assert way.cut == 20
    backend.close()


@in_both_flavours
async def test_a_lock_that_could_not_be_released_is_released_when_the_server_is_back(
    flavour: Flavour, scriptless: RedisServer
) -> None:
    store = flavour.use(made(scriptless, timeout=0.5))
    lock = store.backend.lock("k", expire="1h")
    await flavour.do(lock, "acquire")
    scriptless.freeze()
    with contextlib.suppress(BackendError):
        await flavour.do(lock, "release")
    scriptless.thaw()

    async def free() -> bool:
        return not scriptless.command("EXISTS", LAYOUT.lock_keys("k")[0])

    await flavour.until(free, "it is released")


@only_suspending
async def test_who_is_cancelled_leaves_the_connection_to_others(flavour: Flavour, scriptless: RedisServer) -> None:
    store = flavour.use(made(scriptless))
    await store.set("k", 0)
    for turns in range(30):
        tasks = [asyncio.create_task(store.backend.aincr(f"n {number}")) for number in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[turns % 5].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        others = [result for number, result in enumerate(results) if number != turns % 5]
        assert all(isinstance(result, int) for result in others), others
    assert failures(store.backend) == 0


@in_both_flavours
async def test_closing_closes_that_connection_too(flavour: Flavour, scriptless: RedisServer) -> None:
    backend = made(scriptless)
    store = flavour.use(backend)
    before = len(scriptless.command("CLIENT", "LIST").splitlines())
    await store.set("k", 1)
    assert len(scriptless.command("CLIENT", "LIST").splitlines()) > before
    await flavour.do(backend, "close")
    backend.close()  # the blocking flavour's, too

    async def closed() -> bool:
        return len(scriptless.command("CLIENT", "LIST").splitlines()) == before

    await flavour.until(closed, "no connection is left")


def test_a_forked_child_has_a_connection_of_its_own(scriptless: RedisServer) -> None:
    backend = made(scriptless, timeout="20s")
    assert backend.incr("n") == 1
    pid = os.fork()
    if pid == 0:
        sums = [backend.incr("child") for _ in range(50)]
        os._exit(0 if sums == list(range(1, 51)) else 1)
    assert [backend.incr("n") for _ in range(50)] == list(range(2, 52))
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert backend.incr("n") == 52
    backend.close()


@in_both_flavours
async def test_a_cluster_that_allows_no_scripts(flavour: Flavour, redis_cluster: RedisCluster) -> None:
    for node in redis_cluster.nodes:
        add_user(node, "scriptless", "secret", *WITHOUT_SCRIPTS)
    url = redis_cluster.url.replace("//", "//scriptless:secret@")
    await use_everything(flavour, {"redis_url": url, "timeout": "5s"})
    store = flavour.use(RedisBackend(url, namespace=NAMESPACE, timeout="5s"))
    keys = [f"counter {number}" for number in range(30)]
    for key in keys:
        assert await store.ask("incr", key) == 1
        assert await store.ask("incr", key) == 2
    assert await store.ask("delete_many", keys) == 30
    assert failures(store.backend) == 0


@in_both_flavours
async def test_a_slot_that_moved_is_found_also_without_scripts(flavour: Flavour, own_cluster: RedisCluster) -> None:
    for node in own_cluster.nodes:
        without_scripts(node)
    store = flavour.use(RedisBackend(own_cluster.url, namespace=NAMESPACE, timeout="5s"))
    await store.ask("incr", "warm")
    name = LAYOUT.value_key("n")
    old = own_cluster.serving(name)
    new = next(node for node in own_cluster.masters if node is not old)
    own_cluster.move_slot(key_slot(name), new)
    assert await store.ask("incr", "n") == 1
    assert await store.ask("incr", "n") == 2
    assert name in new.command("KEYS", "*")
    assert failures(store.backend) == 0


@in_both_flavours
async def test_a_slot_on_its_way_is_changed_where_it_is(flavour: Flavour, own_cluster: RedisCluster) -> None:
    for node in own_cluster.nodes:
        without_scripts(node)
    store = flavour.use(RedisBackend(own_cluster.url, namespace=NAMESPACE, timeout="5s"))
    lock = store.backend.lock("k", expire=60)
    await flavour.do(lock, "acquire")
    name = LAYOUT.lock_keys("k")[0]
    slot, old = key_slot(name), own_cluster.serving(name)
    new = next(node for node in own_cluster.masters if node is not old)
    ids = {node: node.command("CLUSTER", "MYID").decode() for node in (old, new)}
    new.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[old])
    old.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[new])
    old.command("MIGRATE", "127.0.0.1", new.port, name, 0, 5000)
    await flavour.do(lock, "extend", 600)
    own_cluster.move_slot(slot, new)
    assert new.command("PTTL", name) > 500_000
    assert await flavour.do(lock, "release")
