"""What one process changes ends in the memory of the others, whichever way it is told, and never comes back."""

from __future__ import annotations

import contextlib
import itertools
import random
import selectors
import ssl
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from fast_cache import RedisBackend
from fast_cache.backends.redis.hearing import Line, message_of
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.resp import pack
from fast_cache.ports import BLOCKING, run_blocking
from fast_cache.serializers import name_digest
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.proxy import Proxy
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.tiers import (
    WITHIN,
    Served,
    Worker,
    all_told,
    coherence,
    copy_of,
    forbid,
    layered,
    reads,
    store_of,
    sure,
    wait_for,
    warm,
)
from tests.support.tls import Certificates, TLSServer

NAMESPACE = "tiers"
LAYOUT = Layout(NAMESPACE, fence_ms=600_000)

both_ways = pytest.mark.parametrize("how", ["tracking", "pubsub"])


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.flush()
    return redis_server


def kill_channels(server: RedisServer) -> None:
    """End the connections by which changes are heard, and no others."""
    with contextlib.closing(server.client()) as admin:
        for client in admin.client_list():
            if "t" in client["flags"] or "P" in client["flags"]:
                admin.client_kill_filter(_id=client["id"])


# Between processes.


@both_ways
def test_what_one_process_changes_the_others_no_longer_serve(server: RedisServer, how: str) -> None:
    with Worker(server.url, coherence=how) as one, Worker(server.url, coherence=how) as two:
        for worker in (one, two):
            worker.until_sure()
        for number, (changing, other) in enumerate([(one, two), (two, one)], 1):
            changing("change", number, "old")
            warm(one, two, number=number)
            changing("change", number, "new")
            wait_for(lambda o=other, n=number: not o("held", n), "the copy is dropped")
            assert other("item", number) == "new"
            warm(one, two, number=number)
            one("raw_set", number, "newer")
            changing("tag", f"item:{number}")
            wait_for(lambda o=other, n=number: not o("held", n), "the copy is dropped")
            assert other("item", number) == "newer"


@both_ways
@pytest.mark.parametrize("change", ["refresh", "tag", "clear", "delete", "set", "delete_match", "delete_many"])
def test_every_change_is_heard_by_another_process(server: RedisServer, how: str, change: str) -> None:
    with sure(server.url, coherence=how) as here, Worker(server.url, coherence=how) as there:
        here.change(1, "old")
        warm(here)
        key = here.cached.key(1)
        here.raw.set("truth:1", "new")
        match change:
            case "refresh":
                there("refresh", 1)
            case "tag":
                there("tag", "all")
            case "clear":
                there("by_hand", "clear")
            case "set":
                there("by_hand", "set", key, "by hand")  # which lacks the tags of what the function returns
            case "delete_match":
                assert there("by_hand", "delete_match", key) == 1
            case "delete_many":
                assert there("by_hand", "delete_many", [key]) == 1
            case "delete":
                assert there("by_hand", "delete", key)
        wait_for(lambda: not here.held(1), "the copy is dropped")
        assert here.item(1) == "new"


@both_ways
@pytest.mark.parametrize("change", ["invalidate_all", "soft tag", "late tag", "namespace", "template", "beginning"])
def test_every_change_of_functions_is_heard_by_another_process(server: RedisServer, how: str, change: str) -> None:
    with sure(server.url, coherence=how, max_staleness=1) as here, Worker(server.url, coherence=how) as there:
        of, call = ("item", here.item) if change in ("invalidate_all", "soft tag") else ("named", here.named)
        here.change(1, "old")
        wait_for(all_told(here.backend), "it has heard of what it did itself")
        wait_for(lambda: call(1) == "old" and here.held(1, of), "it holds a copy")
        here.raw.set("truth:1", "new")
        match change:
            case "invalidate_all":
                there("invalidate_all")
            case "soft tag":
                there("tag", "all", soft=True)
            case "late tag":
                there("tag", "late")
            case "namespace":
                there("clear", "own")
            case "template":
                there("template", "named:{number}", number=1)
            case "beginning":
                there("template", "named:*")
        wait_for(lambda: call(1) == "new", "the copy is dropped, and what has become stale was served once at most")
        assert coherence(here.backend).losses == 0


