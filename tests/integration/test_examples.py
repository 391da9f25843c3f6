"""The examples are programs that run: the shop in memory and in Redis, and a backend of one's own on SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from examples.sqlite_backend import SQLiteBackend
from fast_cache.errors import BackendError, ConfigurationError
from tests.support.redis_server import RedisServer
from tests.support.uvicorn_server import serve

ROOT = Path(__file__).resolve().parents[2]
ADA = {"Authorization": "Bearer ada-token"}
BOB = {"Authorization": "Bearer bob-token"}


@pytest.fixture(params=["memory", "redis"])
def shop(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of a shop that has just opened."""
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    with serve("examples.shop:app", env={"REDIS_URL": url}) as served, served.client() as client:
        yield client


def asked(client: httpx.Client) -> dict[str, int]:
    """How often each source behind the cache was asked."""
    counts: dict[str, int] = client.get("/asked").json()
    return counts


def test_every_address_that_the_shop_lists_answers(shop: httpx.Client) -> None:
    addresses = [address.removeprefix("GET ") for address in shop.get("/").json() if address.startswith("GET ")]
    assert "/report" in addresses
    assert {address: shop.get(address, headers=ADA).status_code for address in addresses} == dict.fromkeys(
        addresses, 200
    )


def test_the_slow_report_is_computed_once_however_many_ask(shop: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as visitors:
        together = list(visitors.map(lambda _: shop.get("/report").json(), range(8)))
    assert [report["computed"] for report in together] == [1] * 8
    assert shop.get("/report").json() == together[0]
    assert asked(shop)["reports"] == 1


def test_the_second_report_needs_no_slow_query_and_its_headers_say_so(shop: httpx.Client) -> None:
    first, second = shop.get("/report"), shop.get("/report")
    assert asked(shop)["reports"] == 1
    assert second.json() == first.json()
    assert (first.headers["cache-status"], "age" in first.headers) == ("fast_cache; fwd=uri-miss; stored", False)
    name, kind, ttl = second.headers["cache-status"].split("; ")
    assert (name, kind) == ("fast_cache", "hit")
    # In whole seconds: of the five minutes that it lives, so much has passed and so much is left.
    assert 299 <= int(second.headers["age"]) + int(ttl.removeprefix("ttl=")) <= 300
    assert second.headers["cache-control"] == "public, max-age=300"
    again = shop.get("/report", headers={"If-None-Match": second.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_greeting_for_each_language(shop: httpx.Client) -> None:
    for language, greeting in [("en", "Good day!"), ("it", "Buongiorno!")] * 2:
        answer = shop.get("/greeting", headers={"Accept-Language": language})
        assert (answer.json(), answer.headers["vary"]) == (greeting, "accept-language")
    assert "hit" in answer.headers["cache-status"]


def test_a_search_is_answered_by_its_body(shop: httpx.Client) -> None:
    found = [[item["name"] for item in shop.post("/search", json=words).json()] for words in (["k"], ["cup"], ["k"])]
    assert found == [["Kettle"], ["Cup"], ["Kettle"]]
    assert "hit" in shop.post("/search", json=["cup"]).headers["cache-status"]


def test_the_shop_tells_where_it_answers_from(shop: httpx.Client, request: pytest.FixtureRequest) -> None:
    rows = {line.split()[0]: line for line in shop.get("/routes").text.splitlines()}
    in_memory = request.node.callspec.params["shop"] == "memory"
    assert ("before routing" in rows["/items/{item_id}"]) == in_memory
    assert ("the backend keeps nothing in local memory" in rows["/items/{item_id}"]) != in_memory
    assert "after dependencies" in rows["/me"]


def test_the_stock_is_one_page_for_all_who_are_let_in(shop: httpx.Client) -> None:
    first, second = (shop.get("/staff/stock", headers=who) for who in (ADA, BOB))
    assert first.json() == second.json() == {"Kettle": 10, "Teapot": 20, "Cup": 30}
    assert "hit" in second.headers["cache-status"]
    assert second.headers["cache-groups"] == '"stock"'
    assert second.headers["cache-control"] == "private, max-age=600, stale-while-revalidate=3600"
    assert shop.get("/staff/stock").status_code == 401
    assert asked(shop)["stock"] == 1


def test_a_change_that_succeeds_ends_what_has_the_tag(shop: httpx.Client) -> None:
    shop.get("/staff/stock", headers=ADA)
    assert shop.put("/items/1", params={"name": "Kettle"}).status_code == 422
    assert "hit" in shop.get("/staff/stock", headers=ADA).headers["cache-status"]
    assert shop.put("/items/1", params={"name": "Pot", "price": 1}).status_code == 200
    assert "Pot" in shop.get("/staff/stock", headers=ADA).json()


def test_an_item_is_read_once(shop: httpx.Client) -> None:
    first = shop.get("/items/1").json()
    assert first == {"id": 1, "name": "Kettle", "price": "34.90"}
    assert shop.get("/items/1").json() == first
    assert asked(shop)["items"] == 1


def test_an_update_is_seen_at_once(shop: httpx.Client) -> None:
    assert shop.get("/items/1").json()["price"] == "34.90"
    assert shop.put("/items/1", params={"name": "Kettle", "price": "29.90"}).status_code == 200
    assert shop.get("/items/1").json()["price"] == "29.90"
    assert asked(shop)["items"] == 2


def test_an_update_leaves_other_items_cached(shop: httpx.Client) -> None:
    shop.get("/items/2")
    shop.put("/items/1", params={"name": "Kettle", "price": "29.90"})
    shop.get("/items/2")
    assert asked(shop)["items"] == 1


def test_a_missing_item_is_not_remembered_as_missing(shop: httpx.Client) -> None:
    assert shop.get("/items/9").status_code == 404
    shop.put("/items/9", params={"name": "Saucer", "price": "3"})
    assert shop.get("/items/9").json()["name"] == "Saucer"


def test_lists_differ_by_their_query(shop: httpx.Client) -> None:
    assert [item["id"] for item in shop.get("/items").json()] == [1, 2, 3]
    assert [item["id"] for item in shop.get("/items", params={"cheaper_than": "40"}).json()] == [1, 3]
    assert [item["id"] for item in shop.get("/items", params={"limit": 1}).json()] == [1]


def test_users_see_their_own_account_only(shop: httpx.Client) -> None:
    for _ in range(2):
        assert shop.get("/me", headers=ADA).json() == {"user": {"id": 1, "name": "Ada"}, "orders": [1001, 1004]}
        assert shop.get("/me", headers=BOB).json() == {"user": {"id": 2, "name": "Bob"}, "orders": [1002]}
    assert asked(shop)["accounts"] == 2


def test_strangers_are_turned_away_although_accounts_are_cached(shop: httpx.Client) -> None:
    shop.get("/me", headers=ADA)
    assert shop.get("/me", headers={"Authorization": "Bearer forged"}).status_code == 401
    assert shop.get("/me").status_code in {401, 403}  # FastAPI's own answer, which changed between versions


def test_a_rate_kept_by_hand_is_asked_for_once(shop: httpx.Client) -> None:
    assert [shop.get("/rates/EUR").json() for _ in range(2)] == [{"currency": "EUR", "rate": "1.0842"}] * 2
    assert asked(shop)["rates"] == 1


def test_in_redis_the_report_outlives_the_process(redis_url: str) -> None:
    computed = []
    for _ in range(2):
        with serve("examples.shop:app", env={"REDIS_URL": redis_url}) as served, served.client() as client:
            client.get("/report").raise_for_status()
            computed.append(asked(client)["reports"])
    assert computed == [1, 0]


def test_without_its_redis_the_shop_goes_on(own_redis: RedisServer) -> None:
    with serve("examples.shop:app", env={"REDIS_URL": own_redis.url}) as served, served.client() as client:
        client.get("/items/1").raise_for_status()
        own_redis.kill()
        assert client.get("/items/1").json()["name"] == "Kettle"
        assert client.get("/items/2").json()["name"] == "Teapot"


UNDER_THE_TEST_CLIENT = """
from fastapi.testclient import TestClient
from examples import shop

def visit(client):
    assert client.get("/items/1").json() == client.get("/items/1").json()
    assert client.get("/me", headers={"Authorization": "Bearer bob-token"}).json()["orders"] == [1002]

visit(TestClient(shop.app))  # no startup, no shutdown
for _ in range(2):
    with TestClient(shop.app) as client:
        visit(client)
assert 1 <= shop.ASKED["items"] <= 3, shop.ASKED
"""


def test_the_shop_runs_under_the_test_client() -> None:
    """In a process of its own: the shop uses the one ``cache`` that this process's tests share."""
    command = [sys.executable, "-W", "error", "-c", UNDER_THE_TEST_CLIENT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_in_sqlite_work_outlives_the_process(tmp_path: Path) -> None:
    computed = []
    for _ in range(2):
        with (
            serve("examples.sqlite_app:app", env={"CACHE_FILE": str(tmp_path / "cache.sqlite3")}) as served,
            served.client() as client,
        ):
            assert [client.get("/primes/100").json() for _ in range(2)] == [25, 25]
            computed.append(client.get("/computed").json())
    assert computed == [1, 0]


class Methods:
    """The ten methods as five, the asynchronous ones run to their end."""

    def __init__(self, backend: SQLiteBackend, *, mode: str) -> None:
        self._backend = backend
        self._mode = mode

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if self._mode == "sync":
            method: Callable[..., Any] = getattr(self._backend, name)
            return method
        return lambda *args, **kwargs: asyncio.run(getattr(self._backend, f"a{name}")(*args, **kwargs))


@pytest.fixture
def sqlite_backend(tmp_path: Path) -> Iterator[SQLiteBackend]:
    backend = SQLiteBackend(tmp_path / "cache.sqlite3", namespace="mine")
    yield backend
    backend.close()


@pytest.fixture(params=["sync", "async"])
def methods(request: pytest.FixtureRequest, sqlite_backend: SQLiteBackend) -> Methods:
    return Methods(sqlite_backend, mode=request.param)


@pytest.mark.parametrize("value", [None, False, 0, "", b"", b"\x00bytes", [1, (2, "x")], {"at": timedelta(days=1)}])
def test_sqlite_returns_what_was_stored(methods: Methods, value: object) -> None:
    assert methods.get("key", "absent") == "absent"
    methods.set("key", value)
    assert methods.has("key")
    returned = methods.get("key", "absent")
    assert returned == value
    assert type(returned) is type(value)


def test_sqlite_deletes(methods: Methods) -> None:
    methods.set("key", 1)
    assert methods.delete("key") is True
    assert methods.delete("key") is False
    assert not methods.has("key")


def test_sqlite_expires(methods: Methods, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    methods.set("short", 1, expire="10s")
    methods.set("long", 2, expire=timedelta(seconds=20))
    methods.set("for ever", 3)
    now += 10
    assert [methods.get(key) for key in ("short", "long", "for ever")] == [None, 2, 3]
    assert [methods.has(key) for key in ("short", "long", "for ever")] == [False, True, True]
    assert methods.delete("short") is False


def test_sqlite_refuses_a_lifetime_of_nothing(methods: Methods) -> None:
    with pytest.raises(ConfigurationError, match="expire"):
        methods.set("key", 1, expire=0)


def test_sqlite_clears_its_own_namespace(methods: Methods, tmp_path: Path) -> None:
    other = SQLiteBackend(tmp_path / "cache.sqlite3", namespace="theirs")
    other.set("key", "theirs")
    methods.set("key", "mine")
    methods.clear()
    assert methods.get("key") is None
    assert other.get("key") == "theirs"
    other.close()


def test_sqlite_gives_room_back_without_being_read(
    sqlite_backend: SQLiteBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    for number in range(20):
        sqlite_backend.set(f"old {number}", number, expire=1)
    now += 1
    for number in range(3):
        sqlite_backend.set(f"new {number}", number, expire=1)
    assert rows(tmp_path, "SELECT count(*) FROM entries") == [(3,)]


def test_sqlite_treats_damage_as_absence(sqlite_backend: SQLiteBackend, tmp_path: Path) -> None:
    sqlite_backend.set("key", {"a": 1})
    rows(tmp_path, "UPDATE entries SET value = x'ff00' RETURNING key")
    assert sqlite_backend.get("key", "absent") == "absent"


def test_sqlite_opens_again_after_it_was_closed(sqlite_backend: SQLiteBackend) -> None:
    sqlite_backend.set("key", 1)
    sqlite_backend.close()
    sqlite_backend.close()
    assert sqlite_backend.get("key") == 1


def test_sqlite_serves_many_threads(sqlite_backend: SQLiteBackend) -> None:
    def work(number: int) -> object:
        sqlite_backend.set(f"key {number}", number)
        return sqlite_backend.get(f"key {number}")

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(200))) == list(range(200))


def test_sqlite_reports_trouble_as_the_packages_error(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "no such folder" / "cache.sqlite3")
    with pytest.raises(BackendError) as caught:
        backend.get("key")
    assert isinstance(caught.value.__cause__, sqlite3.Error)


def rows(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    """Look into the file, past the backend."""
    database = sqlite3.connect(folder / "cache.sqlite3")
    with database:
        found = database.execute(statement).fetchall()
    database.close()
    return found
