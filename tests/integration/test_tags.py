"""Tags: what has one ends with it, however much it is, and also what is being loaded meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, cast

import pytest
import redis
from fastapi import FastAPI, Header
from pydantic import BaseModel

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, LayeredBackend, NotKeyed, RedisBackend
from fast_cache.backends.redis.layout import Layout, first_number
from fast_cache.backends.redis.link import Link
from fast_cache.errors import ConfigurationError, InvalidTypeError
from fast_cache.serializers import name_digest
from fast_cache.testing import Flavour, Store, Suspending, in_both_flavours
from tests.support.redis_server import RedisServer
from tests.support.stores import backend_of

LONG = 60
SOON = 0.05


@pytest.fixture(params=["memory", "copying memory", "ten methods", "redis", "two tiers", "two tiers by messages"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> CacheBackend:
    if request.param == "memory":
        return InMemoryBackend()
    if request.param == "copying memory":
        return InMemoryBackend(copy=True)
    if request.param == "redis":
        return RedisBackend(redis_url, namespace="tags", timeout=10)
    if request.param.startswith("two tiers"):
        how = "pubsub" if request.param.endswith("messages") else None
        return LayeredBackend(l2=RedisBackend(redis_url, namespace="tags", timeout=10), coherence=how)
    return SQLiteBackend(tmp_path / "cache.db")


class Pages:
    """A function with tags; its runs are counted by argument."""

    def __init__(self, store: Store, tags: Any = ("user:{user}", "pages"), **options: Any) -> None:
        self.runs: list[int] = []
        self.late: list[str] = []
        self.before: Any = None
        self._store = store

        async def page(user: int, number: int = 1) -> str:
            self.runs.append(user)
            text = f"{user}/{number} {len(self.runs)}"
            if self.before is not None:
                await self.before()
            if self.late:
                store._cache.current.tags.add(*self.late)
            return text

        self.page = store.cached(**{"expire": LONG, "tags": tags, **options})(page)

    async def invalidate(self, *tags: str) -> None:
        await invalidate(self._store, *tags)


async def invalidate(store: Store, *tags: str, soft: bool = False) -> None:
    if isinstance(store._flavour, Suspending):
        await store._cache.ainvalidate_tags(*tags, soft=soft)
    else:
        store._cache.invalidate_tags(*tags, soft=soft)


@in_both_flavours
async def test_what_has_a_tag_ends_with_it(flavour: Flavour, backend: CacheBackend) -> None:
    pages = Pages(flavour.use(backend))
    for user, number in ((1, 1), (1, 2), (2, 1)):
        await flavour.call(pages.page, user, number)
    await pages.invalidate("user:1")
    for user, number in ((1, 1), (1, 2), (2, 1)):
        await flavour.call(pages.page, user, number)
    assert pages.runs == [1, 1, 2, 1, 1]
    await pages.invalidate("nobody's", "pages")
    await flavour.call(pages.page, 2)
    assert pages.runs == [1, 1, 2, 1, 1, 2]
    assert not await flavour.do(backend, "has", pages.page.key(1)) or isinstance(backend, SQLiteBackend)


@in_both_flavours
async def test_what_is_invalidated_softly_is_served_once_more_while_it_is_refreshed(
    flavour: Flavour, backend: CacheBackend
) -> None:
    store = flavour.use(backend)
    kind, strict = Pages(store, stale_while_revalidate=LONG), Pages(store, namespace="strict")
    for _ in range(2):
        await flavour.call(kind.page, 1)
        await flavour.call(strict.page, 1)
    await invalidate(store, "user:1", soft=True)
    assert await flavour.call(kind.page, 1) == "1/1 1", "stale, and refreshed behind the caller"
    assert await flavour.call(strict.page, 1) == "1/1 2"
    await flavour.until(lambda: _is(len(kind.runs) == 2), "it is refreshed")

    async def is_new() -> bool:
        return bool(await flavour.call(kind.page, 1) == "1/1 2")

    await flavour.until(is_new, "and served anew")
    assert (kind.runs, strict.runs) == ([1, 1], [1, 1])


@in_both_flavours
async def test_what_is_stale_by_that_is_a_spare_for_errors(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    pages = Pages(store, stale_if_error=LONG)
    await flavour.call(pages.page, 1)
    for _ in range(3):
        await invalidate(store, "pages", soft=True)

    async def fail() -> None:
        raise OSError

    pages.before = fail
    assert await flavour.call(pages.page, 1) == "1/1 1"
    assert pages.runs == [1, 1]


@in_both_flavours
async def test_what_is_stale_can_be_invalidated_for_good(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    pages = Pages(store, stale_while_revalidate=LONG)
    await flavour.call(pages.page, 1)
    await invalidate(store, "pages", soft=True)
    await invalidate(store, "user:1", "pages")
    assert await flavour.call(pages.page, 1) == "1/1 2"
    await invalidate(store, "user:1", soft=True)
    await invalidate(store, "pages")
    assert await flavour.call(pages.page, 1) == "1/1 3"
    assert await flavour.call(pages.page, 1) == "1/1 3"


@in_both_flavours
async def test_a_load_in_flight_does_not_undo_a_soft_one(flavour: Flavour, backend: CacheBackend) -> None:
    pages, gate = Pages(flavour.use(backend)), flavour.gate()
    pages.before = gate.passed
    caller = flavour.start(pages.page, 1)
    await flavour.until(lambda: _is(bool(pages.runs)), "it loads")
    await invalidate(pages._store, "user:1", soft=True)
    gate.open()
    assert await caller.result() == "1/1 1"
    assert await flavour.call(pages.page, 1) == "1/1 2"
    assert await flavour.call(pages.page, 1) == "1/1 2"


@in_both_flavours
async def test_one_that_comes_late_ends_what_a_later_soft_one_left(flavour: Flavour, redis_url: str) -> None:
    backend = RedisBackend(redis_url, namespace="soft", timeout=10)
    store = flavour.use(backend)
    pages = Pages(store, stale_while_revalidate=LONG)
    await flavour.call(pages.page, 1)
    name = f"soft:t:{name_digest('pages').hex()}"
    with contextlib.closing(redis.Redis.from_url(redis_url)) as raw:
        numbers = [first_number(b"\xff" * 8)[:-1] + bytes((number,)) for number in (1, 2)]
        layout = Layout("soft", 1000)
        for number, soft in ((numbers[1], True), (numbers[0], False)):
            (command,) = layout.set_tags([name_digest("pages")], number, soft=soft)
            _, script, keys, *words = cast("tuple[str, str, int, Any]", command)
            assert raw.eval(script, keys, *words) == int(soft)
        assert raw.get(name) == numbers[1]
    assert await flavour.call(pages.page, 1) == "1/1 2"


@in_both_flavours
async def test_hits_stay_hits(flavour: Flavour, backend: CacheBackend) -> None:
    pages = Pages(flavour.use(backend))
    for _ in range(5):
        await flavour.call(pages.page, 1)
    assert pages.runs == [1]
    assert pages.page.stats().hits == 4
    await pages.invalidate("user:2")
    await flavour.call(pages.page, 1)
    assert pages.runs == [1]


@in_both_flavours
async def test_tags_may_be_added_while_loading(flavour: Flavour, backend: CacheBackend) -> None:
    pages = Pages(flavour.use(backend), tags=None)
    pages.late = ["fresh", "product:9"]
    for _ in range(2):
        await flavour.call(pages.page, 1)
    await pages.invalidate("product:8")
    await flavour.call(pages.page, 1)
    assert pages.runs == [1]
    await pages.invalidate("product:9")
    for _ in range(2):
        await flavour.call(pages.page, 1)
    assert pages.runs == [1, 1]


@in_both_flavours
@pytest.mark.parametrize("late", [False, True])
async def test_a_load_in_flight_does_not_undo_it(flavour: Flavour, backend: CacheBackend, late: bool) -> None:
    pages, gate = Pages(flavour.use(backend), tags=None if late else "user:{user}"), flavour.gate()
    pages.before = gate.passed
    pages.late = ["user:1"] if late else []
    caller = flavour.start(pages.page, 1)
    await flavour.until(lambda: _is(bool(pages.runs)), "it loads")
    await pages.invalidate("user:1")
    gate.open()
    assert await caller.result() == "1/1 1"
    assert await flavour.call(pages.page, 1) == "1/1 2"
    assert await flavour.call(pages.page, 1) == "1/1 2"


@in_both_flavours
@pytest.mark.parametrize("late", [False, True])
async def test_who_comes_after_it_is_not_given_what_was_loaded_before(
    flavour: Flavour, backend: CacheBackend, late: bool
) -> None:
    store = flavour.use(backend)
    pages, gate = Pages(store, tags=None if late else "user:{user}"), flavour.gate()
    pages.before = gate.passed
    pages.late = ["user:1"] if late else []
    first = flavour.start(pages.page, 1)
    await flavour.until(lambda: _is(bool(pages.runs)), "it loads")
    await pages.invalidate("user:1")
    second = flavour.start(pages.page, 1)
    await store.followed(pages.page.key(1), 1)
    gate.open()
    assert await first.result() == "1/1 1"
    assert await second.result() == "1/1 2"


@in_both_flavours
async def test_another_tag_fences_nothing_off(flavour: Flavour, backend: CacheBackend) -> None:
    pages, gate = Pages(flavour.use(backend)), flavour.gate()
    pages.late = ["late"]
    await flavour.call(pages.page, 3)  # a tag that nobody has seen may be one that was lost
    pages.before = gate.passed
    caller = flavour.start(pages.page, 1)
    await flavour.until(lambda: _is(1 in pages.runs), "it loads")
    await pages.invalidate("user:2", "other")
    gate.open()
    await caller.result()
    await flavour.call(pages.page, 1)
    assert pages.runs == [3, 1]


@in_both_flavours
async def test_nothing_stale_is_served_of_it(flavour: Flavour, backend: CacheBackend) -> None:
    pages = Pages(
        flavour.use(backend), expire=SOON, stale_while_revalidate=LONG, stale_if_error=LONG, errors=LookupError
    )
    await flavour.call(pages.page, 1)
    await pages.invalidate("user:1")
    assert await flavour.call(pages.page, 1) == "1/1 2"
    await pages.invalidate("pages")

    async def fail() -> None:
        raise LookupError

    pages.before = fail
    with pytest.raises(LookupError):
        await flavour.call(pages.page, 1)


@in_both_flavours
async def test_loaders_have_tags_too(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    runs: list[int] = []

    async def body() -> int:
        runs.append(1)
        return len(runs)

    loader = flavour.function(body)

    async def load() -> Any:
        if isinstance(flavour, Suspending):
            return await store._cache.aget_or_set("key", loader, LONG, tags=("a", "b"))
        return store._cache.get_or_set("key", loader, LONG, tags=("a", "b"))

    assert [await load(), await load()] == [1, 1]
    await invalidate(store, "b")
    assert [await load(), await load()] == [2, 2]


@in_both_flavours
async def test_each_of_many_has_its_own(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    asked: list[list[int]] = []

    async def users(ids: Iterable[int]) -> dict[int, int]:
        asked.append(list(ids))
        return {one: one for one in asked[-1]}

    cached = store.cached_many(expire=LONG, tags=("user:{ids}", "users"))(users)
    for tags in ([], ["user:2"], ["users"]):
        if tags:
            await invalidate(store, *tags)
        assert await flavour.call(cached, [1, 2, 3]) == {1: 1, 2: 2, 3: 3}
    assert asked == [[1, 2, 3], [2], [1, 2, 3]]


@in_both_flavours
async def test_refreshing_keeps_the_tags(flavour: Flavour, backend: CacheBackend) -> None:
    pages = Pages(flavour.use(backend))
    await flavour.call(pages.page.refresh, 1)
    await flavour.call(pages.page, 1)
    await pages.invalidate("user:1")
    await flavour.call(pages.page, 1)
    assert pages.runs == [1, 1]


@in_both_flavours
async def test_what_is_set_by_hand_has_none(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    await store.set("key", 1, LONG)
    await invalidate(store, "any")
    assert await store.get("key") == 1


def test_a_hundred_thousand_entries_end_at_once_and_are_reclaimed() -> None:
    cache, backend = Cache(), InMemoryBackend(max_size=200_000)
    cache.init_app(FastAPI(), backend)

    @cache.cached(expire=LONG, tags="all")
    def numbers(number: int) -> int:
        return number

    for number in range(100_000):
        numbers(number)
    entries = len(backend)
    looked: list[int] = []
    store: Any = backend.engine_store()
    store.held._on_evict = lambda entry, cause: looked.append(1)
    cache.invalidate_tags("all")
    assert len(looked) <= 1000, "the entries themselves are not looked at"
    assert entries == 100_000
    for number in range(2_000):
        numbers(number)
    assert len(backend) < 50_000, "what is over is reclaimed by the writes that follow"


def test_tags_take_no_memory_that_no_entry_has() -> None:
    cache, backend = Cache(), InMemoryBackend(max_size=10)
    cache.init_app(FastAPI(), backend)

    @cache.cached(expire=LONG, tags="user:{user}")
    def page(user: int) -> int:
        return user

    for user in range(1000):
        page(user)
    store: Any = backend.engine_store()
    assert len(store._tags) <= 10


# Several processes on one Redis.


@pytest.fixture
def two(redis_url: str) -> tuple[RedisBackend, RedisBackend]:
    return RedisBackend(redis_url, namespace="two"), RedisBackend(redis_url, namespace="two")


@in_both_flavours
async def test_another_process_invalidates(flavour: Flavour, two: tuple[RedisBackend, RedisBackend]) -> None:
    here, there = flavour.use(two[0]), flavour.use(two[1])
    pages = Pages(here)
    await flavour.call(pages.page, 1)
    await invalidate(there, "user:1")
    await flavour.call(pages.page, 1)
    assert pages.runs == [1, 1]


@in_both_flavours
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("before", [[], ["other"], ["user:1"]])
async def test_another_process_invalidates_during_a_load(
    flavour: Flavour, two: tuple[RedisBackend, RedisBackend], late: bool, before: list[str]
) -> None:
    here, there = flavour.use(two[0]), flavour.use(two[1])
    for tag in before:
        await invalidate(there, tag)
    pages, gate = Pages(here, tags=None if late else "user:{user}"), flavour.gate()
    pages.before = gate.passed
    pages.late = ["user:1"] if late else []
    first = flavour.start(pages.page, 1)
    await flavour.until(lambda: _is(bool(pages.runs)), "it loads")
    await invalidate(there, "user:1")
    second = flavour.start(pages.page, 1)
    await here.followed(pages.page.key(1), 1)
    gate.open()
    assert await first.result() == "1/1 1"
    assert await second.result() == "1/1 2", "who came later is not told of what was loaded before"
    assert await flavour.call(pages.page, 1) == "1/1 2"


@in_both_flavours
async def test_late_tags_are_stored_while_others_are_invalidated(
    flavour: Flavour, two: tuple[RedisBackend, RedisBackend]
) -> None:
    here, there = flavour.use(two[0]), flavour.use(two[1])
    for tag in ("mine", "other"):
        await invalidate(there, tag)
    await flavour.call(Pages(here, tags="seen", version=2).page, 1)
    pages, gate = Pages(here, tags=None), flavour.gate()
    pages.before, pages.late = gate.passed, ["mine", "seen"]
    caller = flavour.start(pages.page, 1)
    await flavour.until(lambda: _is(bool(pages.runs)), "it loads")
    await invalidate(there, "other")
    gate.open()
    await caller.result()
    await flavour.call(pages.page, 1)
    assert pages.runs == [1]


@pytest.mark.parametrize("kind", ["redis", "layered", "SQLiteBackend"])
@in_both_flavours
async def test_a_deploy_that_adds_a_tag_reaches_what_was_stored_before(
    flavour: Flavour, redis_url: str, tmp_path: Path, kind: str
) -> None:
    before, after = (flavour.use(backend_of(kind, "two", redis_url, tmp_path)) for _ in range(2))
    old, new = Pages(before, tags=None), Pages(after, tags="new")
    await flavour.call(old.page, 1)
    await flavour.call(new.page, 1)
    assert new.runs == [1], "what lacks the tag is not served"
    await flavour.call(old.page, 1)
    assert old.runs == [1], "and the old version reads what the new one stored"


@in_both_flavours
@pytest.mark.parametrize("lost", ["tag", "sequence"])
async def test_a_token_that_is_lost_or_rubbish_lets_nothing_old_live(
    flavour: Flavour, redis_url: str, two: tuple[RedisBackend, RedisBackend], lost: str
) -> None:
    pages = Pages(flavour.use(two[0]))
    pages.late = ["late"]
    with contextlib.closing(redis.Redis.from_url(redis_url)) as raw:
        await flavour.call(pages.page, 1)
        await pages.invalidate("other")
        names = raw.keys("two:t:*" if lost == "tag" else "two:q:*")
        assert names
        for name in names:
            raw.set(name, b"rubbish")
        for _ in range(3):
            await flavour.call(pages.page, 1)
        # Of a tag that is added late nobody knows what its token said: that load is not stored.
        runs = 3 if lost == "tag" else 1
        assert len(pages.runs) == runs
        await pages.invalidate("late")
        await flavour.call(pages.page, 1)
        assert len(pages.runs) == runs + 1
        for name in raw.keys("two:t:*"):
            raw.delete(name)
        await flavour.call(pages.page, 1)
        assert len(pages.runs) == runs + 2


@in_both_flavours
async def test_what_redis_could_not_be_told_it_is_told_first(flavour: Flavour, own_redis: RedisServer) -> None:
    backend = RedisBackend(own_redis.url, namespace="owed", timeout=0.2, connect_timeout=0.2)
    pages = Pages(flavour.use(backend))
    await flavour.call(pages.page, 1)
    own_redis.freeze()
    await pages.invalidate("user:1")
    own_redis.thaw()
    await flavour.until(lambda: _answers(flavour, backend), "Redis is back")
    assert await flavour.call(pages.page, 1) == "1/1 2"


@in_both_flavours
async def test_round_trips(flavour: Flavour, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="trips"))
    packets: list[int] = []
    exchange = Link._exchange

    async def counted(self: Link, port: Any, packet: Any) -> Any:
        packets.append(len(packet))
        return await exchange(self, port, packet)

    monkeypatch.setattr(Link, "_exchange", counted)

    async def trips(call: Any, *args: Any) -> int:
        packets.clear()
        await call(*args)
        return len(packets)

    untagged, tagged, late = Pages(store, tags=None), Pages(store), Pages(store, tags=None, namespace="late")
    late.late = ["late"]
    assert await trips(flavour.call, untagged.page, 1) == 3
    assert await trips(flavour.call, untagged.page, 1) == 1
    tagged.page, untagged.page = tagged.page, None
    assert await trips(flavour.call, tagged.page, 2) == 3
    assert await trips(flavour.call, tagged.page, 2) == 1, "declared tags are read with the value"
    assert await trips(flavour.call, late.page, 1) == 4
    assert await trips(flavour.call, late.page, 1) == 2
    assert await trips(invalidate, store, "late", "user:1", "more") == 2


@in_both_flavours
async def test_tokens_of_tags_end(flavour: Flavour, redis_url: str) -> None:
    backend = RedisBackend(redis_url, namespace="ends", max_expire=100, max_load_time=10)
    pages = Pages(flavour.use(backend))
    await flavour.call(pages.page, 1)
    await pages.invalidate("pages")
    with contextlib.closing(redis.Redis.from_url(redis_url)) as raw:
        tokens = raw.keys("ends:t:*")
        assert len(tokens) == 3, "two tags, and the group of the function"
        assert f"ends:t:{name_digest('pages').hex()}".encode() in tokens
        for token in tokens:
            assert 110 < raw.ttl(token) <= 220, "longer than any entry that has it"
        token = f"ends:t:{name_digest('pages').hex()}"
        raw.pexpire(token, 109_000)
        await flavour.call(pages.page, 2)
        assert 110 < raw.ttl(token) <= 220, "renewed before an entry could outlive it"
        raw.pexpire(token, 150_000)
        await flavour.call(pages.page, 3)
        assert raw.ttl(token) <= 150, "and not at each load: that would be a change that all who hold copies hear of"


# What may be a tag.


class User(BaseModel):
    id: int
    name: str


def test_fields_stand_for_the_text_of_plain_values() -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())
    runs: list[User] = []

    @cache.cached(expire=LONG, tags=("user:{user.id}:{user.name}", "{{literal}}"))
    def page(user: User) -> str:
        runs.append(user)
        return user.name

    ada = User(id=7, name="Ada, *?")
    for tag in ("user:7:Ada, *?", "{literal}"):
        page(ada)
        page(ada)
        cache.invalidate_tags(tag)
    page(ada)
    assert len(runs) == 3


def test_what_has_no_text_runs_uncached(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())
    runs: list[Any] = []

    @cache.cached(expire=LONG, tags="user:{user}")
    def page(user: User) -> str:
        runs.append(user)
        return user.name

    @cache.cached(expire=LONG, tags="{name}")
    def named(name: str) -> str:
        runs.append(name)
        return name

    for _ in range(2):
        page(User(id=1, name="secret"))
        named("")
    assert len(runs) == 4
    assert "a User has no text for a tag" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ((), "tags is empty"),
        ("", "a tag must have 1 to 1024 characters"),
        (("a", ""), "a tag must have 1 to 1024 characters"),
        (5, "tags must be text or several texts"),
        ((5,), "a tag must be text, not int"),
        ("x" * 1025, "a tag must have 1 to 1024 characters"),
        ([f"tag {number}" for number in range(65)], "at most 64 tags"),
        ("items:*", "a tag is a name, not a pattern"),
        ("user:{nobody}", "has no parameter 'nobody'"),
        ("user:{user", "is not a template"),
        ("user:{user:>8}", "has a format or conversion"),
        ("user:{user._secret}", "private attribute"),
        ("db:{db}", r"tags: \{db\} is not in the key as it is"),
        ("token:{token}", r"tags: \{token\} is not in the key as it is"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_what_can_not_be_a_tag_is_refused(tags: Any, message: str) -> None:
    cache = Cache()
    with pytest.raises(ConfigurationError, match=message):

        @cache.cached(expire=LONG, tags=tags)
        def page(user: int, db: Annotated[object, NotKeyed] = None, token: Annotated[str, Header()] = "") -> None: ...


def test_what_is_invalidated_has_to_be_named() -> None:
    cache = Cache()
    wrongs: list[Any] = [(), ("",), (5,), ("x" * 1025,)]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError):
            cache.invalidate_tags(*wrong)
        with pytest.raises(ConfigurationError):
            asyncio.run(cache.ainvalidate_tags(*wrong))
    cache.invalidate_tags("nothing is cached yet")


def test_what_is_added_while_loading_is_checked_too() -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())
    current = cache.current

    @cache.cached(expire=LONG)
    def page() -> list[str]:
        with pytest.raises(InvalidTypeError):
            cache.current.tags.add(5)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError):
            cache.current.tags.add(*(f"tag {number}" for number in range(65)))
        cache.current.tags.add("a")
        cache.current.tags.add("a", "b")
        return list(cache.current.tags)

    assert page() == ["a", "b"]
    current.tags.add("nobody's")


async def _is(value: bool) -> bool:
    return value


async def _answers(flavour: Flavour, backend: CacheBackend) -> bool:
    await flavour.do(backend, "set", "probe", 1)
    return bool(await flavour.do(backend, "has", "probe"))
