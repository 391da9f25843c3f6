"""Certificates of our own, and servers that speak TLS with them."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

import trustme

from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer, find_redis_server


class Certificates:
    """A certificate authority, and what it signed: a server at 127.0.0.1 and localhost, and a client.

    Args:
        directory: where the files are written: ``ca``, ``server`` and ``client``, each of the latter two with the
            certificate and its key in one file.
    """

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.ca = directory / "ca.pem"
        self.server = directory / "server.pem"
        self.client = directory / "client.pem"
        authority.cert_pem.write_to_path(self.ca)
        for path, issued in (
            (self.server, authority.issue_cert("127.0.0.1", "localhost")),
            (self.client, authority.issue_cert("client@example.org")),
        ):
            issued.private_key_and_cert_chain_pem.write_to_path(path)

    def server_arguments(self, port: int, *, mutual: bool) -> list[str]:
        """What makes a redis-server speak TLS at ``port``; with ``mutual`` only to clients with a certificate."""
        options = {
            "tls-port": port,
            "tls-cert-file": self.server,
            "tls-key-file": self.server,
            "tls-ca-cert-file": self.ca,
            "tls-auth-clients": "yes" if mutual else "no",
        }
        return [text for name, value in options.items() for text in (f"--{name}", str(value))]

    def server_context(self, *, mutual: bool) -> ssl.SSLContext:
        """The same for a server in Python."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.ca))
        context.load_cert_chain(self.server)
        context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
        return context

    def query(self, *, client: bool = False) -> str:
        """The query of a URL by which a client trusts the authority, and with ``client`` shows its certificate."""
        options = {"ssl_ca_certs": self.ca}
        if client:
            options |= {"ssl_certfile": self.client, "ssl_keyfile": self.client}
        return urlencode(options)


@cache
def speaks_tls() -> bool:
    """Whether the redis-server at hand was built with TLS."""
    # Without a port it ends by itself, once it has understood its command line or not.
    command = [find_redis_server(), "--port", "0", "--tls-port", "0", "--save", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return "Bad directive" not in done.stdout + done.stderr


class TLSServer:
    """A Redis that is reached by TLS at :attr:`port`; use :meth:`start`."""

    def __init__(self, server: RedisServer, port: int) -> None:
        self.server = server
        self.port = port

    @classmethod
    @contextlib.contextmanager
    def start(cls, certificates: Certificates, *, mutual: bool = False) -> Iterator[Self]:
        """Its own TLS where the binary has it, else a proxy of ours in front. Its plain port is open too."""
        if speaks_tls():
            with RedisServer(tls=partial(certificates.server_arguments, mutual=mutual)) as server:
                yield cls(server, server.tls_port)
        else:
            with RedisServer() as server, Proxy(server.port, tls=certificates.server_context(mutual=mutual)) as proxy:
                yield cls(server, proxy.port)
