"""The tables of pages compare what they say they compare, and nobody is fast by failing. No timing is asserted."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.benchmarks import http_app, http_hit, http_workers
from tests.benchmarks.harness import Effort, NotAHit
from tests.benchmarks.http_app import (
    AFTER,
    BARE,
    BEFORE,
    BODY,
    CPU,
    OVER_THE_WIRE,
    PATH,
    PEERS,
    RUNS,
    UNCACHED,
    UNCACHED_AFTER,
)
from tests.benchmarks.http_clients import Clients, Failed, Seen, length, request
from tests.benchmarks.http_requests import PAGES, PASSES, Unlike, answer, pages, scope, warm
from tests.benchmarks.layered_members import Process
from tests.support.uvicorn_server import serve

SHORT = Effort(rounds=2, lead=True)

WAYS: dict[str, Callable[[], ASGIApp]] = {
    "made anew": http_app.made_anew,
    "ready": http_app.with_ready,
    "behind a guard": http_app.after_guard,
    "ready behind a guard": http_app.with_ready_behind_guard,
    "ready of a tenant": http_app.with_ready_of_tenant,
    "cashews with its middlewares": http_app.by_cashews_with_middlewares,
    **OVER_THE_WIRE,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_answers_alike_and_runs_a_cached_endpoint_once_for_each_page(way: str) -> None:
    try:
        app = WAYS[way]()
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    before = http_app.runs()
    asyncio.run(warm(app))
    cached = "ready" not in way and way not in (UNCACHED, UNCACHED_AFTER, "made anew")
    assert http_app.runs() - before == (PAGES if cached else 0)


@pytest.mark.parametrize("way", http_hit.LEAST)
def test_what_ours_is_compared_with_asks_for_the_same(way: str) -> None:
    """Without the header both refuse: the dependency is there."""
    theirs, ours, routed = http_hit.LEAST[way]
    asked = scope(PATH, "page=1")
    asked["headers"] = [(name, value) for name, value in asked["headers"] if name != b"x-tenant"]
    for make in (theirs, ours):
        app = make()
        asyncio.run(warm(app))
        assert asyncio.run(answer(app, dict(asked))).status == (422 if routed else 200)


def test_requests_are_those_of_uvicorn() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append(scope)
            await http_app.READY(scope, receive, send)

    with serve(app) as served:
        assert len(Clients().ask(served.port, 0, 1).taken) == 1
    real, ours = seen[-1], pages()[0]
    assert real.keys() == ours.keys()
    varying = {"server", "client"}
    assert {name: real[name] for name in real.keys() - varying} == {name: ours[name] for name in ours.keys() - varying}
    assert all(type(real[name]) is type(ours[name]) for name in real)


def test_no_two_requests_share_what_a_server_makes_anew() -> None:
    one, other = scope(PATH, "page=1"), scope(PATH, "page=1")
    assert one == other
    pairs = zip(one["headers"], other["headers"], strict=True)
    assert all(mine is not theirs for header in pairs for mine, theirs in zip(*header, strict=True))
    assert one["headers"] is not other["headers"]
    assert one["query_string"] is not other["query_string"]


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("no", 503)(scope, receive, send)


async def another(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("[]")(scope, receive, send)


@pytest.mark.parametrize(
    ("make", "checks", "message"),
    [
        (lambda: fails, {}, "answered with 503"),
        (lambda: another, {}, "something else"),
        (http_app.uncached, {"hits": True}, "not answered from the cache: no Cache-Status"),
        (http_app.before_routing, {"hits": True, "routed": True}, "answered before routing"),
        (http_app.after_guard, {"hits": True, "routed": False}, "answered after routing"),
    ],
)
def test_whoever_answers_otherwise_is_not_measured(
    make: Callable[[], ASGIApp], checks: dict[str, Any], message: str
) -> None:
    with pytest.raises(Unlike, match=message):
        asyncio.run(warm(make(), **checks))


def test_a_page_that_is_never_stored_is_no_hit() -> None:
    app = http_app.before_routing()
    forgetful = [0]

    async def without_store(scope: Scope, receive: Receive, send: Send) -> None:
        forgetful[0] += 1
        await app({**scope, "query_string": b"page=%d" % forgetful[0]}, receive, send)

    with pytest.raises(Unlike, match="fwd=uri-miss"):
        asyncio.run(warm(without_store, hits=True))
    assert forgetful[0] == PAGES * (PASSES - 1) + 1


def test_new_paths_were_never_asked_for_and_known_ones_always() -> None:
    new = [one["path"] for _ in range(3) for one in http_hit.new_paths()]
    assert len(set(new)) == 3 * PAGES
    assert [one["path"] for one in http_hit.known_paths()] == [one["path"] for one in http_hit.known_paths()]


@pytest.mark.parametrize("cached", [True, False])
def test_plain_endpoints_run_at_each_request(cached: bool) -> None:
    app = http_app.plain(cached=cached)

    async def asked() -> list[bytes]:
        answers = [await answer(app, one) for _ in range(2) for one in http_hit.known_paths()]
        assert not any("cache-status" in one.headers for one in answers)
        return [one.body for one in answers]

    assert asyncio.run(asked()) == [b'{"number":%d}' % number for number in range(PAGES)] * 2
    assert ("cache-status" in asyncio.run(answer(app, pages()[0])).headers) == cached


def test_all_ways_are_in_the_table_each_beside_starlette_and_fastapi_cache() -> None:
    table = http_hit.hits(SHORT)
    names = [row[0] for row in table.rows]
    assert names[:3] == [BARE, f"{BARE}, again", "Starlette, a response of ready bytes"]
    assert table.rows[0][3] == "1"
    missing = [note for note in table.notes if note.startswith("Left out")]
    assert len(names) + len(missing) == 12
    assert all(way in names for way in PEERS) or missing


def test_a_peer_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_app, "by_fastapi_cache", lambda: fails)
    table = http_hit.hits(SHORT)
    assert not any(row[0] == http_app.FASTAPI_CACHE for row in table.rows)
    assert f"Left out: Unlike: {PATH} was answered with 503." in table.notes
    assert table.rows[0][4] == "-"


def test_a_page_that_is_dropped_while_it_is_measured_ends_that(monkeypatch: pytest.MonkeyPatch) -> None:
    app = http_app.before_routing()
    asked = [0]

    async def forgetful(scope: Scope, receive: Receive, send: Send) -> None:
        asked[0] += 1
        if asked[0] > PASSES * PAGES + PAGES:
            scope["query_string"] = b"page=%d" % asked[0]
        await app(scope, receive, send)

    monkeypatch.setitem(http_hit.LEAST, "before routing", (http_app.bare, lambda: forgetful, False))
    with pytest.raises(NotAHit, match="fast_cache ran the cached function"):
        http_hit.least(SHORT)


@pytest.mark.parametrize(
    ("measured", "rows"), [(http_hit.least, list(http_hit.LEAST)), (http_hit.beside, list(http_hit.PATHS))]
)
def test_small_differences_have_a_control_beside_them(measured: Callable[[Effort], Any], rows: list[str]) -> None:
    table = measured(SHORT)
    assert [row[0] for row in table.rows] == rows
    assert table.columns[-1] == "control"
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_every_request_is_counted_and_answers_are_read_to_their_end() -> None:
    app = http_app.before_routing()
    with serve(app) as served:
        before = http_workers.counts(served)
        one = Clients().ask(served.port, 0, 1)
        assert len(one.taken) == 1
        seen = Clients().ask(served.port, 0.3, 8)
        assert len(seen.taken) > 8
        assert all(taken > 0 for taken in seen.taken)
        assert seen.rate == len(seen.taken) / seen.seconds
        after = http_workers.counts(served)
        assert PAGES <= after[RUNS] - before[RUNS] <= PAGES + 8, "all connections may miss one page at once"
        assert after[CPU] > before[CPU]


@contextmanager
def speaking(*parts: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A port where each request is answered with these parts, one after the other, and what is asked there.

    Without parts the connection ends.
    """
    heard: list[bytes] = []

    def speak(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := connection.recv(4096):
                heard.append(data)
                for part in parts:
                    connection.sendall(part)
                if not parts:
                    return

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=speak, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        thread.join(10)
        assert not thread.is_alive()


def test_an_answer_that_comes_in_pieces_is_one_answer() -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 12\r\n\r\none\r\n\r\nmore "
    with speaking(*(whole[at : at + 1] for at in range(len(whole)))) as (port, heard):
        assert len(Clients().ask(port, 0.05, 1).taken) == len(heard)
    assert heard == [request(number % PAGES) for number in range(len(heard))]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"], "404"),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"], "chunked"),
        ([], "closed a connection"),
    ],
)
def test_an_answer_that_is_none_fails(parts: list[bytes], message: str) -> None:
    with speaking(*parts) as (port, _), pytest.raises(Failed, match=message):
        Clients().ask(port, 5, 1)


