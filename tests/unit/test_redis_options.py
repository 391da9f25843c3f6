"""What RedisBackend refuses before anything connects, and that it never repeats a password."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import redis.asyncio

from fast_cache import RedisBackend
from fast_cache.backends.redis.layout import Layout
from fast_cache.errors import ConfigurationError, InvalidTypeError


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://user:hunter2@localhost",
        "redis://:hunter2@localhost:port/0",
        "redis://:hunter2@localhost:99999/0",
        "redis://:hunter2@localhost:0/0",
        "redis://:hunter2@localhost/notadb",
        "redis://:hunter2@localhost/-1",
        "redis://:hunter2@localhost/0/1",
        "redis://:hunter2@[::1/0",
        "redis://:hunter2@localhost/0?no_such_option=1",
        "redis://:hunter2@localhost/0?socket_timeout=soon",
    ],
)
def test_malformed_urls_are_refused_without_repeating_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisBackend(url)
    assert "redis_url" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None, "the cause would show the URL in the traceback"


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""},
        {"namespace": "a\nb"},
        {"namespace": "x" * 257},
        {"namespace": "\ud800"},
        {"pool_size": 0},
        {"max_connections": 0},
        {"timeout": 0},
        {"timeout": -1},
        {"connect_timeout": "soon"},
        {"max_load_time": 0},
        {"max_expire": float("nan")},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RedisBackend("redis://localhost", **options)


@pytest.mark.parametrize("options", [{"redis_url": 5}, {"namespace": b"x"}, {"pool_size": "10"}, {"pool_size": True}])
def test_wrong_types_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidTypeError):
        RedisBackend(**options)


def test_two_clients_of_one_flavour_are_refused() -> None:
    first, second = redis.Redis(), redis.Redis()
    with pytest.raises(ConfigurationError, match="same flavour"):
        RedisBackend(first, client=second)


def test_a_pool_larger_than_its_bound_is_cut_to_the_bound() -> None:
    RedisBackend("redis://localhost", max_connections=5)  # pool_size is 10 by default


@pytest.mark.parametrize("key", ["}", "{", "a}b", "{}", "}}{{", "%7D", "a{b}c"])
@pytest.mark.parametrize("namespace", ["ns", "a{b}c", "}{"])
def test_a_value_and_its_fence_share_a_slot(key: str, namespace: str) -> None:
    from redis.crc import key_slot

    layout = Layout(namespace, 1000)
    assert key_slot(layout.value_key(key)) == key_slot(layout.fence_key(key))


def test_no_two_keys_and_no_two_namespaces_share_a_name() -> None:
    names = [
        name
        for namespace in ("ns", "ns:v", "ns:v:{a", "n", "ns:v:{a}", "ns%3Av")
        for key in ("a", "a}", "a%7D", "{a}", "a}:v:{b", "%25")
        for layout in [Layout(namespace, 1000)]
        for name in (layout.value_key(key), layout.fence_key(key))
    ]
    assert len(set(names)) == len(names)
