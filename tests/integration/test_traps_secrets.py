"""What the package says never repeats what it was given: no cached value, no argument, no password, in no message."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from fastapi import FastAPI, Header, Request, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, SecretStr

from fast_cache import (
    Cache,
    CacheBackend,
    EncodeError,
    FastCacheError,
    InMemoryBackend,
    RedisBackend,
    UnkeyableError,
)
from fast_cache.testing import Flavour, Store, in_both_flavours
from tests.support.redis_server import free_port

SECRET = "correct-horse-battery-staple"
NAME = "correct_horse_battery_staple"
"""A secret that could be the name of something."""


@pytest.fixture(autouse=True)
def _everything_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def said(caplog: pytest.LogCaptureFixture) -> str:
    """Every record in full, with its arguments and its traceback."""
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")
    records = [record for record in caplog.records if record.name.startswith("fast_cache")]
    return "\n".join(formatter.format(record) + repr(record.args) for record in records)


def quoted(text: str) -> bool:
    return SECRET in text or NAME in text


class Opaque:
    """Has no key and can't be stored, and shows its secret to whoever prints it."""

    def __init__(self) -> None:
        self.password = SECRET

    def __repr__(self) -> str:
        return f"Opaque({SECRET})"

    __str__ = __repr__


class Angry(Opaque):
    """Says its secret in every exception."""

    def __cache_key__(self) -> str:
        raise ValueError(SECRET)

    def __deepcopy__(self, memo: Any) -> Any:
        raise ValueError(SECRET)

    def __bool__(self) -> bool:
        raise ValueError(SECRET)

    def __eq__(self, other: object) -> bool:
        raise ValueError(SECRET)

    __hash__ = Opaque.__hash__


class Faulty(CacheBackend):
    """Every method raises, quoting what it was given."""

    def get(self, key: str, default: Any = None) -> Any:
        raise OSError(f"{SECRET} {key}")

    def set(self, key: str, value: Any, expire: Any = None) -> None:
        raise OSError(f"{SECRET} {key} {value}")

    def delete(self, key: str) -> bool:
        raise OSError(f"{SECRET} {key}")

    def clear(self) -> None:
        raise OSError(SECRET)

    def has(self, key: str) -> bool:
        raise OSError(f"{SECRET} {key}")

    async def aget(self, key: str, default: Any = None) -> Any:
        self.get(key)

    async def aset(self, key: str, value: Any, expire: Any = None) -> None:
        self.set(key, value)

    async def adelete(self, key: str) -> bool:
        return self.delete(key)

    async def aclear(self) -> None:
        self.clear()

    async def ahas(self, key: str) -> bool:
        return self.has(key)


class Model(BaseModel):
    field: Any = None


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


RESULTS: dict[str, Any] = {
    "text": SECRET,
    "an object": Opaque(),
    "an angry object": Angry(),
    "a list of objects": [Opaque(), Angry()],
    "a dict": {SECRET: Opaque()},
    "a dict by name": {NAME: Opaque()},
    "a model": Model(field=Opaque()),
    "a secret": SecretStr(SECRET),
    "an iterator": iter([SECRET]),
    "a response": Response(SECRET),
    "a function": lambda: SECRET,
    "a class": type(SECRET, (), {}),
    "an exception": ValueError(SECRET),
}


