"""What RedisBackend refuses before anything connects, and that it repeats nothing of the URL."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from fast_cache import RedisBackend
from fast_cache.backends.redis.layout import Layout
from fast_cache.errors import ConfigurationError, InvalidTypeError
from tests.support.deployments import Provider


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
        "hunter2",
        "hunter2:6379/0",
        "hunter2://localhost",
        "REDIS://hunter2",
        "redis:hunter2",
        "redis://localhost:hunter2",
        "redis://localhost:hunter2/0",
        "redis://hunter2]/0",
        "redis://localhost/hunter2",
        "redis://localhost/0?hunter2=1",
        "redis://localhost/0?hunter2",
        "redis://localhost/0?db=hunter2",
        "redis://localhost/0?port=hunter2",
        "redis://localhost/0?self=hunter2",
        "redis://localhost/0?parser_class=hunter2",
        "redis://localhost/0?retry_on_error=hunter2",
        "rediss://localhost/0?ssl_cert_reqs=hunter2",
        "rediss://localhost/0?ssl_include_verify_flags=hunter2",
        "unix://",
        "unix:///",
        "unix://:hunter2@",
        "unix://:hunter2@?db=1",
        "unix:///hunter2/",
        "redis+sentinel://",
        "redis+sentinel:///shop",
        "redis+sentinel://hunter2",
        "redis+sentinel://hunter2/",
        "redis+sentinel://hunter2/?db=1",
        "redis+sentinel://localhost/shop/hunter2",
        "redis+sentinel://localhost/shop/0/hunter2",
        "redis+sentinel://localhost/shop/-1",
        "redis+sentinel://localhost/shop?db=hunter2",
        "redis+sentinel://localhost/shop?hunter2=1",
        "redis+sentinel://localhost/shop?host=hunter2",
        "redis+sentinel://localhost/shop?path=hunter2",
        "redis+sentinel://localhost/shop?ssl_ca_certs=hunter2",
        "redis+sentinel://localhost,/shop/hunter2",
        "redis+sentinel://,hunter2/shop",
        "redis+sentinel://:hunter2@/shop",
        "redis+sentinel://:a/hunter2@localhost/shop",
        "redis+sentinel://:a#hunter2@localhost/shop",
        "redis+sentinel://:a?hunter2@localhost/shop",
        "redis+sentinel://localhost:hunter2/shop",
        "redis+sentinel://localhost:0,hunter2/shop",
        "redis+sentinel://localhost:65536,hunter2/shop",
        "redis+sentinel://[::1,hunter2/shop",
        "redis+sentinel://::1,hunter2/shop",
        "redis+sentinel://host hunter2/shop",
        "redis+cluster://",
        "redis+cluster://localhost/1?client_name=hunter2",
        "redis+cluster://localhost?db=1&client_name=hunter2",
        "redis+cluster://localhost/hunter2",
        "redis+cluster://localhost,localhost:hunter2",
        "redis+cluster://localhost?sentinel_password=hunter2",
        "redis+cluster://localhost?ssl_certfile=hunter2",
        "rediss+cluster://localhost?ssl_cert_reqs=hunter2",
        "unix+cluster://hunter2",
        "redis+sentinels://hunter2",
    ],
)
def test_malformed_urls_are_refused_without_repeating_any_of_their_text(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisBackend(url)
    assert "redis_url" in str(caught.value)
    for error in chain(caught.value):
        assert "hunter2" not in f"{error!r} {error} {error.__dict__}"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and all that led to it: also what a traceback would not print, since other tools may."""
    if error is not None:
        yield error
        yield from chain(error.__cause__)
        yield from chain(error.__context__)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("localhost:6379", "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster://"),
        ("redis://:a/b@localhost", "%2F"),
        ("redis://localhost:0", "6379"),
        ("redis://localhost/nodb", "/0"),
        ("redis://localhost?sock_timeout=1", "client_name, db, "),
        ("redis://localhost?ssl_certfile=a", "rediss://"),
        ("redis://localhost?socket_timeout=soon", "socket_timeout"),
        ("unix://", "unix:///path/to/redis.sock"),
        ("redis+sentinel://localhost", "redis+sentinel://host1,host2/service/0"),
        ("redis+sentinel://localhost,/shop", "redis+sentinel://host1:port1,host2:port2"),
        ("redis+sentinel://localhost/shop?ssl_certfile=a", "rediss+sentinel://"),
        ("redis+sentinel://localhost/shop?sentinel_pass=a", "sentinel_password, sentinel_username"),
        ("redis+sentinel://:a/b@localhost/shop", "%2F"),
        ("redis+cluster://localhost/1", "only number 0"),
        ("redis+cluster://localhost:", "redis+cluster://host1:port1,host2:port2"),
    ],
)
def test_the_message_says_what_to_write_instead(url: str, advice: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisBackend(url)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://localhost",
        "redis://user:p%2Fw@[::1]:6379/15",
        "redis://localhost?db=3&client_name=shop&protocol=3&decode_responses=true",
        "redis://localhost?socket_timeout=2&socket_connect_timeout=1&socket_keepalive=1&health_check_interval=30",
        "rediss://localhost/0?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem&ssl_check_hostname=false",
        "unix:///run/redis.sock?db=1",
        "unix://user:pw@/run/redis.sock",
        "unix://?path=/run/redis.sock",
        "redis+sentinel://localhost/shop",
        "redis+sentinel://localhost/shop/",
        "redis+sentinel://a,b:1,[::1]:2,[::1]/shop/15?sentinel_username=u&sentinel_password=p&client_name=c",
        "redis+sentinel://user:p%2Fw@a:1/sh%2Fop/0?db=3",
        "rediss+sentinel://a/shop?ssl_ca_certs=/ca.pem&ssl_check_hostname=false",
        "redis+cluster://localhost",
        "redis+cluster://localhost/",
        "redis+cluster://user:p%40w@a,b:7000,[::1]:7001/0?socket_keepalive=1&db=0",
        "rediss+cluster://a,b?ssl_certfile=a.pem&ssl_keyfile=b.pem",
    ],
)
def test_well_formed_urls_are_taken(url: str) -> None:
    RedisBackend(url)


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""},
        {"namespace": "a\nb"},
        {"namespace": "\x00"},
        {"namespace": "a\x7f"},
        {"namespace": "\x85"},
        {"namespace": "x" * 257},
        {"namespace": "\ud800"},
        {"pool_size": 0},
        {"max_connections": 0},
        {"wait_for_replicas": 0},
        {"wait_for_replicas": True},
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


