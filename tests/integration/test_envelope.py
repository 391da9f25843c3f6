"""What lies in Redis: compressed, limited in size, and signed where that is asked for; and what is planted there.

Whoever plants knows the layout, so checksums and digests are right: what keeps a forgery out is told by each test.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi import FastAPI
from pydantic import BaseModel

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, EncodeError, PickleSerializer, RedisBackend, Serializer
from fast_cache.backends.redis.layout import Layout
from fast_cache.serializers import Envelope, any_codec, codec_for, pack, unpack
from fast_cache.testing import Flavour, Store, in_both_flavours

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "an old secret of 24 byte", "a new secret of 24 bytes"
PAGE = [{"id": number, "name": "Kettle", "tags": ["steel", "kitchen"]} for number in range(400)]
MIB = 2**20
NAMESPACE = "envelope"


@pytest.fixture(autouse=True)
def _everything_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


class Raw:
    """The entries in Redis, as anybody can read and write them who reaches it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._layout = Layout(NAMESPACE, fence_ms=1)

    def read(self, key: str) -> bytes:
        data = self._client.get(self._layout.value_key(key))
        assert isinstance(data, bytes)
        return data

    def write(self, key: str, data: bytes) -> None:
        self._client.set(self._layout.value_key(key), data, keepttl=True)

    def envelope(self, key: str) -> Envelope:
        return unpack(key, self.read(key))

    def change(self, key: str, **fields: Any) -> None:
        """Put something else into an entry, so that nothing but that is wrong with it."""
        self.write(key, pack(key, self.envelope(key)._replace(**fields)))


@pytest.fixture
def raw(redis_url: str) -> Iterator[Raw]:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield Raw(client)


def make_backend(url: str, **options: Any) -> RedisBackend:
    return RedisBackend(url, namespace=NAMESPACE, **options)


class Function:
    """A cached function that counts its loads. In every process, and over every backend, it is the same one."""

    def __init__(self, flavour: Flavour, store: Store, value: Any = "a value", **options: Any) -> None:
        self._flavour = flavour
        self.loads: list[str] = []

        async def load(name: str):  # type: ignore[no-untyped-def]
            self.loads.append(name)
            if isinstance(value, Exception):
                raise value
            return value

        self.cached = store.cached(expire=60, **options)(load)

    async def __call__(self, name: str) -> Any:
        return await self._flavour.call(self.cached, name)

    def key(self, name: str) -> str:
        return str(self.cached.key(name))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@in_both_flavours
async def test_what_is_large_lies_compressed_and_comes_back(flavour: Flavour, redis_url: str, raw: Raw) -> None:
    store = flavour.use(make_backend(redis_url, compress_above=1000))
    function = Function(flavour, store, PAGE)
    await store.set("small", PAGE[:2])
    await store.set("large", PAGE)
    assert [await function("a"), await function("a")] == [PAGE, PAGE]
    assert function.loads == ["a"]
    assert [await store.get("small"), await store.get("large")] == [PAGE[:2], PAGE]
    assert await store.has("large")
    assert not raw.envelope("small").compressed
    for key in ("large", function.key("a")):
        assert raw.envelope(key).compressed
        assert len(raw.read(key)) < len(any_codec().encode(PAGE)) / 10


@in_both_flavours
async def test_nothing_is_compressed_where_that_is_switched_off_or_saves_nothing(
    flavour: Flavour, redis_url: str, raw: Raw
) -> None:
    never = flavour.use(make_backend(redis_url, compress_above=None))
    await never.set("large", PAGE)
    assert not raw.envelope("large").compressed
    always = flavour.use(make_backend(redis_url, compress_above=1, serializer=PickleSerializer(secret=NEW)))
    noise = os.urandom(10_000)
    await always.set("noise", noise)
    assert not raw.envelope("noise").compressed
    assert await always.get("noise") == noise


@in_both_flavours
async def test_whoever_compresses_nothing_reads_what_is_compressed(flavour: Flavour, redis_url: str) -> None:
    writer = flavour.use(make_backend(redis_url, compress_above=1))
    reader = flavour.use(make_backend(redis_url, compress_above=None))
    await writer.set("large", PAGE)
    assert await reader.get("large") == PAGE