@both_ways
def test_a_process_listens_over_one_connection(server: RedisServer, how: str) -> None:
    """However many threads and event loops it has."""
    with Worker(server.url, coherence=how) as there, contextlib.closing(server.client()) as admin:

        def listening() -> int:
            flag = "t" if how == "tracking" else "P"
            return sum(flag in client["flags"] for client in admin.client_list())

        wait_for(lambda: not listening(), "those of other tests are gone")
        there.until_sure()
        before = len(admin.client_list())
        there("be_busy", 4, 3)
        try:
            assert len(admin.client_list()) >= before + 3, "each loop has a connection of its own"
            assert listening() == 1
        finally:
            there("rest")


@both_ways
def test_counters_are_heard_by_another_process(server: RedisServer, how: str) -> None:
    with sure(server.url, coherence=how) as here, Worker(server.url, coherence=how) as there:
        for number in range(1, 4):
            assert there("by_hand", "incr", "hits") == number
            wait_for(lambda n=number: here.by_hand("get", "hits") == n, "the new number is there")
            assert [here.by_hand("get", "hits") for _ in range(3)] == [number] * 3
            assert "hits" in store_of(here.backend).by_hand.table


# What was on its way.


@both_ways
@pytest.mark.parametrize("change", ["delete", "tag", "clear", "delete_match"])
def test_an_answer_that_was_on_its_way_brings_nothing_back(server: RedisServer, how: str, change: str) -> None:
    """It was read before the change and arrives after it: whoever asked is given it, and it is not held."""
    with (
        Proxy(server.port) as lanes,
        Worker(server.url, coherence=how) as there,
        sure(lanes.url, channel_url=server.url, coherence=how) as here,
    ):
        there("change", 1, "old")
        there("item", 1)
        for _ in range(2):
            assert here.item(2) == ""
        before, news = reads(server), coherence(here.backend).news
        lanes.silence("to_client")
        got: list[str] = []
        asking = threading.Thread(target=lambda: got.append(here.item(1)))
        asking.start()
        wait_for(lambda: reads(server) > before, "the value has been read")
        there("raw_set", 1, "new")
        key = here.cached.key(1)
        match change:
            case "delete":
                there("by_hand", "delete", key)
            case "tag":
                there("tag", "item:1")
            case "clear":
                there("by_hand", "clear")
            case "delete_match":
                there("by_hand", "delete_match", key)
        wait_for(lambda: coherence(here.backend).news > news, "the change is told")
        lanes.resume()
        asking.join(30)
        assert got == ["old"]
        assert not here.held(1)
        assert here.item(1) == "new"


@both_ways
def test_the_process_that_invalidates_never_sees_older(server: RedisServer, how: str) -> None:
    """Fills and deletes of many threads: none reads anything older than the last deletion that had ended before."""
    with sure(server.url, coherence=how) as here:
        done = [0]
        wrong: list[tuple[int, int]] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                floor = done[0]
                got = int(here.item(1) or 0)
                if got < floor:
                    wrong.append((got, floor))

        readers = [threading.Thread(target=read) for _ in range(6)]
        for reader in readers:
            reader.start()
        raw = server.client()
        with contextlib.closing(raw):
            for version in range(1, 300):
                raw.set("truth:1", version)
                if version % 3:
                    here.cached.invalidate(1)
                else:
                    here.tag("item:1")
                done[0] = version
        stop.set()
        for reader in readers:
            reader.join(30)
        assert wrong[:3] == []
        assert here.runs > 10, "it was hardly cached at all, or never loaded"


@both_ways
def test_others_see_nothing_older_once_they_were_told(server: RedisServer, how: str) -> None:
    """A storm of fills here while another process deletes; when all was told, what is held is the newest."""
    with sure(server.url, coherence=how) as here, Worker(server.url, coherence=how) as there:
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                for number in range(1, 6):
                    here.item(number)

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for version in range(60):
            for number in range(1, 6):
                there("change", number, str(version))
        stop.set()
        for reader in readers:
            reader.join(30)
        began = monotonic()
        wait_for(lambda: (heard := store_of(here.backend)._watch._heard) and heard > began, "all was told")
        assert [here.item(number) for number in range(1, 6)] == ["59"] * 5


# Where it is forbidden.


NO_TRACKING = ("-client", "+client|id")
"""As Redis 6 can say it, too."""


