"""What backends become of URLs, what is refused, and that no message repeats what may be a password."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, InMemoryBackend, LayeredBackend, RedisBackend, backend_from_url
from fast_cache.backends import from_url
from fast_cache.backends.redis.url import SCHEMES
from fast_cache.errors import ConfigurationError, InvalidTypeError


def settings(backend: CacheBackend) -> dict[str, Any]:
    """What a backend was told, as it has it."""
    store: Any = backend.engine_store()
    if isinstance(backend, LayeredBackend):
        return {
            "l1": settings(backend.l1),
            "l2": settings(backend.l2),
            "l1_expire": store.longest_held,
            "max_staleness": store._staleness,
            "coherence": store._channel._how,
        }
    if isinstance(backend, InMemoryBackend):
        return {"namespace": backend.namespace, "max_size": backend.max_size, "copy": not store.shares}
    assert isinstance(backend, RedisBackend)
    link, layout = store._link, store._layout
    target, fleet = link._target, link._fleet
    makers = [target.maker.blocking, *([target._asking.blocking] if hasattr(target, "_asking") else [])]
    return {
        "namespace": backend.namespace,
        "connections": [(maker.func, {**maker.keywords, "retry": None}) for maker in makers],
        "hosts": [getattr(target, name, None) for name in ("_sentinels", "_service", "_seeds")],
        "timeout": link._silence,
        "connect_timeout": target.connect_within,
        "pool_size": fleet._keep,
        "max_connections": fleet._most,
        "max_load_time": layout._fence_ms,
        "max_expire": store.longest,
        "max_value_size": store._limits.largest,
        "lease": layout._lease_ms,
        "compress_above": store._limits.compress_above,
    }


HOSTS = "user:p%2Fw%3F@a:1,[::1]:2"

URLS: list[tuple[str, Callable[[], CacheBackend]]] = [
    ("memory://", InMemoryBackend),
    ("memory://?", InMemoryBackend),
    ("memory://?namespace=my%20shop", lambda: InMemoryBackend("my shop")),
    ("memory://?max_size=10000&namespace=shop&copy=true", lambda: InMemoryBackend("shop", 10_000, copy=True)),
    ("memory://?copy=1", lambda: InMemoryBackend(copy=True)),
    ("memory://?copy=False&", InMemoryBackend),
    ("redis://", lambda: RedisBackend("redis://")),
    ("redis://?timeout=2", lambda: RedisBackend("redis://", timeout=2)),
    (
        "redis://u:p%40s%26s@h:1/2?namespace=shop&client_name=a%26b&pool_size=3&protocol=3",
        lambda: RedisBackend("redis://u:p%40s%26s@h:1/2?client_name=a%26b&protocol=3", "shop", 3),
    ),
    (
        "redis://h?timeout=30s&connect_timeout=1.5&max_load_time=1h30m&max_expire=2d&lease=250ms",
        lambda: RedisBackend(
            "redis://h", timeout=30, connect_timeout=1.5, max_load_time=5400, max_expire="2d", lease=0.25
        ),
    ),
    (
        "redis://h?max_connections=30&max_value_size=1000&compress_above=100",
        lambda: RedisBackend("redis://h", max_connections=30, max_value_size=1000, compress_above=100),
    ),
    ("redis://h?compress_above=none", lambda: RedisBackend("redis://h", compress_above=None)),
    ("redis://h?%6eamespace=a+b", lambda: RedisBackend("redis://h", "a b")),
    ("redis://h?socket_timeout=3&db=4", lambda: RedisBackend("redis://h?socket_timeout=3&db=4")),
    (
        "rediss://h/1?ssl_ca_certs=/ca.pem&lease=7",
        lambda: RedisBackend("rediss://h/1?ssl_ca_certs=/ca.pem", lease=7),
    ),
    ("unix://u:p@/run/redis.sock?db=1&lease=7", lambda: RedisBackend("unix://u:p@/run/redis.sock?db=1", lease=7)),
    ("unix://?lease=7&path=/redis.sock", lambda: RedisBackend("unix://?path=/redis.sock", lease=7)),
    (
        f"redis+sentinel://{HOSTS}/shop/3?sentinel_password=p%26q&lease=7",
        lambda: RedisBackend(f"redis+sentinel://{HOSTS}/shop/3?sentinel_password=p%26q", lease=7),
    ),
    (
        "rediss+sentinel://h/shop?lease=7&ssl_ca_certs=/ca.pem",
        lambda: RedisBackend("rediss+sentinel://h/shop?ssl_ca_certs=/ca.pem", lease=7),
    ),
    (f"redis+cluster://{HOSTS}?lease=7", lambda: RedisBackend(f"redis+cluster://{HOSTS}", lease=7)),
    ("rediss+cluster://a,b?lease=7", lambda: RedisBackend("rediss+cluster://a,b", lease=7)),
    ("layered://", lambda: LayeredBackend(l2=RedisBackend("redis://"))),
    (
        "layered://u:p%40@h:1/2?namespace=shop&l1_expire=30s&max_staleness=5&coherence=pubsub&timeout=1"
        "&l1_max_size=100&l1_copy=true&client_name=me",
        lambda: LayeredBackend(
            InMemoryBackend("shop", 100, copy=True),
            RedisBackend("redis://u:p%40@h:1/2?client_name=me", "shop", timeout=1),
            l1_expire=30,
            max_staleness=5,
            coherence="pubsub",
        ),
    ),
    ("layered://h?coherence=tracking", lambda: LayeredBackend(l2=RedisBackend("redis://h"), coherence="tracking")),
    *(
        (f"layered+{place}lease=7", lambda place=place: LayeredBackend(l2=RedisBackend(place.rstrip("?&"), lease=7)))
        for place in (
            "redis://h/3?",
            "rediss://h?ssl_ca_certs=/ca.pem&",
            "unix:///run/redis.sock?db=1&",
            f"redis+sentinel://{HOSTS}/shop/3?",
            "rediss+sentinel://h/shop?",
            f"redis+cluster://{HOSTS}?",
            "rediss+cluster://a,b?",
        )
    ),
]


@pytest.mark.parametrize(("url", "made"), URLS, ids=[url for url, _ in URLS])
def test_a_url_makes_what_the_class_makes_of_the_same_options(url: str, made: Callable[[], CacheBackend]) -> None:
    backend, same = backend_from_url(url), made()
    assert type(backend) is type(same)
    assert settings(backend) == settings(same)


def test_every_scheme_for_redis_is_in_the_table() -> None:
    schemes = {url.partition("://")[0] + "://" for url, _ in URLS}
    assert schemes == {"memory://", "layered://", *SCHEMES, *(f"layered+{scheme}" for scheme in SCHEMES)}


@pytest.mark.parametrize(
    ("backend", "known", "beyond_text"),
    [
        (InMemoryBackend, from_url.OF_MEMORY, {"max_weight", "weigher"}),
        (
            RedisBackend,
            from_url.OF_REDIS,
            {"redis_url", "client", "async_client", "credential_provider", "serializer"},
        ),
        (LayeredBackend, from_url.OF_TIERS, {"l1", "l2"}),
    ],
)
def test_every_option_that_text_can_express_can_be_given(
    backend: type[CacheBackend], known: dict[str, Any], beyond_text: set[str]
) -> None:
    parameters = set(inspect.signature(backend).parameters)
    assert parameters - beyond_text == set(known)
    assert all(f"``{name}``" in str(backend_from_url.__doc__) for name in known)


def test_each_call_makes_a_backend_of_its_own() -> None:
    first, second = (backend_from_url("memory://") for _ in range(2))
    first.set("k", 1)
    assert second.get("k") is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "must start with memory://, redis://, rediss://, unix://"),
        ("localhost:6379", "must start with memory://"),
        ("memory:", "must start with memory://"),
        ("memcached://localhost", r"layered\+ and one of those for Redis"),
        ("REDIS://localhost", "must start with"),
        ("redis:localhost", "must start with"),
        ("layered", "must start with"),
        ("layered+://localhost", "must start with"),
        ("layered+memory://", "must start with"),
        ("layered+layered://localhost", "must start with"),
        ("layered+unix+cluster://localhost", "must start with"),
        ("memory://localhost", "no host"),
        ("memory:///shop?copy=true", "no host"),
        ("memory://?size=5", "the option size that memory:// does not know; it knows copy, max_size, namespace"),
        ("memory://?db=5", "the option db that memory://"),
        ("memory://?lease=5", "the option lease that memory://"),
        ("redis://h?max_size=5", "the option max_size that redis://"),
        ("redis://h?l1_expire=5", "the option l1_expire that redis://"),
        ("redis://h?namspace=shop", "client_name, compress_above, connect_timeout, "),
        ("redis://h?ssl_ca_certs=a", "need a scheme with rediss"),
        ("redis+cluster://h?host=a", r"the option host that redis\+cluster://"),
        ("redis+cluster://h?sentinel_username=a", r"the option sentinel_username that redis\+cluster://"),
        ("layered://h?max_size=5", "the option max_size that layered:// .* l1_max_size"),
        ("layered+rediss://h?copy=true", r"the option copy that layered\+rediss://"),
        ("layered+redis+sentinel://h/shop?port=1", r"the option port that layered\+redis\+sentinel://"),
        ("redis://h?Lease=5", "the option Lease that"),
        ("redis://h?lease=1&lease=1", "gives lease twice"),
        ("redis://h?lease=1&le%61se=1", "gives lease twice"),
        ("redis://h?db=1&db=2", "gives db twice"),
        ("redis://h?timeout=1&socket_timeout=1", "timeout and socket_timeout, which mean the same"),
        ("redis://h?socket_connect_timeout=1&connect_timeout=1", "connect_timeout and socket_connect_timeout"),
        ("memory://?max_size=many", "max_size in the URL of a backend must be a whole number from 1 on"),
        ("memory://?max_size=", "max_size in"),
        ("memory://?max_size", "max_size in"),
        ("memory://?max_size=0", "max_size in"),
        ("memory://?max_size=-1", "max_size in"),
        ("memory://?max_size=1.5", "max_size in"),
        ("memory://?max_size=1_000", "max_size in"),
        ("memory://?max_size=%D9%A3", "max_size in"),
        ("memory://?max_size=" + "9" * 19, "max_size in"),
        ("memory://?copy=maybe", "copy in the URL of a backend must be true or false"),
        ("memory://?namespace=", "namespace must have 1 to 256"),
        ("memory://?namespace=%FF", "namespace must be encodable"),
        ("memory://?namespace=a%0Ab", "control characters"),
        ("memory://?namespace=a#b", "must not contain #; write it as %23"),
        ("redis://h?timeout=soon", "timeout in the URL of a backend must be a duration longer than 0 such as 30s"),
        ("redis://h?timeout=0", "timeout in"),
        ("redis://h?timeout=-1", "timeout in"),
        ("redis://h?timeout=inf", "timeout in"),
        ("redis://h?max_expire=101w5000d999999h", "max_expire in"),
        ("redis://h?compress_above=never", "compress_above in the URL of a backend must be .* or none"),
        ("redis://h?lease=10ms", r"lease must be at least 0\.1 s, got 0\.01 s"),
        ("redis://h?socket_timeout=soon", "socket_timeout in its query can't be read"),
        ("redis://h/shop?lease=5", "redis_url must end in a database number"),
        ("layered+redis+sentinel://h?lease=5", "redis_url names no service"),
        ("layered://h?coherence=gossip", "coherence in the URL of a backend must be tracking or pubsub"),
        ("layered://h?max_staleness=10ms", r"max_staleness must be at least 0\.1 s"),
        ("layered://h?l1_expire=2h&max_expire=1h", "l1_expire .* is longer than anything lives"),
        ("layered://h?l1_max_size=0", "l1_max_size in"),
    ],
)
def test_what_can_not_work_is_refused_in_words_that_say_what_can(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        backend_from_url(url)


@pytest.mark.parametrize("way", [backend_from_url, lambda url: LayeredBackend(l2=url)], ids=["from_url", "l2"])
@pytest.mark.parametrize("layered", ["", "layered+"])
@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "hunter2://h",
        "hunter2+redis://h",
        "redis:hunter2",
        "redis://:hunter2@h?namespac=shop",
        "redis://:a?hunter2@h",
        "redis://:a?hunter2=1@h",
        "redis://:a?hunter2=1&b=c@h?lease=1",
        "redis://:a?lease=hunter2@h",
        "redis://:a?max_value_size=hunter2@h",
        "redis://:a?compress_above=1@h&compress_above=hunter2",
        "redis://:a#hunter2@h",
        "redis://:a/hunter2@h",
        "redis://h?hunter2",
        "redis://h?lease=hunter2",
        "redis://h?password=a&hunter2",
        "redis://h?password=a&hunter2=",
        "redis://h?p%61ssword=a&hunter2=b",
        "redis://h?hunter2=b&password=a",
        "redis://h?lease=1&lease=hunter2",
        "redis://h?password=a&password=hunter2",
        "redis://h?client_name=x&hunter2",
        "redis://h?unknown=hunter2",
        "redis://h?hunter2%20=b",
        "redis://h?db=hunter2",
        "redis://h:hunter2?lease=5",
        "redis://h?timeout=1&socket_timeout=hunter2",
        "redis+sentinel://:a?hunter2@h/shop",
        "redis+sentinel://h/shop?sentinel_password=a&hunter2=",
        "redis+cluster://h,h:hunter2?lease=5",
        "unix:///hunter2/?lease=5",
    ],
)
def test_no_message_repeats_what_may_be_a_password(way: Callable[[str], Any], layered: str, url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        way(layered + url)
    for error in chain(caught.value):
        assert "hunter2" not in f"{error!r} {error} {error.__dict__}"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    if error is not None:
        yield error
        yield from chain(error.__cause__)
        yield from chain(error.__context__)


@pytest.mark.parametrize("url", [None, b"memory://", 5, InMemoryBackend])
def test_what_is_no_text_is_refused(url: Any) -> None:
    with pytest.raises(InvalidTypeError, match="the URL of a backend must be text"):
        backend_from_url(url)


def test_init_app_takes_a_url() -> None:
    app, cache = FastAPI(), Cache()
    cache.init_app(app, backend="memory://?max_size=7", default_expire=60)
    made = cache.get_cache()
    assert settings(made) == settings(InMemoryBackend(max_size=7))
    with pytest.raises(ConfigurationError, match="the option size"):
        cache.init_app(app, backend="memory://?size=7")
    assert cache.get_cache() is made
    app.state.cache_handler(app)
    assert cache.get_cache() is made


def test_init_app_names_both_that_it_takes() -> None:
    backend: Any = 5
    with pytest.raises(InvalidTypeError, match=r"InMemoryBackend\(\), or the URL of one, not a int"):
        Cache().init_app(FastAPI(), backend=backend)


def test_the_far_store_of_two_tiers_may_be_a_url_with_options() -> None:
    made = LayeredBackend(l2="redis://h/1?namespace=shop&lease=7")
    assert settings(made) == settings(LayeredBackend(l2=RedisBackend("redis://h/1", "shop", lease=7)))
    for url, trouble in (("memory://", "which no other process shares"), ("layered://h", "has two tiers already")):
        with pytest.raises(ConfigurationError, match=trouble):
            LayeredBackend(l2=url)
