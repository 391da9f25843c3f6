"""The driver's connections: quiet, impatient, never retrying; opened in either flavour; and their errors translated.

Whatever goes wrong while connecting is :class:`BackendUnavailable`. Where a setting is to blame, the error names it and
says what is wrong in our own words, since those of the server or the driver may quote a password or an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import ssl
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

import redis.asyncio.connection
import redis.connection
from fast_cache.errors import BackendError, BackendUnavailable
from fast_cache.ports import BLOCKING, Port
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

P = ParamSpec("P")
T = TypeVar("T")

Address = tuple[str, int]
"""A host and a port."""

Reply = Any
"""Bytes, an integer, a list of such, ``None``, or the ``ResponseError`` that the server answered with."""

MODULES: Final = {"blocking": redis.connection, "suspending": redis.asyncio.connection}
"""Where the driver keeps its connections, by flavour."""

_FORBIDDEN_COMMAND: Final = re.compile(r"'([\w|.-]{1,40})' (?:sub)?command")
_UNKNOWN_COMMAND: Final = re.compile(r"unknown command [`'\"]?([\w|.-]{1,40})")


class Maker:
    """Makes connections of either flavour, to one server or to any one of several.

    Args:
        blocking, suspending: make connections that are not connected yet.
        setting: the option that says where and as whom to connect, for messages.
        server: what is connected to, in words.
    """

    def __init__(
        self,
        blocking: partial[Any],
        suspending: partial[Any],
        *,
        setting: str = "redis_url",
        server: str = "the server",
    ) -> None:
        self.blocking = blocking
        self.suspending = suspending
        self._setting = setting
        self._server = server

    def made(self, port: Port, address: Address | None = None, *, timeout: float | None = None) -> Any:
        """A connection that is not connected yet; see :meth:`open`."""
        changes: dict[str, Any] = {} if address is None else {"host": address[0], "port": address[1]}
        if timeout is not None:
            changes["socket_timeout"] = timeout
        return (self.blocking if port is BLOCKING else self.suspending)(**changes)

    async def open(self, port: Port, address: Address | None = None, *, timeout: float | None = None) -> Any:
        """A new connection that is authenticated and has its database selected.

        Args:
            address: where, if not where the settings say.
            timeout: how long the server may be silent (seconds), if not as long as the settings say.

        Raises:
            BackendUnavailable: it could not be had; the driver's error is the cause.
        """
        connection = self.made(port, address, timeout=timeout)
        try:
            await port.do(connection.connect, _heeding_cancellation(connection.connect))
        except BaseException as error:
            await discard(port, connection)
            if isinstance(error, Exception):
                raise self.unavailable(error) from error
            raise
        return connection

    async def ask(self, port: Port, connection: Any, *words: str | int) -> Reply:
        """The reply to one command, over a connection that is open and has no other under way.

        Raises:
            BackendUnavailable: there is none; the connection is of no use any more.
        """
        packed = connection.pack_command(*words)
        read = connection.read_response
        try:
            send = connection.send_packed_command
            await port.do(send, _heeding_cancellation(send), packed)
            return await port.do(read, read, disable_decoding=True, disconnect_on_error=False)
        except exceptions.ResponseError as error:
            return error
        except Exception as error:
            raise self.unavailable(error) from error

    def unavailable(self, error: Exception) -> BackendUnavailable:
        """What an error of the driver means. It is for the caller to make it the cause."""
        made = self.blocking.func
        said = blame(error, tls=isinstance(made, type) and issubclass(made, redis.connection.SSLConnection))
        if said is None:
            return BackendUnavailable("Redis can't be reached")
        keywords: Mapping[str, Any] = self.blocking.keywords
        provided = isinstance(error, exceptions.AuthenticationError) and keywords.get("credential_provider") is not None
        setting = "credential_provider" if provided or isinstance(error, ProviderFailed) else self._setting
        return BackendUnavailable(f"{setting}: {said.format(server=self._server)}", setting=setting)


class Credentials(CredentialProvider):
    """A user's provider of credentials: whatever it raises is known to be its own."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def get_credentials(self) -> Any:
        with _own_errors():
            return self._provider.get_credentials()

    async def get_credentials_async(self) -> Any:
        given = getattr(type(self._provider), "get_credentials_async", None)
        with _own_errors():
            if given is None or given is CredentialProvider.get_credentials_async:  # which complains on every call
                return self._provider.get_credentials()
            return await self._provider.get_credentials_async()


class ProviderFailed(Exception):
    """A provider of credentials raised the error that is the cause."""


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ProviderFailed from error