@pytest.mark.parametrize("which", RESULTS)
@pytest.mark.parametrize("kind", ["memory", "copies", "redis", "faulty", "away"])
@in_both_flavours
async def test_no_result_is_repeated(
    flavour: Flavour, redis_url: str, kind: str, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    backends: dict[str, CacheBackend] = {
        "memory": InMemoryBackend(),
        "copies": InMemoryBackend(copy=True),
        "redis": RedisBackend(redis_url, namespace="traps"),
        "faulty": Faulty(),
        "away": RedisBackend(f"redis://somebody:{SECRET}@127.0.0.1:{free_port()}/0"),
    }
    store = flavour.use(backends[kind])

    @store.cached(condition=lambda result: True)
    async def load() -> Any:
        return RESULTS[which]

    @store.cached(condition=lambda result: bool(result) and result.nothing)
    async def choosy() -> Any:
        return RESULTS[which]

    @store.cached()
    async def annotated() -> Model:
        return RESULTS[which]  # type: ignore[no-any-return]

    for function in (load, choosy, annotated):
        for operation in (function, function, function.refresh):
            assert await flavour.call(operation) is not None
    if kind in ("faulty", "away"):
        assert "fails" in said(caplog)
    elif which != "a response":
        assert "not stored" in said(caplog) or "not cached" in said(caplog)
    assert not quoted(said(caplog))


@in_both_flavours
async def test_no_argument_is_repeated(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = flavour.use(InMemoryBackend())

    def angry_builder(argument: Any) -> Any:
        raise ValueError(f"{SECRET} {argument!r}")

    @store.cached()
    async def load(argument: Any) -> str:
        return "value"

    @store.cached(key_builder=angry_builder)
    async def built(argument: Any) -> str:
        return "value"

    @store.cached(key_builder=lambda argument: Opaque())
    async def strangely_built(argument: Any) -> str:
        return "value"

    @store.cached(key="{argument.missing}:{argument[0]}")
    async def templated(argument: Any) -> str:
        return "value"

    inside = [[Opaque()], {SECRET: Angry()}, {"key": Opaque()}, (1, (2, Opaque())), Model(field=Angry())]
    inside += [{NAME: Angry()}, OrderedDict({NAME: [Opaque()]}), Model(field={NAME: Opaque()})]
    inside.append(Extra.model_validate({NAME: Angry()}))
    for function in (load, built, strangely_built, templated):
        for argument in (SECRET, Opaque(), Angry(), *inside):
            monkeypatch.setattr("fast_cache.once._said", OrderedDict())  # each is news
            assert await flavour.call(function, argument) == "value"
            if argument is not SECRET or function is not load:
                with pytest.raises(UnkeyableError) as caught:
                    function.key(argument)
                assert not quoted(str(caught.value) + caught.value.path)
    assert "runs uncached" in said(caplog)
    assert not quoted(said(caplog))


@in_both_flavours
async def test_no_name_of_an_extra_argument_is_repeated(flavour: Flavour, caplog: pytest.LogCaptureFixture) -> None:
    store = flavour.use(InMemoryBackend())

    @store.cached()
    async def load(**filters: Any) -> str:
        return "value"

    @store.cached(key="{filters}")
    async def templated(**filters: Any) -> str:
        return "value"

    @store.cached(key_builder=lambda **filters: filters)
    async def built(**filters: Any) -> str:
        return "value"

    for function in (load, templated, built):
        for name in (NAME, SECRET):  # a keyword need not be an identifier
            assert await flavour.call(function, **{name: Opaque()}) == "value"
            with pytest.raises(UnkeyableError) as caught:
                function.key(**{name: Opaque()})
            assert not quoted(str(caught.value) + caught.value.path)
    assert said(caplog).count("runs uncached") == 3
    assert not quoted(said(caplog))


@in_both_flavours
async def test_no_instance_is_repeated(flavour: Flavour, caplog: pytest.LogCaptureFixture) -> None:
    store = flavour.use(InMemoryBackend())

    class Shop(Opaque):
        @store.cached()
        async def price(self, item: int) -> int:
            return item

    assert await flavour.call(Shop().price, 1) == 1
    for refused, args in ((Shop.price.invalidate, (SECRET,)), (Shop().price.key, (1,))):
        with pytest.raises(FastCacheError) as caught:
            refused(*args)
        assert SECRET not in str(caught.value)
    assert "runs uncached" in said(caplog)
    assert SECRET not in said(caplog)


@in_both_flavours
async def test_no_value_set_by_hand_is_repeated(flavour: Flavour, redis_url: str) -> None:
    for backend in (RedisBackend(redis_url, namespace="traps"), InMemoryBackend(copy=True)):
        store = flavour.use(backend)
        for value in (Angry(), [Angry()], {"key": Angry()}, {SECRET: Angry()}, {NAME: Angry()}):
            with pytest.raises(EncodeError) as caught:
                await store.set("key", value)
            assert not quoted(str(caught.value))


@in_both_flavours
async def test_nothing_that_lies_in_redis_is_repeated(
    flavour: Flavour, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))

    @store.cached()
    async def load() -> Model:
        return Model(field=SECRET)

    await flavour.call(load)
    with contextlib.closing(redis.Redis.from_url(redis_url)) as raw:
        (key,) = raw.scan_iter("traps:v:*")
        entry: Any = raw.get(key)
        for rubbish in (SECRET.encode(), entry[:-1], b"FC" + SECRET.encode() * 10):
            raw.set(key, rubbish)
            assert (await flavour.call(load)).field == SECRET
            await store.get(load.key())
    assert SECRET not in said(caplog)


@pytest.fixture
def away() -> Iterator[Store]:
    flavour = Flavour.of("sync")
    backend = RedisBackend(f"redis://somebody:{SECRET}@127.0.0.1:{free_port()}/0")
    yield flavour.use(backend)
    backend.close()


def test_no_password_is_repeated_not_even_by_the_cause_of_an_error(
    away: Store, caplog: pytest.LogCaptureFixture
) -> None:
    backend = away.backend
    backend.set("key", SECRET)
    backend.get("key")
    backend.clear()
    assert "RedisBackend" in said(caplog)
    assert SECRET not in said(caplog)
    assert SECRET not in repr(backend)
    malformed = [
        "redis://:{}@host/nodb",
        "redis://:{}@host:port",
        "rediss://:{0}@h/0?{0}={0}",
        "{}:6379",
        "redis://h:{}",
    ]
    for wrong in (form.format(SECRET) for form in malformed):
        with pytest.raises(FastCacheError) as caught:
            RedisBackend(wrong)
        error: BaseException | None = caught.value
        while error is not None:
            assert SECRET not in "".join(traceback.format_exception_only(error))
            error = error.__cause__ or error.__context__


def test_nothing_of_a_request_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache()
    app = FastAPI()
    cache.init_app(app)

    @app.get("/request")
    @cache.cached
    async def whole(request: Request, token: str = Header()) -> str:
        return token

    @app.get("/header")
    @cache.cached
    def header(token: str = Header()) -> str:
        return token

    client = TestClient(app)
    for path in ("/request", "/header"):
        headers = {"token": SECRET, "Authorization": f"Bearer {SECRET}", "Cookie": f"session={SECRET}"}
        for _ in range(2):
            response = client.get(path, params={"password": SECRET}, headers=headers)
            assert response.json() == SECRET
    assert SECRET not in said(caplog)


def test_no_header_stands_in_a_store() -> None:
    cache = Cache()
    app = FastAPI()
    backend = InMemoryBackend()
    cache.init_app(app, backend=backend)
    loads: list[str] = []

    @app.get("/header")
    @cache.cached
    def load(token: str = Header()) -> int:
        loads.append(token)
        return len(loads)

    client = TestClient(app)
    assert [client.get("/header", headers={"token": SECRET}).json() for _ in range(2)] == [1, 1]
    keys = list(backend.scan())
    assert keys
    assert not any(SECRET in key for key in keys)
