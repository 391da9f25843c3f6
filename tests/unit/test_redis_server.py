"""The servers of tests: a port that another process takes first is no reason to fail."""

from __future__ import annotations

import socket
from functools import partial

import pytest

from tests.support.redis_server import RedisServer, free_port
from tests.support.tls import Certificates, speaks_tls


@pytest.mark.skipif(not speaks_tls(), reason="needs a redis-server with TLS")
def test_a_port_for_tls_that_is_taken_meanwhile_is_chosen_anew(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy: int = taken.getsockname()[1]
        ports = iter([free_port(), busy, free_port(), free_port()])
        tls = partial(certificates.server_arguments, mutual=True)
        with RedisServer(choose_port=lambda: next(ports), tls=tls) as server:
            assert busy not in (server.port, server.tls_port)
        assert next(ports, None) is None
