"""A Redis of the few commands that the layout uses.

It reads what is sent over the wire and answers in the same way. A script is one command. It may be silent, may refuse
to change anything, and may forget a key; and another one may take its place, which lacks the last changes. It tells of
changes to names as one does that is asked to by ``CLIENT TRACKING ON BCAST``: of those of several commands at once, and
before anybody knows of their success.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, Protocol

from redis.exceptions import ResponseError

from fast_cache.backends.redis import layout
from fast_cache.backends.redis.layout import EPOCH_LENGTH, TOKEN_LENGTH
from fast_cache.backends.redis.resp import Command, Parser, Reply, digest_of
from fast_cache.serializers import name_digest
from tests.simulation.history import History
from tests.simulation.plan import TAGS
from tests.simulation.scheduler import Scheduler

_LISTED: Final = 3
"""How many of the tags that were invalidated last the server knows: fewer than a real one, so that it matters."""

_EPOCH: Final = b"\xfe"
"""What the first half of a numbered token begins with."""

_LAG: Final = 1.0
"""Seconds: what was changed longer ago, the next server has too."""

_READING: Final = ("GET", "MGET", "GETRANGE", "STRLEN", "PTTL", "XREAD", "INFO", "PING", "TIME")


_CLOCK: Final = 1_700_000_000
"""Seconds: by so much the clock of the first server is ahead of everybody's. No other one's agrees with it."""


class Follower(Protocol):
    """Somebody who is told of changes."""

    def tell(self, names: list[bytes] | None) -> None:
        """These were changed; ``None``: everything is gone."""


class Server:
    """The data, with lifetimes in whole milliseconds of the virtual clock."""

    def __init__(self, scheduler: Scheduler, history: History) -> None:
        self._scheduler = scheduler
        self._history = history
        self._data: dict[bytes, tuple[bytes, int | None]] = {}
        self._waiting: dict[bytes, list[Callable[[], None]]] = {}
        self._known: set[bytes] = set()
        """Scripts, by their digests."""
        self._changes: list[tuple[float, dict[bytes, tuple[bytes, int | None] | None]]] = []
        """What each command replaced."""
        self._replaced: dict[bytes, tuple[bytes, int | None] | None] = {}
        self.number = 1
        """Which server this is."""
        self.silent = False
        self.read_only = False
        self.followers: list[Follower] = []
        self._touched: dict[bytes, None] = {}
        self.executed = 0
        """How many commands have been carried out."""
        self._untold_since: int | None = None
        """At which of them began what nobody has been told of."""
        self._commands: dict[Any, Callable[..., Reply]] = {
            "APPEND": self._append,
            "INFO": self._info,
            "PING": lambda: b"PONG",
            "PUBLISH": lambda channel, message: 0,
            "TIME": lambda: [b"%d" % part for part in divmod(self._microseconds(), 1_000_000)],
            "GET": self._get,
            "MGET": self._mget,
            "GETRANGE": self._getrange,
            "STRLEN": lambda name: len(self._get(name) or b""),
            "SET": self._set,
            "DEL": self._del,
            "PTTL": self._pttl,
            "PEXPIRE": self._pexpire,
            "EVAL": self._eval,
            "EVALSHA": self._evalsha,
            "XREAD": self._xread,
        }
        self._scripts: dict[Any, Callable[..., Reply]] = {
            layout._WRITE_IF_FENCED: self._write_if_fenced,
            layout._PUT_IN_TIME: self._put_in_time,
            layout._TAKE_LEASE: self._take_lease,
            layout._EXTEND_LEASE: self._extend_lease,
            layout._RELEASE_LEASE: self._release_lease,
            layout._NEXT: self._next_number,
            layout._SET_TAG: self._set_tag,
        }

    def wait(self, name: bytes, woken: Callable[[], None]) -> None:
        """Call ``woken`` when something is added to the stream."""
        self._waiting.setdefault(name, []).append(woken)

    def execute(self, command: Command, sender: object) -> Reply:
        """Carry out one command; an error is a reply like any other."""
        name, *arguments = command
        self.executed += 1
        if name == "EVALSHA" and arguments[0] not in self._known:
            reply: Reply = ResponseError("NOSCRIPT No matching script. Please use EVAL.")
        elif self.read_only and name not in _READING:
            reply = ResponseError("READONLY You can't write against a read only replica.")
        else:
            reply = self._commands[name](*arguments)
            self._note()
        if self._history.told:
            self._history.tell(f"redis: {shown(command)} for {sender} -> {_brief(reply)}")
        return reply

    @property
    def changes(self) -> int:
        """How many commands have changed something, since the last server took over."""
        return len(self._changes)

    def fail_over(self, rng: Random) -> None:
        """Another server takes the place of this one. It knows no scripts, and not what was changed last."""
        lost = 0
        recent = sum(when > self._scheduler.now - _LAG for when, _ in self._changes)
        for _ in range(min(1 + rng.randrange(recent + 1), recent)):
            _, replaced = self._changes.pop()
            lost += 1
            for name, before in replaced.items():
                if before is None:
                    self._data.pop(name, None)
                else:
                    self._data[name] = before
        self._changes.clear()
        self._known.clear()
        self._waiting.clear()
        self._touched.clear()
        self._untold_since = None
        self.followers.clear()
        self.number += 1
        if self._history.told:
            self._history.tell(f"redis: server {self.number} takes over, and lacks the last {lost} changes")

    def names(self) -> list[bytes]:
        """What is there."""
        return [name for name in list(self._data) if self._get(name) is not None]

    def holds(self, name: bytes) -> bool:
        """Whether a key is there."""
        return self._get(name) is not None

    def forget(self, name: bytes) -> None:
        """Evict a key, as a full server does."""
        self._change(name, None)
        self._note()
        if self._history.told:
            self._history.tell(f"redis: {_brief(name)} is evicted")

    def flush(self) -> None:
        """Forget everything."""
        self._data.clear()
        if self._history.told:
            self._history.tell("redis: everything is flushed")
        for follower in self.followers:
            follower.tell(None)

    def tell(self) -> None:
        """Tell of what was changed, as the server does before it sends the replies."""
        names, self._untold_since = list(self._touched), None
        self._touched.clear()
        if names:
            for follower in self.followers:
                follower.tell(names)

    def has_untold(self, before: int) -> bool:
        """Whether it has yet to tell of what was changed by a command before that one."""
        return self._untold_since is not None and self._untold_since <= before

    def _touch(self, name: bytes) -> None:
        if self.followers:
            if self._untold_since is None:
                self._untold_since = self.executed
                self._scheduler.later(0.0, self.tell)
            self._touched[name] = None

    def _change(self, name: bytes, entry: tuple[bytes, int | None] | None) -> None:
        self._touch(name)
        self._replaced.setdefault(name, self._data.get(name))
        if entry is None:
            self._data.pop(name, None)
        else:
            self._data[name] = entry

    def _note(self) -> None:
        """A command has come to its end."""
        if self._replaced:
            self._changes.append((self._scheduler.now, self._replaced))
            self._replaced = {}

    @property
    def identity(self) -> bytes:
        """The line by which it is known."""
        return b"run_id:%d" % self.number

    def _info(self, _: bytes) -> bytes:
        return b"# Server\r\nredis_mode:standalone\r\n%b\r\n" % self.identity

    def _mget(self, *names: bytes) -> list[bytes | None]:
        return [self._get(name) for name in names]

    def _milliseconds(self) -> int:
        return int(self._scheduler.now * 1000)

    def _microseconds(self) -> int:
        """What the clock of this server shows: set back or forward, against that of the last one, by some seconds."""
        return int((_CLOCK + (-7.0) ** self.number + self._scheduler.now) * 1e6)

    def _get(self, name: bytes) -> bytes | None:
        found = self._data.get(name)
        if found is None:
            return None
        if found[1] is not None and self._milliseconds() > found[1]:
            del self._data[name]
            self._touch(name)
            self._lost(name)
            return None
        return found[0]

    def _getrange(self, name: bytes, first: bytes, last: bytes) -> bytes:
        value = self._get(name) or b""
        begin, end = (int(each) if int(each) >= 0 else max(0, len(value) + int(each)) for each in (first, last))
        return value[begin : end + 1]

    def _set(self, name: bytes, value: bytes, *options: Any) -> bytes | None:
        until: int | None = None
        if b"NX" in options and self._get(name) is not None:
            return None
        if b"PX" in options:
            until = self._milliseconds() + int(options[options.index(b"PX") + 1])
        if b"KEEPTTL" in options and self._get(name) is not None:
            until = self._data[name][1]
        self._change(name, (value, until))
        if b":v:" in name:
            self._history.stored(value, None if until is None else (until - self._milliseconds()) / 1000)
        return b"OK"

    def _del(self, *names: bytes) -> int:
        there = [name for name in names if self._get(name) is not None]
        for name in there:
            self._change(name, None)
            self._lost(name)
        return len(there)

    def _lost(self, name: bytes) -> None:
        """Whoever had a lease has it no longer: another may load beside it."""
        if b":l:" in name:
            self._history.disturb(None, name[name.index(b"{") + 1 : -1].decode())

    def _pttl(self, name: bytes) -> int:
        if self._get(name) is None:
            return -2
        until = self._data[name][1]
        return -1 if until is None else max(0, until - self._milliseconds())

    def _pexpire(self, name: bytes, milliseconds: bytes) -> int:
        value = self._get(name)
        if value is None:
            return 0
        self._change(name, (value, self._milliseconds() + int(milliseconds)))
        return 1

    def _xread(self, _: bytes, milliseconds: bytes, __: bytes, name: bytes, after: bytes) -> Reply:
        released = self._get(name)
        return None if released is None else [[name, [[b"1-0", [released, b"1"]]]]]

    def _eval(self, script: bytes, count: bytes, *rest: Any) -> Reply:
        self._known.add(digest_of(script.decode()))
        return self._scripts[script.decode()](*rest)

    def _evalsha(self, digest: bytes, count: bytes, *rest: Any) -> Reply:
        return self._scripts[_SCRIPTS[digest]](*rest)

    # The scripts, line by line.

    def _write_if_fenced(
        self, fence: bytes, name: bytes, counter: bytes, token: bytes, value: bytes, milliseconds: bytes
    ) -> int:
        if self._get(fence) != token:
            return 0
        self._set(name, value, b"PX", milliseconds)
        self._del(fence, counter)
        return 1

    def _append(self, name: bytes, more: bytes) -> int:
        there = self._get(name) or b""
        self._set(name, there + more, b"KEEPTTL")
        return len(there) + len(more)

    def _put_in_time(
        self, fence: bytes, name: bytes, counter: bytes, value: bytes, milliseconds: bytes, deadline: bytes
    ) -> int:
        now = self._microseconds()
        if now > int(deadline):
            return -now
        self._set(name, value, b"PX", milliseconds)
        self._del(fence, counter)
        return now

    def _take_lease(self, lease: bytes, wake: bytes, token: bytes, milliseconds: bytes) -> int:
        holder, left = self._get(lease), self._pttl(lease)
        if holder is not None and holder != token and left > 0:
            return left
        if holder is not None and holder != token:
            self._lost(lease)  # in the millisecond in which it ends
        self._set(lease, token, b"PX", milliseconds)
        self._del(wake)
        return 0

    def _extend_lease(self, lease: bytes, token: bytes, milliseconds: bytes) -> int:
        if self._get(lease) != token:
            return 0
        return self._pexpire(lease, milliseconds)

    def _release_lease(self, lease: bytes, wake: bytes, token: bytes, milliseconds: bytes) -> int:
        holder = self._get(lease)
        if holder is not None and holder != token:
            return 0
        self._change(lease, None)
        self._set(wake, b"released", b"PX", milliseconds)
        for woken in self._waiting.pop(wake, ()):
            self._scheduler.later(0.0, woken)
        return 1

    def _next_number(self, sequence: bytes, epoch: bytes, milliseconds: bytes, digests: bytes) -> bytes:
        last, number, recent = self._get(sequence), 0, b""
        if last is not None and len(last) >= TOKEN_LENGTH and len(last) % 8 == 0:
            epoch, recent = last[:EPOCH_LENGTH], last[TOKEN_LENGTH:]
            number = int.from_bytes(last[EPOCH_LENGTH:TOKEN_LENGTH], "big")
        token = epoch + (number + len(digests) // 8).to_bytes(TOKEN_LENGTH - EPOCH_LENGTH, "big")
        self._set(sequence, token + (recent + digests)[-8 * _LISTED :], b"PX", milliseconds)
        return token

    def _set_tag(self, name: bytes, token: bytes, milliseconds: bytes, soft: bytes) -> int:
        there, stored = self._get(name) or b"", 1
        if there[:EPOCH_LENGTH] == token[:EPOCH_LENGTH] and there[:TOKEN_LENGTH] > token:
            token, stored = there[:TOKEN_LENGTH], 0
        former = b""
        if soft == b"1":
            former = there[TOKEN_LENGTH if token == there[:TOKEN_LENGTH] else 0 :][: 8 * TOKEN_LENGTH]
        self._set(name, token + former, b"PX", milliseconds)
        return stored


def read_commands(data: bytes) -> list[Command]:
    """What was sent."""
    parser = Parser()
    parser.feed(data)
    return [(name.decode(), *words) for name, *words in parser.take()]


def written(reply: Reply) -> bytes:
    """A reply as it is sent."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, ResponseError):
        return b"-%b\r\n" % str(reply).encode()
    return b"*%d\r\n%b" % (len(reply), b"".join(map(written, reply)))


