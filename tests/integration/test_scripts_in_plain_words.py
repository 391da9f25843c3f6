"""What a script does and what its procedure does: the same, of whatever lies there, and whoever comes in between."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final

import pytest
import redis
from redis.exceptions import ResponseError

from fast_cache.backends.redis import changes, layout, locks
from fast_cache.backends.redis.changes import Changes
from fast_cache.backends.redis.deadlines import Deadline
from fast_cache.backends.redis.layout import Layout, first_number
from fast_cache.backends.redis.resp import Command, Reply
from fast_cache.backends.redis.script import Script, Talk, carry_out
from fast_cache.ports import run_blocking
from fast_cache.serializers import codec_for, encode_stored
from tests.support.redis_server import RedisServer

LAYOUT: Final = Layout("plain", fence_ms=60_000, counter_ms=70_000, lease_ms=50_000)
CHANGES: Final = Changes(LAYOUT, 60_000, 30_000)

TOKEN, OTHER, THIRD = (bytes((number,)) * 15 + b"\xff" for number in (1, 2, 3))
TRACE: Final = OTHER[::-1]
MARK: Final = b"m" * 16
EPOCH: Final = b"\xfeepoch.."
FIRST: Final = first_number(EPOCH)
DIGESTS: Final = (b"digest.1", b"digest.2")
GENERATION: Final = b"g" * 16


def entry(value: object, generation: bytes = GENERATION, **options: Any) -> bytes:
    return encode_stored("k", value, codec_for(), 60, generation, **options)


LIKE: Final = entry(0)
FIVE: Final = entry(5)

State = tuple[object, int | None]
"""What lies under a name, and for how many milliseconds."""

NOTHING: Final[State] = (None, None)
RUBBISH: Final[Sequence[State]] = ((["a", "b"], None), ({"a"}, 40_000), (b"", 40_000), (b"rubbish", None))
FENCES: Final[Sequence[State]] = tuple(
    (fence, 40_000)
    for fence in (
        *(TOKEN, OTHER, OTHER + TOKEN, TOKEN + OTHER, OTHER + TOKEN + THIRD, TRACE, TRACE + TOKEN, TRACE + OTHER),
        *(MARK, OTHER + MARK, TOKEN + MARK, OTHER * 128, OTHER * 80 + TOKEN),
    )
)
COUNTS: Final[Sequence[State]] = tuple((b"%d" % count, 40_000) for count in (0, 1, 7, -5, 2**40, 2**63 - 1))
ENTRIES: Final[Sequence[State]] = (
    *((data, 40_000) for data in (FIVE, LIKE, entry(-3), entry(10**15 - 1), entry("text"), FIVE[:-1], FIVE[:40])),
    *((data, None) for data in (FIVE, entry(5, b"h" * 16), entry(5, stale=5), b"x" * 100)),
)
MEMORIES: Final[Sequence[State]] = (
    ([TOKEN, b"12"], 20_000),
    ([OTHER, b"3"], 20_000),
    ([THIRD, b"1"] * 70, 20_000),
)
LEASES: Final[Sequence[State]] = ((TOKEN, 40_000), (TOKEN, None), (OTHER, 40_000), (OTHER, None))
NUMBERS: Final[Sequence[State]] = tuple(
    (number, 40_000)
    for number in (
        *(FIRST, FIRST + b"digest.0" * 2, FIRST[:-1] + b"\x05", b"\xfdepoch.." + bytes(7) + b"\x09", FIRST + b"odd"),
        *(EPOCH + b"\xff" * 8, EPOCH + (2**52).to_bytes(8, "big"), FIRST + b"digest.0" * 1024, FIRST[:8]),
    )
)
LOCKS: Final[Sequence[State]] = tuple(
    (lock, left) for lock in (TOKEN + b"77", OTHER + b"88", TOKEN[:8]) for left in (40_000, None)
)
LASTS: Final[Sequence[State]] = tuple((last, 40_000) for last in (b"5", b"9" * 16, b"9" * 17, b"-1"))

BY_NAME: Final = {
    b"v": ENTRIES,
    b"f": FENCES,
    b"h": COUNTS,
    b"l": LEASES,
    b"w": (),
    b"n": MEMORIES,
    b"k": LOCKS,
    b"u": (),
    b"s": LASTS,
    b"t": NUMBERS,
    b"q": NUMBERS,
}
"""What may lie under the names, by the letter behind the namespace."""


def eval_of(script: str, names: Sequence[bytes], *arguments: bytes | int) -> Command:
    return ("EVAL", script, len(names), *names, *arguments)


LOCK, WAKE, LAST = LAYOUT.lock_keys("k")
MEMORY: Final = LAYOUT.changes_key("k")

COMMANDS: Final[dict[str, Command]] = {
    "write": LAYOUT.write("k", TOKEN, b"data", 9_000)[0],
    "put": LAYOUT.put("k", b"data", 9_000, Deadline(1_000))[0],
    "count": LAYOUT.count("k")[0],
    "take_lease": LAYOUT.take_lease("k", TOKEN)[0],
    "extend": LAYOUT.extend("k", TOKEN)[0],
    "release": LAYOUT.release("k", TOKEN)[0],
    "next_number": LAYOUT.next_number(DIGESTS, b"\xfcnewest.")[0],
    "set_tag": LAYOUT.set_tags([b"tag"], FIRST[:-1] + b"\x04")[0],
    "look": CHANGES.look("k", TOKEN)[0],
    "increment": CHANGES.increment("k", TOKEN, 3, LIKE)[0],
    "decrement": CHANGES.increment("k", TOKEN, -(10**15), LIKE)[0],
    "change": CHANGES.change("k", TOKEN, FIVE, b"new", 9_000, 12)[0],
    "change, and keep the lifetime": CHANGES.change("k", TOKEN, FIVE, b"new", None, 12)[0],
    "change of nothing": CHANGES.change("k", TOKEN, b"", b"new", 9_000, 1)[0],
    "renew": CHANGES.renew("k", TOKEN, FIVE, 9_000)[0],
    "renew nothing": CHANGES.renew("k", TOKEN, b"", 9_000)[0],
    "take a lock": eval_of(locks._TAKE, (LOCK, WAKE, LAST), TOKEN, 9_000, 80_000),
    "extend a lock": eval_of(locks._EXTEND, (LOCK,), TOKEN, 9_000),
    "release a lock": eval_of(locks._RELEASE, (LOCK, WAKE), TOKEN, 9_000),
}

_MOST: Final = 100
"""Worlds for each command, of all that there are: drawn in the same way each time."""


def names_of(command: Command) -> list[bytes]:
    count = command[2]
    assert isinstance(count, int)
    return [name for name in command[3 : 3 + count] if isinstance(name, bytes)]


def worlds(command: Command) -> list[dict[bytes, State]]:
    """What may lie there, under all the names of a command."""
    names = names_of(command)
    states = [(NOTHING, *RUBBISH, *BY_NAME[name.split(b":")[1]]) for name in names]
    every = [dict(zip(names, world, strict=True)) for world in itertools.product(*states)]
    return every if len(every) <= _MOST else Random(7).sample(every, _MOST)


class Ground:
    """One database, to try something in."""

    def __init__(self, server: RedisServer, number: int) -> None:
        self.client: Any = redis.Redis(host="127.0.0.1", port=server.port, db=number, protocol=2)
        self.client.response_callbacks.clear()
        make: Any = redis.Connection
        self.conversation = make(host="127.0.0.1", port=server.port, db=number, protocol=2)

    def close(self) -> None:
        self.client.close()
        self.conversation.disconnect()

    def become(self, world: dict[bytes, State]) -> None:
        """Hold that, and nothing else."""
        self.client.flushdb()
        for name, (value, left) in world.items():
            if isinstance(value, list):
                self.client.rpush(name, *value)
            elif isinstance(value, set):
                self.client.sadd(name, *value)
            elif value is not None:
                self.client.set(name, value)
            if left is not None:
                self.client.pexpire(name, left)

    def found(self) -> dict[bytes, object]:
        """All that is there, and for how long."""
        return {
            name: (self._value(name), rough(self.client.pttl(name)))
            for name in self.client.execute_command("KEYS", "*")
        }

    def _value(self, name: bytes) -> object:
        kind = self.client.type(name)
        if kind == b"stream":
            return [fields for _, fields in self.client.xrange(name)]
        if kind == b"set":
            return set(self.client.smembers(name))
        return self.client.get(name) if kind == b"string" else self.client.lrange(name, 0, -1)

    def by_script(self, command: Command) -> Reply:
        try:
            return self.client.execute_command(*(b"9" * 18 if type(word) is Deadline else word for word in command))
        except ResponseError as error:
            return error

    def in_plain_words(self, command: Command, meanwhile: Callable[[], object] = lambda: None) -> Reply:
        """The same by the procedure; ``meanwhile`` is done before anything is changed."""

        async def talk(commands: Sequence[Command], goes_on: bool) -> list[Reply]:
            if commands[-1] == ("EXEC",):
                meanwhile()
            connection = self.conversation
            connection.send_packed_command(connection.pack_commands(commands))
            replies: list[Reply] = []
            for _ in commands:
                try:
                    replies.append(connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    replies.append(error)
            return replies

        kept: Talk = talk
        return run_blocking(carry_out(kept, command))


@pytest.fixture
def grounds(redis_server: RedisServer) -> Iterator[tuple[Ground, Ground]]:
    redis_server.flush()
    with contextlib.closing(Ground(redis_server, 0)) as first, contextlib.closing(Ground(redis_server, 1)) as second:
        yield first, second


def rough(milliseconds: int) -> int:
    """A lifetime, of which some seconds may have passed."""
    return -(-milliseconds // 10_000)


def told(reply: Reply, command: Command) -> object:
    """What may be compared of a reply: not the server's time, and of an error only its kind."""
    if isinstance(reply, int) and command[1] in (layout._TAKE_LEASE, locks._TAKE):
        return rough(reply)
    if command[1] is layout._PUT_IN_TIME:
        return isinstance(reply, int) and reply > 0
    if isinstance(reply, Exception):
        return "WRONGTYPE" if "WRONGTYPE" in str(reply) else str(reply)
    if command[1] is locks._TAKE and isinstance(reply, bytes) and len(reply) == 16:
        return int(reply) > 10**15
    return reply


