"""Lanes of tasks and of threads, against a server of which the test decides what it says and when."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import ResponseError

from fast_cache import RedisBackend
from fast_cache.backends.redis.deadlines import Dated, Deadline, ServerClock, time_left
from fast_cache.backends.redis.deployment import Target
from fast_cache.backends.redis.lane import Connected, TaskLane, ThreadLane, ThreadWire
from fast_cache.backends.redis.large import LargeKeys
from fast_cache.backends.redis.resp import Parser, Renewed, Reply
from fast_cache.backends.redis.target import target_of
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import BLOCKING, Port, run_blocking
from tests.support.redis_server import RedisServer

PATIENCE = 20.0
"""Seconds until a test that waits for something has failed."""

LONG = 60.0
"""Seconds of silence that no test lasts."""


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)  # between two looks


class HangUp(Exception):
    """The server closes the connection."""


Words = list[bytes]


class Peer:
    """A server that repeats the names it is asked for, unless ``answer`` says something else.

    What it hears it notes as batches: the number of the connection, and the commands that came at once.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[Words]]] = []
        self.closed: list[int] = []
        """Connections that the client has closed."""
        self.through = threading.Event()
        self.through.set()
        self.answer: Callable[[int, list[Words]], bytes | list[bytes]] = lambda _, commands: echo(commands)
        self.gap = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        """How many were made."""
        return len(self._sockets)

    def hang_up(self) -> None:
        """Close the connection that was made last."""
        self._sockets[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.through.set()
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                threading.Thread(target=self._serve, args=(near, len(self._sockets)), daemon=True).start()

    def _serve(self, near: socket.socket, number: int) -> None:
        parser = Parser()
        with near, contextlib.suppress(OSError, HangUp):
            while data := near.recv(65536):
                parser.feed(data)
                if parser.begun:
                    continue
                commands = parser.take()
                self.batches.append((number, commands))
                said = self.answer(number, commands)
                assert self.through.wait(PATIENCE)
                for piece in [said] if isinstance(said, bytes) else said:
                    near.sendall(piece)
                    time.sleep(self.gap)
            self.closed.append(number)


def echo(commands: list[Words]) -> bytes:
    said = b""
    for name, *words in commands:
        texts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        said += b"*%d\r\n%b" % (len(words), b"".join(texts)) if name == b"MGET" else texts[0]
    return said


def hangs_up(_: int, __: list[Words]) -> bytes:
    raise HangUp


class Watch:
    """Who is told of losses."""

    def __init__(self) -> None:
        self.epoch = 7
        self.is_away = False
        self.losses: list[int] = []

    def away(self) -> bool:
        return self.is_away

    def lost(self, epoch: int) -> None:
        self.losses.append(epoch)

    def useless(self, replies: Sequence[Reply]) -> bool:
        return any(str(reply).startswith("LOADING") for reply in replies if isinstance(reply, ResponseError))


Connect = Callable[[Port], Any]


class Tasks:
    """A lane of an event loop, which runs in a thread of its own."""

    def __init__(self) -> None:
        self.guard = Watch()
        self.loop = asyncio.new_event_loop()
        self.troubles: list[Any] = []
        self.loop.set_exception_handler(lambda _, trouble: self.troubles.append(trouble))
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.lane: Any = None

    def open(self, connect: Connect, *, silence: float = LONG, large: LargeKeys | None = None) -> None:
        self.lane = TaskLane(self.loop, connect, self.guard, large or LargeKeys(), silence=silence)

    def start(self, *packet: Any, dated: bool = False) -> Future[list[Reply]]:
        async def call() -> list[Reply]:
            replies: list[Reply] = await self.lane.exchange(Dated(packet) if dated else packet)
            return replies

        return asyncio.run_coroutine_threadsafe(call(), self.loop)

    def do(self, step: Callable[..., object], **options: Any) -> None:
        """Carry out ``step`` where the lane lives."""

        async def call() -> None:
            step(**options)

        asyncio.run_coroutine_threadsafe(call(), self.loop).result(PATIENCE)

    def end(self) -> None:
        self.do(lambda: self.lane.close(at_once=True))
        self.do(lambda: None)  # in which the loop lets go of the transport
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()
        assert self.troubles == []


class Threads:
    """The lane of all threads."""

    def __init__(self) -> None:
        self.guard = Watch()
        self._pool = ThreadPoolExecutor(50)
        self.lane: Any = None

    def open(self, connect: Connect, *, silence: float = LONG, large: LargeKeys | None = None) -> None:
        self.lane = ThreadLane(connect, self.guard, large or LargeKeys(), silence=silence)

    def start(self, *packet: Any, dated: bool = False) -> Future[list[Reply]]:
        return self._pool.submit(self.lane.exchange, Dated(packet) if dated else packet)

    def do(self, step: Callable[..., object], **options: Any) -> None:
        step(**options)

    def end(self) -> None:
        self.lane.close()
        self._pool.shutdown()


Run = Tasks | Threads


@pytest.fixture(params=[Tasks, Threads], ids=["tasks", "threads"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    made: Run = request.param()
    yield made
    made.end()


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    made = Tasks()
    yield made
    made.end()


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads()
    yield made
    made.end()


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def target(url: str) -> Target:
    return target_of(url, timeout=PATIENCE, connect_timeout=PATIENCE)


def connect_to(peer: Peer) -> Connect:
    return connecting(peer.url)


def connecting(url: str) -> Connect:
    """Connects as a lane wants it."""
    connect = target(url).connect

    async def connected(port: Port) -> Connected:
        return Connected(await connect(port), ServerClock())

    return connected


def get(name: str) -> tuple[str, bytes]:
    return ("GET", name.encode())


def held_with_followers(run: Run, peer: Peer, *names: str) -> tuple[Future[list[Reply]], list[Future[list[Reply]]]]:
    """One batch that the server does not answer yet, and what gathered behind it."""
    peer.through.clear()
    before = len(peer.batches)
    first = run.start(get("first"))
    until(lambda: len(peer.batches) > before, "a batch is on its way")
    followers = []
    for count, name in enumerate(names, 1):
        followers.append(run.start(get(name)))
        until(lambda count=count: len(run.lane._queue) == count, f"{name} is in the queue")  # type: ignore[misc]
    return first, followers


def lost(future: Future[list[Reply]]) -> BackendUnavailable:
    with pytest.raises(BackendUnavailable) as caught:
        future.result(PATIENCE)
    return caught.value


def test_who_comes_while_a_batch_is_on_its_way_travels_with_the_others(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    first, followers = held_with_followers(run, peer, "a", "b", "a", "c")
    peer.through.set()
    assert first.result(PATIENCE) == [b"first"]
    assert [follower.result(PATIENCE) for follower in followers] == [[b"a"], [b"b"], [b"a"], [b"c"]]
    assert peer.batches == [(1, [[b"MGET", b"first"]]), (1, [[b"MGET", b"a", b"b", b"c"]])]
    until(lambda: run.lane.idle, "nobody waits")
    assert run.lane.is_open


def test_a_caller_who_is_cancelled_leaves_the_others_their_replies(tasks: Tasks, peer: Peer) -> None:
    tasks.open(connect_to(peer))
    first, followers = held_with_followers(tasks, peer, "a", "b", "c")
    first.cancel()
    followers[1].cancel()
    tasks.do(lambda: None)
    assert not tasks.lane.idle, "the answer is yet to come"
    peer.through.set()
    assert [followers[index].result(PATIENCE) for index in (0, 2)] == [[b"a"], [b"c"]]
    for cancelled in (first, followers[1]):
        with pytest.raises(CancelledError):
            cancelled.result(PATIENCE)
    assert tasks.start(get("d")).result(PATIENCE) == [b"d"]
    asked = [commands for _, commands in peer.batches]
    assert asked == [[[b"MGET", b"first"]], [[b"MGET", b"a", b"c"]], [[b"MGET", b"d"]]]
    assert peer.connections == 1
    assert tasks.guard.losses == []


def test_a_connection_that_nobody_waits_for_any_more_is_not_made_to_the_end_when_the_lane_is_closed(
    tasks: Tasks,
) -> None:
    begun = threading.Event()

    async def connect(_: Any) -> Any:
        begun.set()
        await asyncio.sleep(LONG)

    tasks.open(connect)
    caller = tasks.start(("GET", "k"))
    assert begun.wait(PATIENCE)
    caller.cancel()
    leaving: list[asyncio.Task[None]] = []

    async def close() -> None:
        await asyncio.sleep(0)
        tasks.lane.close()
        assert tasks.lane.leaving is not None
        leaving.append(tasks.lane.leaving)
        await asyncio.wait(leaving)

    asyncio.run_coroutine_threadsafe(close(), tasks.loop).result(PATIENCE)
    assert leaving[0].cancelled()
    assert tasks.lane.leaving is None


def test_nobody_is_left_who_would_be_sent_for(tasks: Tasks, peer: Peer) -> None:
    tasks.open(connect_to(peer))
    first, followers = held_with_followers(tasks, peer, "a", "b")
    for follower in followers:
        follower.cancel()
    peer.through.set()
    assert first.result(PATIENCE) == [b"first"]
    until(lambda: tasks.lane.idle, "nobody waits")
    assert len(peer.batches) == 1
    assert tasks.start(get("c")).result(PATIENCE) == [b"c"]


def test_silence_is_a_loss_for_all_who_wait_and_what_is_said_later_reaches_nobody(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer), silence=0.6)
    first, followers = held_with_followers(run, peer, "a", "b")
    errors = [lost(first)]
    if isinstance(run, Threads):
        peer.through.set()  # those behind are sent anew, since nobody says here that the server is away
        assert [follower.result(PATIENCE) for follower in followers] == [[b"a"], [b"b"]]
    else:
        errors += map(lost, followers)
    assert len({id(error) for error in errors}) == len(errors), "tracebacks grow: each has an error of its own"
    assert run.guard.losses == [7]
    peer.through.set()
    assert run.start(get("c")).result(PATIENCE) == [b"c"]
    assert peer.connections == 2
    assert run.guard.losses == [7]


def test_who_waits_behind_what_was_lost_fails_at_once_where_the_server_is_away(threads: Threads, peer: Peer) -> None:
    threads.open(connect_to(peer), silence=0.4)
    first, followers = held_with_followers(threads, peer, "a", "b")
    threads.guard.is_away = True
    assert "did not answer" in str(lost(first))
    assert ["away" in str(lost(follower)) for follower in followers] == [True, True]
    assert len(peer.batches) == 1


def test_nothing_is_sent_while_the_server_is_away(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    run.guard.is_away = True
    assert "away" in str(lost(run.start(get("a"))))
    assert peer.connections == 0
    assert run.lane.idle
    run.guard.is_away = False
    assert run.start(get("a")).result(PATIENCE) == [b"a"]


def test_a_server_that_goes_on_speaking_is_not_silent_however_long_it_takes(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer), silence=1.0)
    peer.answer = lambda _, commands: [bytes([byte]) for byte in echo(commands)[:4]] + [echo(commands)[4:]]
    peer.gap = 0.4
    began = time.monotonic()
    assert run.start(get("a")).result(PATIENCE) == [b"a"]
    assert time.monotonic() - began > 1.0
    assert run.guard.losses == []


def test_a_connection_that_was_closed_in_between_is_made_anew(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    assert run.start(get("a")).result(PATIENCE) == [b"a"]
    peer.hang_up()
    assert run.start(get("b")).result(PATIENCE) == [b"b"]
    assert peer.connections == 2
    assert run.guard.losses == []


def test_a_batch_is_sent_over_one_more_connection_and_no_third(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    assert run.start(get("a")).result(PATIENCE) == [b"a"]
    peer.answer = hangs_up
    lost(run.start(get("b")))
    assert peer.batches[1:] == [(1, [[b"MGET", b"b"]]), (2, [[b"MGET", b"b"]])]
    assert run.guard.losses == [7]


def test_a_word_that_must_not_come_twice_is_another_one_when_it_is_sent_again(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    assert run.start(get("a")).result(PATIENCE) == [b"a"]
    peer.answer = hangs_up
    names = iter([b"first", b"second", b"third"])
    lost(run.start(("SET", b"k", Renewed(lambda: next(names)))))
    assert [commands for _, commands in peer.batches[1:]] == [[[b"SET", b"k", b"first"]], [[b"SET", b"k", b"second"]]]


def test_a_batch_that_was_half_answered_is_not_sent_again(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    assert run.start(get("a")).result(PATIENCE) == [b"a"]

    def half(_: int, commands: list[Words]) -> bytes:
        peer._sockets[-1].sendall(echo(commands)[:-3])
        raise HangUp

    peer.answer = half
    lost(run.start(get("b")))
    assert len(peer.batches) == 2
    peer.answer = lambda _, commands: echo(commands)
    assert run.start(get("c")).result(PATIENCE) == [b"c"]


@pytest.mark.parametrize(
    "rubbish",
    [
        *(b"!\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$x\r\n", b"_\r\n", b"+OK\r\n", b":1\r\n", b"$2\r\nab\r\n"),
        *(
            b"*1\r\n$1\r\na\r\n",
            b"*-1\r\n",
            b"*3\r\n:1\r\n:2\r\n:3\r\n",
            b"*2\r\n:1\r\n:2\r\n+OK\r\n",
            b"*1\r\n" * 5000,
        ),
    ],
)
def test_rubbish_is_a_loss_and_the_next_connection_is_clean(run: Run, peer: Peer, rubbish: bytes) -> None:
    run.open(connect_to(peer), silence=0.5)
    peer.answer = lambda number, commands: rubbish if number == 1 else echo(commands)
    lost(run.start(get("a"), get("b")))
    assert run.guard.losses == [7]
    assert run.start(get("a"), get("b")).result(PATIENCE) == [b"a", b"b"]
    assert peer.connections == 2


def test_what_has_a_deadline_is_sent_again_when_that_has_passed(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    assert run.start(get("a")).result(PATIENCE) == [b"a"]
    deadline = Deadline(0.2)
    untils: list[float] = []

    def answer(number: int, commands: list[Words]) -> bytes:
        untils.append(deadline.until)
        if number == 1:
            raise HangUp
        assert time.monotonic() >= untils[0], "until then the first one may yet be carried out"
        return echo(commands)

    peer.answer = answer
    assert run.start(("SET", b"k", deadline), dated=True).result(PATIENCE) == [b"k"]
    assert len(untils) == 2
    assert run.guard.losses == []


def test_who_has_a_deadline_and_gets_no_answer_waits_until_it_has_passed(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    deadline = Deadline(0.2)
    peer.answer = hangs_up
    lost(run.start(("SET", b"k", deadline), dated=True))
    assert 0 < deadline.until <= time.monotonic()
    assert time_left([("SET", b"k", deadline)]) == 0
    assert len(peer.batches) == 1


def test_what_nobody_asked_for_ends_the_connection(tasks: Tasks, peer: Peer) -> None:
    tasks.open(connect_to(peer))
    assert tasks.start(get("a")).result(PATIENCE) == [b"a"]
    peer._sockets[0].sendall(b"+surprise\r\n")
    until(lambda: peer.closed == [1], "the connection is closed")
    assert tasks.start(get("b")).result(PATIENCE) == [b"b"]
    assert tasks.guard.losses == [], "nobody waited"


def test_nobody_listens_where_the_server_should_be(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    run.open(connecting(url))
    lost(run.start(get("a")))
    assert run.guard.losses == [7]
    assert run.lane.idle
    assert not run.lane.is_open


def test_a_connection_that_is_closed_before_it_is_used_is_a_loss(tasks: Tasks, peer: Peer) -> None:
    made: list[Any] = []

    async def connect(port: Port) -> Any:
        connected = await connect_to(peer)(port)
        if not made:
            connected.connection._writer.transport.abort()
            for _ in range(3):
                await asyncio.sleep(0)  # in which the driver hears of it
        made.append(connected)
        return connected

    tasks.open(connect)
    lost(tasks.start(get("a")))
    assert tasks.guard.losses == [7]
    assert tasks.start(get("a")).result(PATIENCE) == [b"a"]


def test_a_defect_of_ours_is_no_loss_and_ends_nothing(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    with pytest.raises(UnicodeEncodeError):
        run.start(("GET", "\ud800")).result(PATIENCE)
    assert run.start(get("a")).result(PATIENCE) == [b"a"]
    assert run.guard.losses == []
    assert peer.connections <= 2

    async def connect(_: Port) -> Any:
        raise ZeroDivisionError

    run.end()
    run.__init__()  # type: ignore[misc]
    run.open(connect)
    with pytest.raises(ZeroDivisionError):
        run.start(get("a")).result(PATIENCE)
    assert run.guard.losses == []
    assert run.lane.idle


SCRIPT = "return redis.call('INCR', KEYS[1])"


def test_a_script_that_the_server_forgot_is_sent_in_full_and_nothing_before_it_is_repeated(
    run: Run, own_redis: RedisServer
) -> None:
    run.open(connecting(own_redis.url))
    packet = [("INCR", "plain"), ("EVAL", SCRIPT, 1, "scripted"), ("GET", "plain"), ("GET", "scripted")]
    assert run.start(*packet).result(PATIENCE) == [1, 1, b"1", b"1"]
    assert run.start(*packet).result(PATIENCE) == [2, 2, b"2", b"2"]
    with contextlib.closing(own_redis.client()) as admin:
        admin.script_flush()
    assert run.start(*packet).result(PATIENCE) == [3, 3, b"3", b"3"]
    assert run.guard.losses == []


def test_who_needs_no_script_does_not_wait_for_who_does(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    first, _ = held_with_followers(run, peer)

    def answer(_: int, commands: list[Words]) -> bytes:
        scripts = {b"EVALSHA": b"-NOSCRIPT No matching script.\r\n", b"EVAL": b":5\r\n"}
        return b"".join(scripts.get(command[0]) or echo([command]) for command in commands)

    peer.answer = answer
    scripted = run.start(("EVAL", SCRIPT, 1, b"k"), get("behind"))
    until(lambda: len(run.lane._queue) == 1, "one waits")
    plain = run.start(("ECHO", b"plain"))
    until(lambda: len(run.lane._queue) == 2, "two wait")
    peer.through.set()
    assert first.result(PATIENCE) == [b"first"]
    assert plain.result(PATIENCE) == [b"plain"]
    assert scripted.result(PATIENCE) == [5, b"behind"]
    names = [[command[0] for command in commands] for _, commands in peer.batches]
    assert names == [[b"MGET"], [b"EVALSHA", b"ECHO", b"MGET"], [b"EVAL", b"MGET"]]


def test_a_server_that_never_knows_a_script_is_asked_twice(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    peer.answer = lambda _, commands: b"-NOSCRIPT No matching script.\r\n" * len(commands)
    (reply,) = run.start(("EVAL", SCRIPT, 1, b"k")).result(PATIENCE)
    assert str(reply).startswith("NOSCRIPT")
    assert len(peer.batches) == 2


def test_a_server_that_does_not_let_us_read_several_at_once_is_asked_for_one_after_the_other(
    run: Run, own_redis: RedisServer
) -> None:
    with contextlib.closing(own_redis.client()) as admin:
        admin.set("a", "1")
        admin.acl_setuser(
            "ours", enabled=True, passwords=["+secret"], categories=["+@all"], commands=["-mget"], keys=["*"]
        )
        run.open(connecting(own_redis.url.replace("redis://", "redis://ours:secret@")))
        for _ in range(3):
            assert run.start(("INCR", b"n"), get("a"), get("b")).result(PATIENCE)[1:] == [b"1", None]
        stats: Any = admin.info("commandstats")
        assert stats["cmdstat_mget"]["rejected_calls"] == 1
        assert run.guard.losses == []


def test_a_lane_that_is_closed_while_it_is_busy_answers_first(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    first, followers = held_with_followers(run, peer, "a")
    run.do(run.lane.close)
    assert peer.closed == []
    peer.through.set()
    assert [first.result(PATIENCE), followers[0].result(PATIENCE)] == [[b"first"], [b"a"]]
    until(lambda: peer.closed == [1], "the connection is closed")
    assert not run.lane.is_open
    assert run.start(get("b")).result(PATIENCE) == [b"b"]
    until(lambda: peer.closed == [1, 2], "whoever comes later leaves nothing open either")


def test_a_lane_that_is_closed_at_once_leaves_nobody_waiting(tasks: Tasks, peer: Peer) -> None:
    tasks.open(connect_to(peer))
    first, followers = held_with_followers(tasks, peer, "a")
    tasks.do(tasks.lane.close, at_once=True)
    for caller in (first, *followers):
        lost(caller)
    assert not tasks.lane.is_open
    assert tasks.guard.losses == [], "it is not the server's fault"
    peer.through.set()
    until(lambda: peer.closed == [1], "the connection is closed")


def test_a_lane_that_is_closed_at_once_while_it_connects_leaves_nobody_waiting(tasks: Tasks, peer: Peer) -> None:
    begun = threading.Event()

    async def connect(port: Port) -> Any:
        begun.set()
        await asyncio.Event().wait()

    tasks.open(connect)
    caller = tasks.start(get("a"))
    assert begun.wait(PATIENCE)
    assert tasks.lane.is_open
    tasks.do(tasks.lane.close, at_once=True)
    lost(caller)
    until(lambda: not tasks.lane.is_open, "nothing is being made any more")


def test_a_lane_that_is_idle_is_closed_at_once(run: Run, peer: Peer) -> None:
    run.open(connect_to(peer))
    assert run.start(get("a")).result(PATIENCE) == [b"a"]
    until(lambda: run.lane.idle, "nobody waits")
    run.do(run.lane.close)
    until(lambda: peer.closed == [1], "the connection is closed")


def test_a_lane_that_is_closed_while_somebody_waits_for_its_connection_does_not_keep_it(
    threads: Threads, peer: Peer
) -> None:
    """He waits no longer than for an answer, and what comes to be after that is nobody's."""
    begun, through = threading.Event(), threading.Event()
    connect = connect_to(peer)

    async def connect_late(port: Port) -> Any:
        begun.set()
        assert through.wait(PATIENCE)
        return await connect(port)

    threads.open(connect_late, silence=0.1)
    caller = threads.start(get("a"))
    assert begun.wait(PATIENCE)
    threads.lane.close()
    lost(caller)
    through.set()
    until(lambda: peer.closed == [1], "the connection is closed")


def test_a_connection_that_came_to_be_when_patience_ended_is_the_next_ones(
    threads: Threads, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(Future[Any]):
        """Done when whoever waits has just given up, and has not looked again."""

        def __init__(self, work: Callable[[], Any]) -> None:
            super().__init__()
            self._work = work

        def result(self, timeout: float | None = None) -> Any:
            if not self.done():
                self.set_result(self._work())
                raise TimeoutError
            return super().result(timeout)

    monkeypatch.setattr("fast_cache.backends.redis.lane.aside", lambda work, _: Late(work))
    threads.open(connect_to(peer))
    lost(threads.start(get("a")))
    assert threads.start(get("b")).result(PATIENCE) == [b"b"]
    assert peer.connections == 1


def test_what_can_not_be_sent_at_once_is_sent_in_parts(run: Run, own_redis: RedisServer) -> None:
    run.open(connecting(own_redis.url))
    data = os.urandom(20_000_000)
    assert run.start(("SET", b"k", data), ("STRLEN", b"k")).result(PATIENCE) == [b"OK", len(data)]
    assert run.start(get("k")).result(PATIENCE) == [data]


def interrupted_when(condition: Callable[[], object], step: Callable[[], object]) -> None:
    """Interrupt ``step``, which runs on the main thread, as Ctrl+C does, when ``condition`` holds."""
    main = threading.main_thread().ident
    assert main == threading.get_ident()
    # A process that a shell began in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        until(condition, "it is the moment to interrupt")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            step()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_leader_that_is_interrupted_leaves_its_followers_theirs(threads: Threads, peer: Peer) -> None:
    threads.open(connect_to(peer))
    first, _ = held_with_followers(threads, peer)
    followers: list[Future[list[Reply]]] = []

    def held() -> bool:
        """The interrupted one leads a batch with followers, and more have come meanwhile."""
        if len(threads.lane._queue) == 1 and not followers:
            followers.append(threads.start(get("a")))
            followers.append(threads.start(get("b")))
        if len(threads.lane._queue) == 3:
            through.set()
        if len(peer.batches) == 2 and len(followers) == 2:
            followers.append(threads.start(get("c")))
        return len(followers) == 3 and len(threads.lane._queue) == 1

    through, again = peer.through, threading.Event()

    def answer(number: int, commands: list[Words]) -> bytes:
        if number == 1 and [b"MGET", b"first"] not in commands:
            again.wait(PATIENCE)
        return echo(commands)

    peer.answer = answer
    interrupted_when(held, lambda: threads.lane.exchange([get("main")]))
    assert first.result(PATIENCE) == [b"first"]
    assert [follower.result(PATIENCE) for follower in followers] == [[b"a"], [b"b"], [b"c"]]
    again.set()
    assert peer.connections == 2, "what the first one says later is nobody's"
    assert threads.guard.losses == []
    assert threads.lane.idle


def test_a_follower_that_is_interrupted_is_not_sent_for(threads: Threads, peer: Peer) -> None:
    threads.open(connect_to(peer))
    first, followers = held_with_followers(threads, peer, "a")
    interrupted_when(lambda: len(threads.lane._queue) == 2, lambda: threads.lane.exchange([get("main")]))
    peer.through.set()
    assert first.result(PATIENCE) == [b"first"]
    assert followers[0].result(PATIENCE) == [b"a"]
    assert [commands for _, commands in peer.batches] == [[[b"MGET", b"first"]], [[b"MGET", b"a"]]]
    assert peer.connections == 1


def test_one_that_was_to_lead_next_and_is_interrupted_makes_way(
    threads: Threads, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads.open(connect_to(peer))

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    # Between having been chosen and beginning: no signal can be sent so exactly.
    monkeypatch.setattr(threads.lane, "_lead", interrupted)
    with pytest.raises(KeyboardInterrupt):
        threads.lane.exchange([get("main")])
    assert threads.lane.idle
    assert threads.start(get("a")).result(PATIENCE) == [b"a"]
    assert [commands for _, commands in peer.batches] == [[[b"MGET", b"a"]]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_does_not_wait_for_what_a_thread_of_its_parent_sent(own_redis: RedisServer) -> None:
    backend = RedisBackend(own_redis.url, timeout=PATIENCE)
    backend.set("k", "v")
    link: Any = backend._link
    with ThreadPoolExecutor(1) as pool, contextlib.closing(own_redis.client()) as admin:
        waiting = pool.submit(lambda: run_blocking(link.exchange(BLOCKING, [("BLPOP", "go", 0)])))
        until(lambda: admin.info("clients")["blocked_clients"] == 1, "the parent waits")
        pid = os.fork()
        if pid == 0:
            os._exit(0 if [backend.get("k") for _ in range(20)] == ["v"] * 20 else 1)
        _, status = os.waitpid(pid, 0)
        admin.lpush("go", "on")
        assert waiting.result(PATIENCE) == [[b"go", b"on"]]
    assert status == 0
    assert backend.get("k") == "v"
    backend.close()


def test_a_server_that_takes_no_more_is_silent_only_when_it_takes_nothing(tasks: Tasks) -> None:
    """A large batch goes out slowly: as long as some of it does, the server is there."""
    listener = socket.create_server(("127.0.0.1", 0))
    data, taken = os.urandom(24_000_000), 0
    tasks.open(connecting(f"redis://127.0.0.1:{listener.getsockname()[1]}/0"), silence=0.4)
    caller = tasks.start(("SET", b"k", data))
    near, _ = listener.accept()
    with near, listener:
        near.settimeout(PATIENCE)
        while taken < len(data):
            taken += len(near.recv(400_000))
            if taken < len(data) / 2:
                time.sleep(0.02)
        near.sendall(b"+OK\r\n")
        assert caller.result(PATIENCE) == [b"OK"]
    assert tasks.guard.losses == []


def test_a_wire_of_threads_says_how_much_it_read(peer: Peer) -> None:
    wire = ThreadWire(run_blocking(connect_to(peer)(BLOCKING)))
    assert not wire.proven
    peer.answer = lambda _, __: b"-ERR no\r\n"
    parser = wire.talk(b"*1\r\n$4\r\nPING\r\n", 1, LONG)
    assert (wire.proven, parser.errs, parser.size) == (True, True, 9)
    wire.close()