def test_the_length_is_that_of_the_body() -> None:
    assert length(b"HTTP/1.1 200 OK\r\nContent-Length: 42\r\nx-content-length: 7") == 42
    assert request(3).startswith(b"GET /items?page=3 HTTP/1.1\r\nhost: ")
    assert request(3).endswith(b"x-tenant: acme\r\n\r\n")


def test_a_cached_endpoint_that_runs_during_a_round_ends_the_measurement() -> None:
    app = FastAPI()
    ran = [0]

    @app.get(PATH)
    async def page(page: int) -> str:
        ran[0] += 1
        return "page"

    @app.get("/counts")
    async def tell() -> dict[str, int]:
        return {RUNS: ran[0], CPU: 0}

    clients = Process(Clients)
    try:
        with serve(app) as served, pytest.raises(NotAHit, match="leaky ran the cached endpoint"):
            http_workers.asked(clients, "leaky", served, 0)
    finally:
        clients.end()


def test_workers_go_their_ways_and_are_asked_in_rounds() -> None:
    ways = [UNCACHED, BEFORE, AFTER]
    found = http_workers.observed(ways, http_workers.Effort(2, 0.1))
    assert list(found) == ways
    assert all(len(rounds) == 2 for rounds in found.values())
    assert all(seen.taken and seen.cpu > 0 and not seen.runs for rounds in found.values() for seen in rounds)