class Tokens:
    """Tokens that are told apart at a glance, and never lie across the border of two."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> bytes:
        self._count += 1
        return (b"T%d" % self._count).ljust(TOKEN_LENGTH - 1, b".") + b"\xff"

    def epoch(self) -> bytes:
        """The first half of the tokens that are numbered."""
        self._count += 1
        return (_EPOCH + b"%d" % self._count).ljust(EPOCH_LENGTH, b".")

    def plain(self, length: int) -> bytes:
        """Stands in for ``secrets.token_bytes``."""
        self._count += 1
        return (b"t%d" % self._count).ljust(length, b".")


_SCRIPT_NAMES: Final[dict[str, str]] = {
    layout._WRITE_IF_FENCED: "WRITE-IF-FENCED",
    layout._PUT_IN_TIME: "PUT-IN-TIME",
    layout._TAKE_LEASE: "TAKE-LEASE",
    layout._EXTEND_LEASE: "EXTEND-LEASE",
    layout._RELEASE_LEASE: "RELEASE-LEASE",
    layout._NEXT: "NEXT",
    layout._SET_TAG: "SET-TAG",
}

_SCRIPTS: Final = {digest_of(text): text for text in _SCRIPT_NAMES}

_TAG_NAMES: Final = {name_digest(tag): tag for tag in TAGS}


def _tag(digest: bytes) -> str:
    return f"<{_TAG_NAMES[digest]}>"


def shown(command: Command) -> str:
    """A command, for people to read."""
    words = list(command)
    if words[0] == "EVALSHA":
        words[:3] = [_SCRIPT_NAMES[_SCRIPTS[bytes(words[1])]]]  # type: ignore[arg-type]  # it is bytes
    elif words[0] == "EVAL":
        words[:3] = [_SCRIPT_NAMES[bytes(words[1]).decode()] + " in full"]  # type: ignore[arg-type]
    return "(" + " ".join(_brief(word) for word in words) + ")"


def _brief(value: Any) -> str:
    if isinstance(value, bytes):
        if value.startswith(b"FC"):
            return f"<entry {value[49 + 24 * value[48] : -4].decode()}>"
        if value[:1] == _EPOCH:
            epoch = value[1:EPOCH_LENGTH].decode().rstrip(".")
            number, listed = value[EPOCH_LENGTH:TOKEN_LENGTH], value[TOKEN_LENGTH:]
            tags = ", ".join(_tag(listed[at : at + 8]) for at in range(0, len(listed), 8))
            return f"E{epoch}" + f"/{int.from_bytes(number, 'big')}" * bool(number) + f" {tags}" * bool(tags)
        names = [value[at : at + 8] for at in range(0, len(value), 8)]
        if value and all(name in _TAG_NAMES for name in names):
            return ", ".join(map(_tag, names))
        if b":t:" in value:
            prefix, digest = value.decode().split(":t:")
            return f"{prefix}:t:{_tag(bytes.fromhex(digest))}"
        return value.decode("ascii", "replace").replace(".", "")
    if isinstance(value, list):
        return "[" + " ".join(map(_brief, value)) + "]"
    return "nil" if value is None else str(value)