@pytest.mark.parametrize("rights", [["-client"], NO_TRACKING, ["-hello"]], ids=["no client", "no tracking", "no hello"])
def test_where_tracking_is_forbidden_changes_are_published(
    server: RedisServer, rights: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    user = forbid(server, "untracked", *rights)
    with Worker(server.url, user=user) as there, sure(server.url, user=user) as here:
        here.change(1, "old")
        warm(here)
        there("change", 1, "new")
        wait_for(lambda: not here.held(1), "the copy is dropped")
        assert here.item(1) == "new"
        there.until_sure()
        there("item", 1)
        warm(there)
        here.change(1, "newer")
        wait_for(lambda: not there("held", 1), "the copy is dropped")


def test_who_may_track_publishes_for_those_who_may_not(server: RedisServer) -> None:
    """Both begin to listen at any time: what was changed before the other was known is told once more."""
    user = forbid(server, "untracked", *NO_TRACKING)
    with sure(server.url) as tracking, Worker(server.url, user=user) as there:
        there.until_sure()
        tracking.change(1, "old")
        warm(there)
        tracking.change(1, "new")
        wait_for(lambda: not there("held", 1), "the copy is dropped")
        wait_for(lambda: store_of(tracking.backend)._channel.tells, "somebody listens who has to be told")  # type: ignore[union-attr]
        warm(there)
        tracking.change(1, "newer")
        wait_for(lambda: not there("held", 1), "the copy is dropped")


def test_where_publishing_is_forbidden_too_tracking_does(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """As for users of Redis 7, who may use no channels unless they are named."""
    server.command("ACL", "SETUSER", "mute", "reset", "on", ">secret", "~*", "resetchannels", "+@all")
    with sure(server.url, user="mute:secret") as here, Worker(server.url, user="mute:secret") as there:
        here.change(1, "old")
        warm(here)
        there("change", 1, "new")
        wait_for(lambda: not here.held(1), "the copy is dropped")
        assert here.backend.l2.engine_store().health.failures == 0
    assert [record.getMessage() for record in caplog.records] == []


def test_who_may_neither_publish_nor_track_has_each_copy_confirmed(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    user = forbid(server, "deaf", "resetchannels", *NO_TRACKING)
    with contextlib.closing(Served(server.url, user=user)) as served:
        served.change(1, "old")
        for _ in range(3):
            assert served.item(1) == "old"
        wait_for(lambda: "let us hear of changes" in caplog.text, "it is said why")
        runs, confirmed = served.runs, coherence(served.backend).confirmed
        assert [served.item(1) for _ in range(3)] == ["old"] * 3
        assert (served.runs, coherence(served.backend).confirmed) == (runs, confirmed + 3)
        assert not coherence(served.backend).sure
        served.change(1, "new")
        assert served.item(1) == "new"
        assert caplog.text.count("Redis refused") + caplog.text.count("refused a command") <= 1


# What happens to the connection, and to the server.


@both_ways
@pytest.mark.parametrize("fault", ["flushed", "killed", "restarted"])
def test_what_may_have_changed_unheard_is_not_served(own_redis: RedisServer, how: str, fault: str) -> None:
    server = own_redis
    with sure(server.url, coherence=how) as here:
        here.change(1, "old")
        warm(here)
        losses = coherence(here.backend).losses
        match fault:
            case "killed":
                kill_channels(server)
                wait_for(lambda: coherence(here.backend).losses > losses, "the loss is noticed")
            case "flushed":
                server.flush()
            case "restarted":
                server.restart()
                wait_for(lambda: coherence(here.backend).losses > losses, "the loss is noticed")
        wait_for(lambda: not here.held(1) and coherence(here.backend).sure, "all was dropped, and changes are heard of")
        here.raw.set("truth:1", "new")
        assert here.item(1) == ("old" if fault == "killed" else "new")


def test_thousands_of_changes_in_one_packet_are_all_heard(server: RedisServer) -> None:
    """In one push of more bytes than are received at once, and behind each other in many."""
    with sure(server.url) as here:
        keys = [f"key {number} " + "x" * 40 for number in range(3000)]
        for together in (True, False):
            here.backend.set_many(dict.fromkeys(keys, 1))
            shelf = store_of(here.backend)._hand
            wait_for(lambda s=shelf: all(map(here.backend.get, keys)) and len(s.table) == len(keys), "each has a copy")
            names = [LAYOUT.value_key(key) for key in keys]
            with contextlib.closing(server.client()) as raw:
                if together:
                    raw.delete(*names)
                else:
                    pipe = raw.pipeline(transaction=False)
                    for name in names:
                        pipe.delete(name)
                    pipe.execute()
            wait_for(lambda s=shelf: not s.table, "all copies are dropped")
        assert coherence(here.backend).losses == 0


def test_a_push_that_comes_in_pieces_is_heard(server: RedisServer) -> None:
    with Proxy(server.port) as way, sure(server.url, channel_url=way.url) as here:
        here.change(1, "old")
        warm(here)
        for link in list(way._links):
            received = link.received

            def in_pieces(side: Any, data: bytes | None, received: Any = received) -> None:
                for at in range(len(data or b"")):
                    received(side, data[at : at + 1])  # type: ignore[index]

            link.received = in_pieces  # type: ignore[method-assign]
        with contextlib.closing(RedisBackend(server.url, namespace=NAMESPACE)) as behind:
            behind.delete(here.cached.key(1))
        wait_for(lambda: not here.held(1), "the copy is dropped")
        assert coherence(here.backend).losses == 0


def test_who_is_told_more_than_it_can_hear_does_not_believe_its_copies(server: RedisServer) -> None:
    """Changes come in faster than they are worked off: what is held is out of sight, however much is still to come."""
    with sure(server.url, max_staleness=0.5) as here:
        two = store_of(here.backend)
        learn, stop = two.learn, threading.Event()

        def slowly(news: Any) -> None:
            stop.wait(0.01)
            learn(news)

        two.learn = slowly  # type: ignore[method-assign]

        def write() -> None:
            with contextlib.closing(server.client()) as raw:
                for number in itertools.count():
                    if stop.is_set():
                        return
                    pipe = raw.pipeline(transaction=False)
                    for more in range(500):
                        pipe.set(LAYOUT.value_key(f"{number} {more} " + "x" * 200), b"", px=1000)
                        pipe.get("nothing")
                    pipe.execute()

        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        try:
            wait_for(lambda: coherence(here.backend).lapses > 0, "silence is noticed")
        finally:
            stop.set()
            for writer in writers:
                writer.join(30)


def test_rubbish_in_the_channel_drops_everything_and_harms_nobody(server: RedisServer) -> None:
    with sure(server.url, coherence="pubsub") as here, contextlib.closing(server.client()) as raw:
        rubbish = random.Random(7)
        messages = [b"", b"k", b"p", b"t", b"*", b"x", b"k\xff\xfe", b"p\xff", b"t" + b"\0" * 100, b"k\xed\xa0\x80"]
        messages += [rubbish.randbytes(size) for size in range(40)] + [b"k" + b"x" * 2**20]
        for message in messages:
            news = coherence(here.backend).news
            raw.publish(LAYOUT.channel, message)
            wait_for(lambda n=news: coherence(here.backend).news > n, "it is heard")
        assert (coherence(here.backend).losses, coherence(here.backend).sure) == (0, True)
        here.change(1, "old")
        warm(here)
        raw.publish(LAYOUT.channel, b"nobody knows what that is")
        wait_for(lambda: not here.held(1), "the copy is dropped")
        for told in message_of_all(here.cached.key(1)):
            warm(here)
            raw.publish(LAYOUT.channel, told)
            wait_for(lambda: not here.held(1), "the copy is dropped")


def message_of_all(key: str) -> list[bytes]:
    from fast_cache.backends.channel import News

    tag = name_digest("item:1")
    return [*message_of(News((key,))), *message_of(News(tags=(tag,))), *message_of(News(prefixes=(key[:5],)))]


# Names.


NAMESPACES = ["a", "a:b", "a:v:{", "ab", "ä ö", "100%", "*", "[a]", "a?", "{a}", "a b", "日本", "a\\"]


@both_ways
def test_namespaces_of_any_name_are_apart(server: RedisServer, how: str) -> None:
    """Changes in one are heard by those who have the same one, and by nobody else."""
    backends = {name: layered(server.url, namespace=name, coherence=how) for name in NAMESPACES}
    with contextlib.ExitStack() as stack:
        for backend in backends.values():
            stack.enter_context(contextlib.closing(backend))
            backend.set("k", 1)
            wait_for(lambda b=backend: b.get("k") and coherence(b).sure, "changes are heard of")
        for told_all in [all_told(backend) for backend in backends.values()]:
            wait_for(told_all, "they have heard of what they did themselves")
        for name, backend in backends.items():
            for other in backends.values():
                wait_for(lambda o=other: o.get("k") == 1 and "k" in store_of(o).by_hand.table, "there is a copy")
            before = {other: coherence(b).news for other, b in backends.items()}
            with contextlib.closing(layered(server.url, namespace=name, coherence=how)) as elsewhere:
                elsewhere.delete("k")
            wait_for(lambda b=backend: "k" not in store_of(b).by_hand.table, "the copy is dropped")
            assert [other for other, b in backends.items() if coherence(b).news > before[other]] == [name]
            told = coherence(backend).news
            backend.set("k", 1)
            wait_for(lambda b=backend, n=told: coherence(b).news > n, "that is told too")


KEYS = [
    "a",
    "ä",
    "{a}",
    "}a{",
    "a}b",
    "100%",
    "%7D",
    "*",
    "a*",
    "[ab]",
    "a?b",
    "\\",
    "日本",
    "a b",
    "a:b",
    "{}",
    "😀" * 40,
]


@both_ways
def test_keys_of_any_name_are_heard_exactly(server: RedisServer, how: str) -> None:
    with (
        contextlib.closing(layered(server.url, coherence=how)) as backend,
        contextlib.closing(layered(server.url, coherence=how)) as elsewhere,
    ):
        backend.set_many(dict.fromkeys(KEYS, 1))
        wait_for(lambda: backend.get("a") and coherence(backend).sure, "changes are heard of")
        wait_for(all_told(backend), "it has heard of what it did itself")
        shelf = store_of(backend)._hand
        for key in KEYS:
            wait_for(lambda: all(backend.get(k) for k in KEYS) and len(shelf.table) == len(KEYS), "each has a copy")
            elsewhere.delete(key)
            wait_for(lambda: len(shelf.table) < len(KEYS), "the copy is dropped")
            assert set(KEYS) - set(shelf.table) == {key}
            told = coherence(backend).news
            elsewhere.set(key, 1)
            wait_for(lambda n=told: coherence(backend).news > n, "that is told too")


@both_ways
def test_a_prefix_of_any_name_ends_what_begins_so(server: RedisServer, how: str) -> None:
    with (
        contextlib.closing(layered(server.url, coherence=how)) as backend,
        contextlib.closing(layered(server.url, coherence=how)) as elsewhere,
    ):
        keys = ["*a", "*b", "a*", "[a]", "{a}", "{b"]
        for prefix in ("*", "[a", "{"):
            backend.set_many(dict.fromkeys(keys, 1))
            wait_for(lambda: backend.get("a*") and coherence(backend).sure, "changes are heard of")
            wait_for(all_told(backend), "it has heard of what it did itself")
            shelf = store_of(backend)._hand
            wait_for(lambda s=shelf: all(backend.get(k) for k in keys) and len(s.table) == len(keys), "copies")
            ended = {key for key in keys if key.startswith(prefix)}
            assert elsewhere.delete_match(prefix) == len(ended)
            wait_for(lambda s=shelf, e=ended: not e & set(s.table), "the copies are dropped")
            assert set(shelf.table) == set(keys) - ended


# In a Cluster.


@both_ways
def test_changes_on_every_node_of_a_cluster_are_heard(redis_cluster: RedisCluster, how: str) -> None:
    redis_cluster.flush()
    with (
        contextlib.closing(layered(redis_cluster.url, coherence=how)) as backend,
        contextlib.closing(layered(redis_cluster.url, coherence=how)) as elsewhere,
    ):
        keys = [str(number) for number in range(30)]
        assert {redis_cluster.serving(LAYOUT.value_key(key)) for key in keys} == set(redis_cluster.masters)
        backend.set_many(dict.fromkeys(keys, 1))
        wait_for(lambda: backend.get("1") and coherence(backend).sure, "changes are heard of")
        shelf = store_of(backend)._hand
        wait_for(lambda: all(backend.get(k) for k in keys) and len(shelf.table) == len(keys), "each has a copy")
        for number, key in enumerate(keys, 1):
            elsewhere.delete(key)
            wait_for(lambda n=number: len(shelf.table) == len(keys) - n, "the copy is dropped")
        backend.set_many(dict.fromkeys(keys, 1))
        wait_for(lambda: all(backend.get(k) for k in keys) and len(shelf.table) == len(keys), "each has a copy")
        elsewhere.clear()
        wait_for(lambda: not shelf.table, "the copies are dropped")
        assert coherence(backend).losses == 0
        assert backend.l2.engine_store().health.failures == 0


# By TLS.


@pytest.fixture
def tls_server(certificates: Certificates) -> Iterator[TLSServer]:
    """A server that by TLS serves nobody without a certificate."""
    with TLSServer.start(certificates, mutual=True) as server:
        yield server


@pytest.fixture
def tls_url(tls_server: TLSServer, certificates: Certificates) -> str:
    return f"rediss://127.0.0.1:{tls_server.port}/0?{certificates.query(client=True)}"


@both_ways
@in_both_flavours
async def test_changes_are_heard_by_tls(flavour: Flavour, tls_url: str, how: str) -> None:
    here = flavour.use(near := layered(tls_url, coherence=how))
    there = flavour.use(layered(tls_url, coherence=how))
    runs: list[int] = []

    @here.cached(expire=3600, tags=("all",))
    async def item(number: int) -> int:
        runs.append(number)
        return len(runs)

    async def sure() -> bool:
        await flavour.call(item, 0)
        return coherence(near).sure

    async def copied() -> bool:
        await flavour.call(item, 1)
        return copy_of(near, key) is not None

    async def dropped() -> bool:
        return copy_of(near, key) is None

    await flavour.until(sure, "changes are heard of")
    key = item.key(1)
    for change in ("delete", "set", "clear", "tag"):
        await flavour.until(copied, "there is a copy")
        served, before = await flavour.call(item, 1), len(runs)
        match change:
            case "delete":
                assert await there.delete(key)
            case "set":
                await there.set(key, "by hand")  # which lacks the tag of what the function returns
            case "clear":
                await there.clear()
            case "tag":
                await flavour.do(there._cache, "invalidate_tags", "all")
        await flavour.until(dropped, f"the copy is dropped after {change}")
        assert await flavour.call(item, 1) == len(runs) == before + 1 > served
    assert coherence(near).losses == 0


@pytest.fixture
def tls_line(tls_url: str) -> Iterator[Line]:
    """The connection of a channel, over which nothing was said yet."""
    with (
        contextlib.closing(RedisBackend(tls_url)) as backend,
        contextlib.closing(Line(run_blocking(backend._link.connect(BLOCKING, None)))) as line,
    ):
        line._socket.setblocking(False)
        line.say(pack([("PING",)]))
        assert heard_in(line) == b"+PONG\r\n"
        yield line


def heard_in(line: Line) -> bytes:
    """What comes next."""
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        while not (heard := line.take()):  # it may be something of which only TLS is told
            assert heard is None
            assert selector.select(WITHIN)
    return heard


def test_nothing_that_tls_has_decrypted_stays_behind(tls_line: Line) -> None:
    """Nobody would be told that it is there, before something else comes."""
    text = b"x" * 2**16
    tls_line.say(pack([("ECHO", text[: 2**14])] * 4))
    heard = b""
    while heard.count(b"x") < len(text):
        heard += heard_in(tls_line)
        assert isinstance(tls_line._socket, ssl.SSLSocket)
        assert not tls_line._socket.pending()


def test_who_is_interrupted_hears_nothing_that_is_not_decrypted(tls_line: Line) -> None:
    tls_line.say(pack([("ECHO", "x" * 100)]))
    with selectors.DefaultSelector() as selector:
        selector.register(tls_line, selectors.EVENT_READ)
        assert selector.select(WITHIN)
    tls_line.interrupt()
    assert tls_line.take() == b"$100\r\n" + b"x" * 100 + b"\r\n"
    with contextlib.suppress(ConnectionResetError):  # the server may have noticed already
        assert tls_line.take() == b""