def test_every_worker_goes_the_way_it_was_told() -> None:
    with http_workers.started([UNCACHED, AFTER]) as served:
        told = []
        for way in (UNCACHED, AFTER):
            with served[way].client() as client:
                answers = [client.get(f"{PATH}?page=1", headers={"x-tenant": "acme"}) for _ in range(2)]
                assert all(one.content == BODY for one in answers)
                told.append(answers[-1].headers.get("cache-status", ""))
        assert [how.startswith("fast_cache; hit") for how in told] == [False, True]


def test_the_table_of_workers_is_made_of_medians_and_of_ratios_within_rounds() -> None:
    def seen(requests: int, cpu: int) -> Seen:
        return Seen(2.0, [1_000_000] * requests, 0, cpu)

    found = {
        BEFORE: [seen(4000, 40_000_000), seen(9000, 90_000_000)],
        UNCACHED: [seen(1000, 20_000_000), seen(3000, 60_000_000)],
    }
    table = http_workers.table(found, http_workers.Effort(2, 2.0), ["Left out: cashews is not installed."])
    assert table.rows == [
        [BEFORE, "3,250", "3.50 (3.25 to 3.75)", "1.0 ms", "10.0 µs"],
        [UNCACHED, "1,000", "1.00 (1.00 to 1.00)", "1.0 ms", "20.0 µs"],
    ]
    assert table.notes[-1] == "Left out: cashews is not installed."


def test_pages_are_the_bytes_that_starlette_sends() -> None:
    async def sent(app: ASGIApp) -> bytes:
        await warm(app)
        return (await answer(app, pages()[0])).body

    bare, ours = http_app.bare(), http_app.before_routing()
    assert asyncio.run(sent(bare)) == asyncio.run(sent(ours)) == BODY