@pytest.mark.parametrize("option", ["timeout", "connect_timeout", "max_load_time", "max_expire"])
def test_none_means_the_default(option: str) -> None:
    given: Any = {option: None}
    assert settings(RedisBackend(**given)) == settings(RedisBackend())
    with pytest.raises(ConfigurationError, match=rf"^{option} .*\(None\) for the default"):
        RedisBackend(**{**given, option: 0})
    other: Any = {option: "7s"}
    assert settings(RedisBackend(**other)) != settings(RedisBackend())
    assert "None" in str(inspect.signature(RedisBackend, eval_str=True).parameters[option].annotation)


def settings(backend: RedisBackend) -> Any:
    """What the four durations have become, in seconds or milliseconds."""
    store: Any = backend.engine_store()
    connection = store._link._target.maker.blocking()
    return (
        connection.socket_timeout,
        connection.socket_connect_timeout,
        store._layout.repair_fence("k", b"t")[0][-1],
        store.longest,
        store._link._silence,
    )


def test_the_defaults_are_those_that_the_documentation_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # tests are more patient
    assert settings(RedisBackend()) == (0.25, 1.0, 600_000, 30 * 86400.0, 0.25)


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@localhost", "redis://u@localhost", "redis://localhost?password=hunter2"]
)
def test_a_provider_of_credentials_beside_a_password_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="credential_provider is given; drop one"):
        RedisBackend(url, credential_provider=Provider("u", "p"))


def test_a_provider_of_credentials_beside_a_client_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a client brings its own"):
        RedisBackend(redis.Redis(), credential_provider=Provider("u", "p"))


@pytest.mark.parametrize("provider", ["hunter2", ("user", "hunter2"), lambda: "hunter2"])
def test_what_is_no_provider_of_credentials_is_refused(provider: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"credential_provider must be .* get_credentials\(\)$"):
        RedisBackend("redis://localhost", credential_provider=provider)


@pytest.mark.parametrize("options", [{"redis_url": 5}, {"namespace": b"x"}, {"pool_size": "10"}, {"pool_size": True}])
def test_wrong_types_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidTypeError):
        RedisBackend(**options)


@pytest.mark.parametrize("key", ["k" * 4097, "k" * (512 * 2**20 + 1)], ids=["4097 characters", "over 512 MiB"])
def test_a_key_that_is_too_long_is_refused_without_repeating_it(key: str) -> None:
    backend = RedisBackend("redis://localhost:1")  # nothing listens there: it is refused before
    for call in (backend.get, backend.delete, backend.has, lambda key: backend.set(key, 1)):
        with pytest.raises(ConfigurationError, match=f"at most 4096 characters, this one has {len(key)}$") as caught:
            call(key)
        assert "kk" not in str(caught.value)


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