def blame(error: BaseException, *, tls: bool = False) -> str | None:
    """What is wrong with the settings, in words, if that is what an error of the driver or a reply says.

    ``{server}`` stands for what is connected to; ``tls``: whether that is done by TLS.
    """
    if isinstance(error.__cause__, exceptions.AuthenticationError):
        error = error.__cause__  # over a socket the driver hides it behind an error of the connection
    text = str(error)
    if isinstance(error, ProviderFailed):
        return f"it raised {type(error.__cause__).__name__}"
    # Errors of the driver have classes; those that a lane has read begin with the word that decides these.
    if isinstance(error, exceptions.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
        if "Authentication required" in text:
            return "{server} asks for a password, and none is given"
        return "{server} refuses the password or the user name"
    if _lacks_permission(error):
        command = _FORBIDDEN_COMMAND.search(text)
        what = f"run {command[1].upper()}" if command else "touch the keys of this namespace"
        return f"its user may not {what}; grant it with ACL SETUSER"
    if isinstance(error, exceptions.ResponseError):
        if "DB index is out of range" in text or "invalid DB index" in text:
            return "{server} has no database of that number"
        if "SELECT is not allowed in cluster mode" in text or is_redirect(error):
            return "{server} is a node of a Redis Cluster; write it like redis+cluster://host:port"
        if "cluster support disabled" in text:
            return "{server} is no node of a Redis Cluster; write it like redis://host:port"
        if "unknown command" in text and "SENTINEL" in text.upper():
            return "what is named there is no Sentinel; Sentinels usually listen on 26379"
        return None
    return _blame_tls(error, files=tls)


def forbids(reply: Reply, commands: Container[str]) -> bool:
    """Whether the server refuses one of ``commands`` to whoever asks: its user may not run it, or it has none such."""
    if not isinstance(reply, exceptions.ResponseError):
        return False
    told = (_FORBIDDEN_COMMAND if _lacks_permission(reply) else _UNKNOWN_COMMAND).search(str(reply))
    return told is not None and told[1].upper() in commands


def _lacks_permission(error: BaseException) -> bool:
    return isinstance(error, exceptions.NoPermissionError) or str(error).startswith("NOPERM")


def is_redirect(error: BaseException) -> bool:
    """Whether a node of a Cluster says that another one is to be asked."""
    # MovedError is an AskError. Some versions of the driver know neither outside of its own clients for a Cluster.
    return isinstance(error, exceptions.AskError) or str(error).startswith(("MOVED ", "ASK "))


def _blame_tls(error: BaseException, *, files: bool = False) -> str | None:
    """What is wrong with TLS, from the first error of the chain that says it; ``files``: it may be a file."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return "the certificate of {server} is not trusted; see ssl_ca_certs and ssl_check_hostname"
        if isinstance(seen, ssl.SSLError) and seen.reason:
            return f"TLS with {{server}} fails ({seen.reason}); see ssl_ca_certs, ssl_certfile and ssl_keyfile"
        if files and isinstance(seen, FileNotFoundError | PermissionError | IsADirectoryError):
            return "a file for TLS can't be read; see ssl_ca_certs, ssl_certfile and ssl_keyfile"
        seen = seen.__cause__ or seen.__context__
    return None


async def discard(port: Port, connection: Any) -> None:
    """Close without waiting. A connection that can't even be closed is of no interest any more."""
    with contextlib.suppress(Exception):
        if port is BLOCKING:
            connection.disconnect()
        else:
            writer = getattr(connection, "_writer", None)  # the driver offers no other way to the transport
            await connection.disconnect(nowait=True)
            if writer is not None:
                writer.transport.abort()  # TLS would go on saying goodbye, and outlive a loop that ends now


def no_retry(flavour: str) -> Any:
    """The driver's way to say that nothing is tried again."""
    return Retry(NoBackoff(), 0) if flavour == "blocking" else AsyncRetry(NoBackoff(), 0)


def parameters(connection_class: type) -> set[str]:
    """The options that a class of connections takes."""
    initialisers = [vars(base)["__init__"] for base in connection_class.__mro__ if "__init__" in vars(base)]
    return {name for initialiser in initialisers[:-1] for name in inspect.signature(initialiser).parameters}


def standard(flavour: str, class_name: str, kwargs: Mapping[str, Any]) -> partial[Any]:
    """Makes connections of the driver's own kind, not connected yet, with these options of the driver's."""
    connection_class = getattr(MODULES[flavour], class_name)
    ours = {"retry": no_retry(flavour), "encoding": "utf-8", **_quiet(connection_class)}
    return partial(connection_class, **{**kwargs, **ours})


def _quiet(connection_class: type) -> dict[str, Any]:
    """Options that keep a new connection from introducing itself: a round trip each, and forbidden on some servers."""
    known = parameters(connection_class)
    silent: dict[str, Any] = (
        {"driver_info": None} if "driver_info" in known else {"lib_name": None, "lib_version": None}
    )
    return {**silent, "protocol": 2}


def _heeding_cancellation(step: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Carry out ``step`` in the suspending flavour, and stay cancelled if that is what happened meanwhile.

    The driver sends under ``asyncio.wait_for``, which before Python 3.12 may swallow a cancellation.
    """

    async def carry_out(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task is not None else 0
        result = await step(*args, **kwargs)
        if task is not None and task.cancelling() > cancelled_before:
            raise asyncio.CancelledError
        return result

    return carry_out


def refused(reply: Reply, setting: str = "redis_url") -> BackendError:
    """A reply that is an error: full, read-only, forbidden. Its kind is told; the rest may quote us.

    Where the settings are to blame, ``setting`` is the one.
    """
    said = blame(reply) if isinstance(reply, Exception) else None
    if said is not None:
        error = BackendError(f"{setting}: {said.format(server='the server')}", setting=setting)
    else:
        kind = str(reply).split(" ", 1)[0][:40] if isinstance(reply, exceptions.ResponseError) else type(reply).__name__
        error = BackendError(f"Redis refused a command: {kind}")
    error.__cause__ = reply if isinstance(reply, Exception) else None
    return error