WITHOUT_ZSTANDARD = f"""
import sys
sys.modules["zstandard"] = None
from fast_cache import RedisBackend, cache
from fastapi import FastAPI
backend = RedisBackend(sys.argv[1], namespace={NAMESPACE!r}, compress_above=100)
cache.init_app(FastAPI(), backend=backend)
assert backend.get("page") is None
assert cache.get_or_set("page", lambda: "pot " * 1000) == "pot " * 1000
assert backend.get("page") == "pot " * 1000
"""


def test_a_process_without_zstandard_loads_anew_and_writes_what_everybody_reads(redis_url: str, raw: Raw) -> None:
    backend = make_backend(redis_url)
    backend.set("page", "kettle " * 1000)
    assert raw.envelope("page").payload[:1] == b"\x02"
    command = [sys.executable, "-W", "error", "-c", WITHOUT_ZSTANDARD, redis_url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert raw.envelope("page").payload[:1] == b"\x01"
    assert backend.get("page") == "pot " * 1000
    backend.close()


def bomb() -> bytes:
    """A payload of 1 MiB that claims 8, and is a gibibyte of zeros."""
    compressor = zlib.compressobj(9)
    blocks = [compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    return b"\x01" + (8 * MIB).to_bytes(8, "big") + blocks[0] + blocks[1] * 1023


@in_both_flavours
async def test_a_bomb_is_a_miss_and_takes_no_more_memory_than_a_value_may(
    flavour: Flavour, redis_url: str, raw: Raw
) -> None:
    store = flavour.use(make_backend(redis_url, max_value_size=8 * MIB))
    function = Function(flavour, store)
    await function("a")
    await store.set("by hand", 1)
    raw.change(function.key("a"), payload=bomb(), compressed=True)
    raw.change("by hand", payload=bomb(), compressed=True)
    tracemalloc.start()
    try:
        assert await store.get("by hand") is None
        assert await function("a") == "a value"
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB  # beside it, what was read is held, some times over
    finally:
        tracemalloc.stop()
    assert function.loads == ["a", "a"]
    assert await function("a") == "a value"
    assert function.loads == ["a", "a"], "it took the bomb's place"


@in_both_flavours
async def test_a_torn_payload_is_a_miss(flavour: Flavour, redis_url: str, raw: Raw) -> None:
    store = flavour.use(make_backend(redis_url, compress_above=1000))
    function = Function(flavour, store, PAGE)
    await function("a")
    key = function.key("a")
    whole = raw.envelope(key).payload
    for payload in (whole[:-1], whole + b"x", b"\x09" + whole[1:], whole[:5], b""):
        raw.change(key, payload=payload, compressed=True)
        function.loads.clear()
        assert await function("a") == PAGE
        assert function.loads == ["a"]


@in_both_flavours
async def test_an_entry_is_as_large_as_allowed_or_is_not_stored(
    flavour: Flavour, redis_url: str, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    generous = flavour.use(make_backend(redis_url, compress_above=None))
    await generous.set("page", PAGE)
    size = len(raw.read("page"))
    exact = flavour.use(make_backend(redis_url, max_value_size=size))
    await exact.set("page", PAGE)
    assert raw.envelope("page").compressed
    assert await exact.get("page") == PAGE
    tight = flavour.use(make_backend(redis_url, max_value_size=size - 1))
    with pytest.raises(EncodeError, match="max_value_size"):
        await tight.set("page", PAGE)
    function = Function(flavour, flavour.use(make_backend(redis_url, max_value_size=100)), PAGE)
    assert [await function("a"), await function("a")] == [PAGE, PAGE]
    assert function.loads == ["a", "a"]
    assert len([warning for warning in warnings(caplog) if "max_value_size" in warning]) == 1


@pytest.mark.parametrize("above", [None, 1])
@in_both_flavours
async def test_an_entry_that_is_larger_than_allowed_is_a_miss_before_it_is_decoded(
    flavour: Flavour, redis_url: str, above: int | None
) -> None:
    decoded: list[int] = []

    class Watched(Serializer[Any]):
        def dumps(self, value: Any) -> bytes:
            return json.dumps(value).encode()

        def loads(self, data: bytes) -> Any:
            decoded.append(len(data))
            return json.loads(data)

    watched = Watched()
    writer = flavour.use(make_backend(redis_url, compress_above=above, serializer=watched))
    reader = flavour.use(make_backend(redis_url, max_value_size=1000, serializer=watched))
    value = "kettle " * 1000
    written, read = Function(flavour, writer, value), Function(flavour, reader, value)
    await writer.set("by hand", value)
    await written("a")
    decoded.clear()
    assert await reader.get("by hand") is None
    assert await read("a") == value
    assert read.loads == ["a"]
    assert decoded == []
    assert await writer.get("by hand") == value, "it is there all the same"


class Trap:
    """Says so when it is unpickled."""

    sprung: list[str] = []

    def __reduce__(self) -> Any:
        return (Trap.sprung.append, ("sprung",))


@in_both_flavours
async def test_whatever_pickle_takes_comes_back_from_a_backend_that_signs(
    flavour: Flavour, redis_url: str, raw: Raw
) -> None:
    store = flavour.use(make_backend(redis_url, serializer=PickleSerializer(secret=NEW)))
    value = {1: (2, {3}), "type": dict, "range": range(4)}
    function = Function(flavour, store, value)
    assert [await function("a"), await function("a")] == [value, value]
    assert function.loads == ["a"]
    await store.set("by hand", value)
    assert await store.get("by hand") == value
    assert await store.get(function.key("a")) == value
    assert await store.has(function.key("a"))
    await store.set("large", [value] * 2000)
    assert raw.envelope("large").compressed
    assert await store.get("large") == [value] * 2000


@in_both_flavours
async def test_an_unsigned_pickle_is_never_unpickled(flavour: Flavour, redis_url: str, raw: Raw) -> None:
    store = flavour.use(make_backend(redis_url, serializer=PickleSerializer(secret=NEW)))
    function = Function(flavour, store)
    trap = pickle.dumps(Trap())
    signed = PickleSerializer(secret=OLD).encode(Trap(), function.key("a").encode())
    for payload in (trap, b"\x01" + bytes(32) + trap, signed, signed[:33] + trap):
        await function("a")
        await store.set("by hand", 1)
        function.loads.clear()
        for key in (function.key("a"), "by hand"):
            raw.change(key, payload=payload)
        assert await store.get("by hand") is None
        assert await function("a") == "a value"
        assert function.loads == ["a"]
    assert Trap.sprung == []


@in_both_flavours
async def test_entries_that_were_swapped_are_misses(flavour: Flavour, redis_url: str, raw: Raw) -> None:
    store = flavour.use(make_backend(redis_url, serializer=PickleSerializer(secret=NEW)))
    function = Function(flavour, store)
    await function("a")
    await function("b")
    keys = function.key("a"), function.key("b")
    first, second = (raw.envelope(key).payload for key in keys)
    raw.change(keys[0], payload=second)
    raw.change(keys[1], payload=first)
    await function("a")
    await function("b")
    assert function.loads == ["a", "b", "a", "b"]


@in_both_flavours
async def test_a_signed_value_that_was_altered_is_a_miss(flavour: Flavour, redis_url: str, raw: Raw) -> None:
    store = flavour.use(make_backend(redis_url, serializer=PickleSerializer(secret=NEW)))
    function = Function(flavour, store)
    await function("a")
    key = function.key("a")
    payload = raw.envelope(key).payload
    raw.change(key, payload=payload.replace(b"a value", b"a valve"))
    assert await function("a") == "a value"
    assert function.loads == ["a", "a"]


@in_both_flavours
async def test_secrets_are_exchanged_one_by_one(flavour: Flavour, redis_url: str) -> None:
    def process(*secrets: str) -> Function:
        signing = PickleSerializer(secret=secrets)
        return Function(flavour, flavour.use(make_backend(redis_url, serializer=signing)))

    before, meanwhile, after = process(OLD), process(NEW, OLD), process(NEW)
    for process_ in (before, meanwhile, after):
        await process_("signed with the old one")
    assert [process_.loads for process_ in (before, meanwhile, after)] == [
        ["signed with the old one"],
        [],
        ["signed with the old one"],
    ]
    for process_ in (meanwhile, after, before):
        await process_("signed with the new one")
    assert (meanwhile.loads, after.loads[1:], before.loads[1:]) == (
        ["signed with the new one"],
        [],
        ["signed with the new one"],
    )


class Prices(BaseModel):
    kettle: float


class PricesAsText(Serializer[Prices]):
    def dumps(self, value: Prices) -> bytes:
        return str(value.kettle).encode()

    def loads(self, data: bytes) -> Prices:
        return Prices(kettle=float(data))


SERIALIZERS: dict[str, Serializer[Any] | None] = {
    "none": None,
    "pickle": PickleSerializer(secret=NEW),
    "hmac": PickleSerializer(secret=NEW, algorithm="hmac-sha256"),
    "own": PricesAsText(),
}


@pytest.mark.parametrize("where", ["backend", "function"])
@in_both_flavours
async def test_what_one_serializer_wrote_is_a_miss_to_every_other_one(
    flavour: Flavour, redis_url: str, where: str
) -> None:
    functions = []
    for serializer in SERIALIZERS.values():
        given = {"serializer": serializer}
        store = flavour.use(make_backend(redis_url, **(given if where == "backend" else {})))
        functions.append(Function(flavour, store, Prices(kettle=34.9), **(given if where == "function" else {})))
    for writer in functions:
        for reader in functions:
            await flavour.call(writer.cached.refresh, "a")
            reader.loads.clear()
            assert await reader("a") == Prices(kettle=34.9)
            assert reader.loads == ([] if reader is writer else ["a"])


@in_both_flavours
async def test_by_hand_a_backend_reads_what_its_own_serializer_wrote_and_nothing_else(
    flavour: Flavour, redis_url: str
) -> None:
    plain = flavour.use(make_backend(redis_url))
    signing = flavour.use(make_backend(redis_url, serializer=PickleSerializer(secret=NEW)))
    await plain.set("unsigned", 1)
    await signing.set("signed", 1)
    assert (await signing.get("unsigned"), await signing.has("unsigned")) == (None, False)
    assert (await signing.get("signed"), await signing.has("signed")) == (1, True)
    own = Function(flavour, plain, Prices(kettle=34.9), serializer=SERIALIZERS["own"])
    await own("a")
    assert await plain.get(own.key("a")) == Prices(kettle=34.9), "it is known here who wrote it"
    assert await signing.get(own.key("a")) is None


@in_both_flavours
async def test_the_serializer_of_a_function_goes_before_that_of_the_backend(
    flavour: Flavour, redis_url: str, raw: Raw
) -> None:
    store = flavour.use(make_backend(redis_url, serializer=PickleSerializer(secret=NEW)))
    function = Function(flavour, store, Prices(kettle=34.9), serializer=PricesAsText())
    for _ in range(2):
        assert await function("a") == Prices(kettle=34.9)
    assert function.loads == ["a"]
    assert raw.envelope(function.key("a")).payload == b"34.9"


def test_a_function_follows_its_cache_to_a_backend_with_another_serializer(redis_url: str, raw: Raw) -> None:
    cache, app = Cache(), FastAPI()
    loads: list[None] = []
    signing = PickleSerializer(secret=NEW)

    @cache.cached(expire=60)
    def number() -> int:
        loads.append(None)
        return 1

    for serializer, codec in ((None, codec_for(int)), (signing, signing), (None, codec_for(int))):
        backend = make_backend(redis_url, serializer=serializer)
        cache.init_app(app, backend=backend)
        loads.clear()
        assert [number(), number()] == [1, 1]
        assert len(loads) == 1
        assert raw.envelope(number.key()).codec == codec.fingerprint
        backend.close()


@in_both_flavours
async def test_exceptions_are_stored_signed_where_values_are(flavour: Flavour, redis_url: str, raw: Raw) -> None:
    store = flavour.use(make_backend(redis_url, serializer=PickleSerializer(secret=NEW)))
    function = Function(flavour, store, LookupError("no such item"), cache_errors={LookupError: 60})
    for _ in range(2):
        with pytest.raises(LookupError, match="no such item"):
            await function("a")
    assert function.loads == ["a"]
    key = function.key("a")
    assert (await store.get(key), await store.has(key)) == (None, False)
    raw.change(key, payload=b"e" + any_codec().encode(["builtins.LookupError", ["forged"], {}]))
    with pytest.raises(LookupError, match="no such item"):
        await function("a")
    assert function.loads == ["a", "a"]


@in_both_flavours
async def test_a_value_beside_stored_exceptions_is_found_by_hand_too(flavour: Flavour, redis_url: str) -> None:
    store = flavour.use(make_backend(redis_url, serializer=PickleSerializer(secret=NEW), compress_above=1))
    function = Function(flavour, store, "kettle " * 100, cache_errors={LookupError: 60})
    for _ in range(2):
        await function("a")
    assert function.loads == ["a"]
    assert await store.get(function.key("a")) == "kettle " * 100
    assert await store.has(function.key("a"))


class Faulty(Serializer[Any]):
    """Can't do what it was made for."""

    def __init__(self, *, dumps: bool) -> None:
        super().__init__("faulty")
        self._dumps = dumps

    def dumps(self, value: Any) -> bytes:
        if self._dumps:
            return b"{}"
        raise RuntimeError("hunter2")

    def loads(self, data: bytes) -> Any:
        raise RuntimeError("hunter2")


@pytest.mark.parametrize("dumps", [True, False])
@in_both_flavours
async def test_a_serializer_that_raises_costs_the_caller_nothing(
    flavour: Flavour, redis_url: str, dumps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(make_backend(redis_url))
    function = Function(flavour, store, serializer=Faulty(dumps=dumps))
    for _ in range(3):
        assert await function("a") == "a value"
    assert function.loads == ["a"] * 3
    assert len(warnings(caplog)) == (0 if dumps else 1)
    assert "hunter2" not in "".join(warnings(caplog))


@in_both_flavours
async def test_callers_who_share_a_load_get_its_value_even_if_it_can_not_be_read_back(
    flavour: Flavour, redis_url: str
) -> None:
    store = flavour.use(make_backend(redis_url))
    gate = flavour.gate()

    @store.cached(expire=60, serializer=Faulty(dumps=True))
    async def load(name: str) -> str:
        await gate.passed()
        return "a value"

    callers = [flavour.start(load, "a") for _ in range(3)]
    await store.followed(load.key("a"), 2)
    gate.open()
    for caller in callers:
        assert await caller.result() == "a value"


def test_loaders_by_key_and_elements_of_many_take_a_serializer(redis_url: str, raw: Raw) -> None:
    cache, backend = Cache(), make_backend(redis_url)
    cache.init_app(FastAPI(), backend=backend)
    text = PricesAsText()

    @cache.cached_many(expire=60, serializer=text)
    def prices(ids: list[int]) -> dict[int, Prices]:
        return {number: Prices(kettle=number) for number in ids}

    assert cache.get_or_set("key", lambda: Prices(kettle=1), serializer=text) == Prices(kettle=1)
    assert cache.many(["a"], lambda keys: {key: Prices(kettle=2) for key in keys}, serializer=text)
    assert cache.warmup({"b": lambda: Prices(kettle=3)}, serializer=text).loaded == ["b"]
    assert prices([4]) == {4: Prices(kettle=4)}
    assert [raw.envelope(key).payload for key in ("key", "a", "b", prices.key(4))] == [b"1.0", b"2.0", b"3.0", b"4.0"]
    assert backend.get("key") == Prices(kettle=1)
    backend.close()


@in_both_flavours
async def test_a_backend_of_ten_methods_holds_what_a_serializer_made_and_reads_what_is_compressed(
    flavour: Flavour, tmp_path: Path
) -> None:
    backend = SQLiteBackend(tmp_path / "cache.sqlite3")
    store = flavour.use(backend)
    function = Function(flavour, store, PAGE, serializer=PickleSerializer(secret=NEW))
    for _ in range(2):
        assert await function("a") == PAGE
    assert function.loads == ["a"]
    key = function.key("a")
    data = backend.get(key)
    assert not unpack(key, data).compressed, "such a backend may compress by itself"
    payload = unpack(key, data).payload
    for larger, loads in ((b"", []), (b"x" * 64 * MIB, ["a"])):  # 64 MiB are allowed where no option says it
        compressed = b"\x01" + len(payload + larger).to_bytes(8, "big") + zlib.compress(payload + larger)
        backend.set(key, pack(key, unpack(key, data)._replace(payload=compressed, compressed=True)))
        function.loads.clear()
        assert await function("a") == PAGE
        assert function.loads == loads


@in_both_flavours
async def test_by_default_nothing_is_pickled(flavour: Flavour, redis_url: str, raw: Raw) -> None:
    store = flavour.use(make_backend(redis_url))
    function = Function(flavour, store, {1, 2})
    await function("a")
    assert raw.envelope(function.key("a")).codec == codec_for().fingerprint