def compared(found: dict[bytes, Any]) -> dict[bytes, Any]:
    """Without the server's time, which stands in what is kept of a lock, and what is no memory of changes.

    That is removed by a script at once, and by a procedure when it changes something.
    """
    kept = {name: there for name, there in found.items() if name != MEMORY or isinstance(there[0], list)}
    for name in (LOCK, LAST):
        value, left = kept.get(name, (None, 0))
        if isinstance(value, bytes) and value[-16:].isdigit() and value[-16:] < b"9":
            kept[name] = (value[:-16], left)
    return kept


def test_every_script_is_here() -> None:
    modules = (layout, changes, locks)
    there = {thing for module in modules for thing in vars(module).values() if isinstance(thing, Script)}
    assert {command[1] for command in COMMANDS.values()} == there


@pytest.mark.parametrize("name", COMMANDS)
def test_a_procedure_does_what_its_script_does(name: str, grounds: tuple[Ground, Ground]) -> None:
    command = COMMANDS[name]
    scripted, plain = grounds
    replies = set()
    for world in worlds(command):
        scripted.become(world)
        plain.become(world)
        reply = told(scripted.by_script(command), command)
        assert told(plain.in_plain_words(command), command) == reply, world
        assert compared(plain.found()) == compared(scripted.found()), world
        replies.add(str(reply))
    assert len(replies) > 1 or name in ("put", "renew nothing")


