"""Settings that only the server can tell to be wrong: calls succeed, and one warning names the setting."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.credentials import CredentialProvider

from fast_cache import RedisBackend
from fast_cache.errors import BackendUnavailable
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.deployments import NAMESPACE, Provider, add_user, ask, make_target, port_of
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import RedisSentinel, Sentinel
from tests.support.redis_server import RedisServer
from tests.support.tls import Certificates, TLSServer

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _everything_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A server with a password, and users who lack something."""
    with RedisServer(requirepass="right") as server:
        add_user(server, "scriptless", SECRET, "~*", "+@all", "-eval", "-watch")
        add_user(server, "unguarded", SECRET, "~*", "+@all", "-@scripting", "-multi")
        add_user(server, "keyless", SECRET, "~elsewhere:*", "+@all")
        add_user(server, "nameless", SECRET, "~*", "+@all", "-client")
        add_user(server, "unselecting", SECRET, "~*", "+@all", "-select")
        yield server


async def only_warning(flavour: Flavour, caplog: pytest.LogCaptureFixture, options: dict[str, Any]) -> str:
    """What the log says, once, when everything is done with a backend of ``options``, all without effect."""
    store = flavour.use(RedisBackend(**{"namespace": NAMESPACE, **options}))

    @store.cached(expire=60)
    async def load(item: int) -> int:
        return item * 2

    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            assert await flavour.call(load, 1) == 2
            assert not await flavour.call(load.invalidate, 1)
            await store.set("k", "v")
            assert await store.get("k", "absent") == "absent"
            assert not await store.has("k")
            assert not await store.delete("k")
            await store.clear()
    own = [record for record in caplog.records if record.name == "fast_cache"]
    for record in own:
        assert SECRET not in f"{record.getMessage()} {record.__dict__}"
        assert record.exc_info is None
    [warning] = [record.getMessage() for record in own if record.levelno >= logging.WARNING]
    assert "redis://" not in warning or "write it like redis://host" in warning
    assert "127.0.0.1" not in warning
    return warning


@pytest.mark.parametrize(
    ("who", "path", "said"),
    [
        (f":{SECRET}@", "", "redis_url: the server refuses the password or the user name"),
        (f"{SECRET}:right@", "", "redis_url: the server refuses the password or the user name"),
        (f"nobody:{SECRET}@", "", "redis_url: the server refuses the password or the user name"),
        ("", "", "redis_url: the server asks for a password, and none is given"),
        ("", "/1", "redis_url: the server asks for a password, and none is given"),
        (":right@", "/99", "redis_url: the server has no database of that number"),
        (f"scriptless:{SECRET}@", "", "redis_url: its user may not run EVAL; grant it with ACL SETUSER"),
        (f"unguarded:{SECRET}@", "", "redis_url: its user may not run EVALSHA; grant it with ACL SETUSER"),
        (f"keyless:{SECRET}@", "", "redis_url: its user may not touch the keys of this namespace"),
        (f"nameless:{SECRET}@", "?client_name=x", "redis_url: its user may not run CLIENT"),
        (f"unselecting:{SECRET}@", "/1", "redis_url: its user may not run SELECT"),
    ],
)
@in_both_flavours
async def test_a_user_or_a_database_that_the_server_refuses(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, guarded: RedisServer, who: str, path: str, said: str
) -> None:
    url = f"redis://{who}127.0.0.1:{guarded.port}{path}"
    assert said in await only_warning(flavour, caplog, {"redis_url": url})


@in_both_flavours
async def test_a_password_for_a_server_that_has_none(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, redis_server: RedisServer
) -> None:
    url = f"redis://:{SECRET}@127.0.0.1:{redis_server.port}"
    assert "redis_url: the server refuses the password" in await only_warning(flavour, caplog, {"redis_url": url})


@in_both_flavours
async def test_a_wrong_password_over_a_socket(flavour: Flavour, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(unix_socket=True, requirepass="right") as server:
        url = server.url.replace(":right@", f":{SECRET}@")
        assert "redis_url: the server refuses the password" in await only_warning(flavour, caplog, {"redis_url": url})


@in_both_flavours
async def test_a_wrong_password_of_a_client_of_the_users(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, guarded: RedisServer
) -> None:
    client = redis.Redis(host="127.0.0.1", port=guarded.port, password=SECRET)
    assert "client: the server refuses the password" in await only_warning(flavour, caplog, {"client": client})


class Failing(CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        raise LookupError(SECRET)


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        (Provider("nobody", SECRET), "credential_provider: the server refuses the password or the user name"),
        (Failing(), "credential_provider: it raised LookupError"),
    ],
)
@in_both_flavours
async def test_a_provider_of_credentials_that_gives_wrong_ones_or_none(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, guarded: RedisServer, provider: Any, said: str
) -> None:
    options = {"redis_url": f"redis://127.0.0.1:{guarded.port}", "credential_provider": provider}
    assert said in await only_warning(flavour, caplog, options)


