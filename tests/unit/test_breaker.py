"""When Redis is asked, when it is left alone, and who finds out that it is back."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from fast_cache.backends.redis.breaker import Breaker, Prober
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import BLOCKING, Port, run_blocking

PATIENCE = 20
"""Seconds until a test that waits for something has failed."""


class Server:
    """What is probed: it counts, and answers when it is told to."""

    def __init__(self) -> None:
        self.back = False
        self.probes = 0
        self.at_once = 0
        self.most_at_once = 0
        self.held = threading.Event()
        self.held.set()
        self.probed = threading.Event()
        self.defect: Exception | None = None

    async def probe(self, port: Port) -> None:
        assert port is BLOCKING
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.probes += 1
        self.probed.set()
        assert self.held.wait(PATIENCE)
        self.at_once -= 1
        if self.defect is not None:
            raise self.defect
        if not self.back:
            raise BackendUnavailable("Redis did not answer")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def breaker() -> Breaker:
    return Breaker()


@pytest.fixture
def prober(breaker: Breaker, server: Server) -> Iterator[Prober]:
    made = Prober(breaker, server.probe)
    yield made
    server.held.set()
    made.close()
    until_none_is_left()


def probing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fast_cache probe"]


def until_none_is_left() -> None:
    for thread in probing():
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_everybody_is_let_through_while_it_works(breaker: Breaker) -> None:
    assert not breaker.is_open


def test_the_first_loss_stops_everybody(breaker: Breaker) -> None:
    epoch = breaker.epoch
    assert breaker.lost(epoch)
    assert breaker.is_open
    assert breaker.epoch != epoch


def test_batches_lost_together_open_it_once(breaker: Breaker) -> None:
    epoch = breaker.epoch
    assert [breaker.lost(epoch) for _ in range(3)] == [True, False, False]
    breaker.close()
    assert not breaker.is_open, "and the first answer closes it"


def test_a_batch_from_before_the_outage_does_not_reopen_it(breaker: Breaker) -> None:
    straggler = breaker.epoch
    breaker.lost(breaker.epoch)
    breaker.close()
    assert not breaker.lost(straggler)
    assert not breaker.is_open
    assert breaker.lost(breaker.epoch), "the next outage does"


def test_an_answer_while_it_is_closed_changes_nothing(breaker: Breaker) -> None:
    epoch = breaker.epoch
    breaker.close()
    assert breaker.epoch == epoch


def test_only_one_of_many_threads_that_lose_something_opens_it(breaker: Breaker) -> None:
    barrier = threading.Barrier(8)
    opened: list[bool] = []
    epoch = breaker.epoch

    def lose() -> None:
        barrier.wait()
        opened.append(breaker.lost(epoch))

    in_threads(lose, 8)
    assert sorted(opened) == [False] * 7 + [True]


def in_threads(step: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=step) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_child_does_not_wait_for_a_thread_of_its_parent(breaker: Breaker) -> None:
    with breaker._lock:  # as a thread of the parent might hold it at that moment
        breaker.forked()
        assert breaker.lost(breaker.epoch)


def test_pauses_double_up_to_a_bound(breaker: Breaker, server: Server) -> None:
    prober = Prober(breaker, server.probe)
    pauses = []
    for _ in range(5):
        pauses.append(prober.pause)
        assert not run_blocking(prober.round(BLOCKING))
    assert pauses == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_only_a_probe_that_is_answered_closes_it(breaker: Breaker, server: Server) -> None:
    prober = Prober(breaker, server.probe)
    breaker.lost(breaker.epoch)
    assert not run_blocking(prober.round(BLOCKING))
    assert breaker.is_open
    server.back = True
    assert run_blocking(prober.round(BLOCKING))
    assert not breaker.is_open


def test_a_thread_probes_until_the_server_is_back_and_ends(breaker: Breaker, prober: Prober, server: Server) -> None:
    breaker.lost(breaker.epoch)
    prober.awake()
    assert server.probed.wait(PATIENCE)
    server.back = True
    until_none_is_left()
    assert not breaker.is_open
    assert server.probes >= 1


def test_one_probe_is_on_its_way_at_most_and_begins_after_a_pause(
    breaker: Breaker, prober: Prober, server: Server
) -> None:
    breaker.lost(breaker.epoch)
    server.held.clear()
    server.back = True
    in_threads(prober.awake, 8)
    assert len(probing()) == 1
    assert server.probes == 0
    assert server.probed.wait(PATIENCE)
    in_threads(prober.awake, 8)
    assert len(probing()) == 1
    server.held.set()
    until_none_is_left()
    assert (server.probes, server.most_at_once) == (1, 1)


def test_the_pause_is_short_again_in_the_next_outage(breaker: Breaker, prober: Prober, server: Server) -> None:
    prober.pause = 0.5
    breaker.lost(breaker.epoch)
    server.back = True
    prober.awake()
    assert prober.pause == 0.1
    until_none_is_left()


def test_who_closes_it_ends_the_thread_and_the_next_caller_begins_another(
    breaker: Breaker, prober: Prober, server: Server
) -> None:
    breaker.lost(breaker.epoch)
    prober.awake()
    (first,) = probing()
    prober.close()
    prober.awake()
    (second,) = [thread for thread in probing() if thread is not first]
    first.join(PATIENCE)
    assert not first.is_alive()
    server.back = True
    second.join(PATIENCE)
    assert not breaker.is_open


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_ends_the_thread_and_the_next_caller_begins_another(
    breaker: Breaker, prober: Prober, server: Server
) -> None:
    breaker.lost(breaker.epoch)
    server.defect = ZeroDivisionError()
    prober.awake()
    until_none_is_left()
    assert breaker.is_open
    server.defect, server.back = None, True
    prober.awake()
    until_none_is_left()
    assert not breaker.is_open


def test_a_child_begins_a_thread_of_its_own(breaker: Breaker, prober: Prober, server: Server) -> None:
    breaker.lost(breaker.epoch)
    prober._bell = object()  # type: ignore[assignment]  # of a thread that only the parent has
    prober.forked()
    server.back = True
    prober.awake()
    until_none_is_left()
    assert not breaker.is_open


def test_the_thread_keeps_nobody_who_is_forgotten(breaker: Breaker, server: Server) -> None:
    prober = Prober(breaker, server.probe)
    breaker.lost(breaker.epoch)
    prober.awake()
    assert server.probed.wait(PATIENCE)
    held = weakref.ref(prober)
    del prober
    until_none_is_left()
    gc.collect()
    assert held() is None
    assert breaker.is_open