@pytest.mark.parametrize("name", COMMANDS)
def test_what_others_do_before_the_change_is_what_decides(name: str, grounds: tuple[Ground, Ground]) -> None:
    """A delete that comes between the look and the change, or a load, or another value: as if it had come before."""
    command = COMMANDS[name]
    scripted, plain = grounds
    after = worlds(command)
    before = after.copy()
    Random(11).shuffle(before)
    decided_anew = 0
    for first, then in zip(before, after, strict=True):
        came: list[None] = []

        def others(then: dict[bytes, State] = then, came: list[None] = came) -> None:
            if not came:
                came.append(None)
                plain.become(then)

        plain.become(first)
        reply = told(plain.in_plain_words(command, others), command)
        scripted.become(then if came else first)
        assert reply == told(scripted.by_script(command), command), (first, then)
        assert compared(plain.found()) == compared(scripted.found()), (first, then)
        decided_anew += bool(came)
    assert decided_anew or name == "renew nothing"


def test_who_is_overtaken_all_the_time_gives_up_and_changes_nothing(grounds: tuple[Ground, Ground]) -> None:
    _, plain = grounds
    command = COMMANDS["write"]
    fence, value, _ = names_of(command)
    plain.become({fence: (TOKEN, 40_000)})
    times: list[None] = []

    def others() -> None:
        times.append(None)
        plain.client.set(fence, TOKEN, px=40_000)

    reply = plain.in_plain_words(command, others)
    assert str(reply).startswith("TRYAGAIN")
    assert len(times) == 64
    assert not plain.client.exists(value)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_server_that_forbids_transactions_is_changed_by_none(name: str, redis_server: RedisServer) -> None:
    redis_server.flush()
    redis_server.command("ACL", "SETUSER", "plain", "reset", "on", "nopass", "~*", "+@all", "-multi")
    with contextlib.closing(Ground(redis_server, 0)) as ground:
        ground.conversation.username = "plain"
        ground.conversation.disconnect()
        for world in worlds(COMMANDS[name])[:20]:
            ground.become(world)
            before = ground.found()
            reply = ground.in_plain_words(COMMANDS[name])
            assert isinstance(reply, ResponseError)
            after = ground.found()
            if name == "put":  # loads are fenced off, as if it had been put
                before.pop(LAYOUT.fence_key("k"), None)
                after.pop(LAYOUT.fence_key("k"), None)
            assert after == before