@in_both_flavours
async def test_once_the_server_agrees_the_cache_works_without_a_restart(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, own_redis: RedisServer
) -> None:
    store = flavour.use(RedisBackend(f"redis://later:{SECRET}@127.0.0.1:{own_redis.port}", namespace=NAMESPACE))
    await store.set("k", "v")
    assert "redis_url: the server refuses" in caplog.text
    add_user(own_redis, "later", SECRET)

    async def works() -> bool:
        await store.set("k", "v")
        return bool(await store.get("k") == "v")

    await flavour.until(works, "the cache works")


@in_both_flavours
async def test_a_service_that_no_sentinel_knows(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, redis_sentinel: RedisSentinel
) -> None:
    url = redis_sentinel.url.replace("/shop/", f"/{SECRET}/")
    warning = await only_warning(flavour, caplog, {"redis_url": url})
    assert "redis_url: no Sentinel knows its service" in warning


@pytest.mark.parametrize(
    ("password", "said"), [(f"?sentinel_password={SECRET}", "refuses the password"), ("", "asks for a password")]
)
@in_both_flavours
async def test_a_password_that_sentinels_refuse(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, password: str, said: str
) -> None:
    with Sentinel(requirepass="right") as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/shop{password}"
        assert f"redis_url: a Sentinel {said}" in await only_warning(flavour, caplog, {"redis_url": url})


@in_both_flavours
async def test_a_password_that_the_master_refuses(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, redis_sentinel: RedisSentinel
) -> None:
    url = redis_sentinel.url.replace("://", f"://nobody:{SECRET}@")
    assert "redis_url: the server refuses the password" in await only_warning(flavour, caplog, {"redis_url": url})


@in_both_flavours
async def test_a_server_that_is_no_sentinel(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, redis_server: RedisServer
) -> None:
    url = f"redis+sentinel://127.0.0.1:{redis_server.port}/shop"
    warning = await only_warning(flavour, caplog, {"redis_url": url})
    assert "redis_url: what is named there is no Sentinel; Sentinels usually listen on 26379" in warning


@in_both_flavours
async def test_the_url_of_one_server_for_a_node_of_a_cluster(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, redis_cluster: RedisCluster
) -> None:
    away = next(node for node in redis_cluster.masters if node is not redis_cluster.serving(f"{NAMESPACE}:v:{{k}}"))
    warning = await only_warning(flavour, caplog, {"redis_url": away.url})
    assert "redis_url: the server is a node of a Redis Cluster; write it like redis+cluster://host:port" in warning


@in_both_flavours
async def test_a_database_of_a_node_of_a_cluster(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, redis_cluster: RedisCluster
) -> None:
    url = redis_cluster.nodes[0].url.removesuffix("/0") + "/1"
    warning = await only_warning(flavour, caplog, {"redis_url": url})
    assert "redis_url: the server is a node of a Redis Cluster" in warning


@in_both_flavours
async def test_the_url_of_a_cluster_for_one_server(flavour: Flavour, redis_server: RedisServer) -> None:
    target: Any = make_target(f"redis+cluster://127.0.0.1:{redis_server.port}")
    reply = await ask(port_of(flavour), target, "CLUSTER", "SLOTS")
    with pytest.raises(BackendUnavailable, match="no node of a Redis Cluster") as caught:
        target.read_slots(reply, ("127.0.0.1", redis_server.port))
    assert caught.value.setting == "redis_url"


@in_both_flavours
async def test_a_certificate_that_is_not_trusted(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, certificates: Certificates
) -> None:
    with TLSServer.start(certificates) as server:
        warning = await only_warning(flavour, caplog, {"redis_url": f"rediss://localhost:{server.port}"})
    assert "redis_url: the certificate of the server is not trusted; see ssl_ca_certs" in warning


@in_both_flavours
async def test_a_host_that_the_certificate_does_not_name(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, certificates: Certificates
) -> None:
    with TLSServer.start(certificates) as server:
        url = f"rediss://127.1:{server.port}?{certificates.query()}"  # another way to write the address
        warning = await only_warning(flavour, caplog, {"redis_url": url})
    assert "redis_url: the certificate of the server is not trusted; see ssl_ca_certs and ssl_check_hostname" in warning


@in_both_flavours
async def test_a_server_that_asks_for_a_certificate(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, certificates: Certificates
) -> None:
    with TLSServer.start(certificates, mutual=True) as server:
        url = f"rediss://localhost:{server.port}?{certificates.query()}"
        warning = await only_warning(flavour, caplog, {"redis_url": url})
    # With TLS 1.3 the server says so behind the handshake, and hangs up: what it said may be lost by then.
    assert "redis_url: TLS with the server fails (" in warning or "(ConnectionError)" in warning


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
@in_both_flavours
async def test_a_file_for_tls_that_is_not_there(
    flavour: Flavour, caplog: pytest.LogCaptureFixture, certificates: Certificates, tmp_path: Path, option: str
) -> None:
    with TLSServer.start(certificates) as server:
        files = {"ssl_certfile": certificates.client, "ssl_keyfile": certificates.client, option: tmp_path / SECRET}
        query = "&".join(f"{name}={path}" for name, path in files.items())
        warning = await only_warning(flavour, caplog, {"redis_url": f"rediss://localhost:{server.port}?{query}"})
    assert "redis_url: a file for TLS can't be read; see ssl_ca_certs, ssl_certfile and ssl_keyfile" in warning
