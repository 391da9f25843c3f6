"""Who survives what: the same scenarios done to each library, and what was observed.

Each library is tried in every configuration that it documents, until one survives. Each try runs in a process of its
own, which is ended when it takes too long: a library that waits for ever says so in the table, and leaves nothing
behind for the next.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from tests.benchmarks.report import OURS, Options, Table
from tests.benchmarks.survival_peers import PEERS, NotOffered, Peer, Wish
from tests.benchmarks.survival_scenarios import HANGS, SCENARIOS, Answer, Scenario, in_second_process

LIMIT = 8.0
"""Seconds that one scenario may take with one library."""

GRACE = 5.0
"""Seconds after that in which a process that can still end by itself does so."""

AT_ONCE = 4
"""How many tries run side by side: they wait more than they compute."""

NOT_OFFERED = "–"  # noqa: RUF001

PRELOADED = [
    "tests.benchmarks.__main__",
    *("cashews", "aiocache", "dogpile.cache.backends.redis", "cache", "fastapi_cache.decorator", "redis.asyncio"),
]
"""What every process needs, imported once."""


@dataclass(frozen=True)
class Try:
    """One scenario, done to one library in one configuration: by number, because it goes to another process."""

    scenario: int
    peer: int
    configuration: str


def run(options: Options) -> Iterator[Table]:
    present = [number for number, peer in enumerate(PEERS) if is_installed(peer)]
    absent = [f"Left out: {peer.name} is not installed." for peer in PEERS if not is_installed(peer)]
    seen = observed(range(2) if options.quick else range(len(SCENARIOS)), present)
    peers = [PEERS[number] for number in present]
    rows = [
        [SCENARIOS[scenario].title, *(cell(seen[scenario, number]) for number in present)]
        for scenario in sorted({scenario for scenario, _ in seen})
    ]
    yield Table(
        "Who survives what",
        ["", *(peer.name for peer in peers)],
        rows,
        notes=[
            "A dash is for what a library does not offer, and for what can't happen to it: no thread can be cancelled.",
            "Every library has the configuration that suits the scenario best, of those that it documents; one that is "
            "not its default is named. Different rows may need different ones.",
            "A `Request` among the parameters: fastapi-cache2 leaves it out of the key; cashews, aiocache and "
            "dogpile.cache put its address in memory there, which the next request may have too.",
            *(peer.note for peer in peers if peer.note),
            *absent,
        ],
        words=True,
    )


def cell(found: tuple[str, Answer] | None) -> str:
    """What the table says of one library in one scenario."""
    if found is None:
        return NOT_OFFERED
    configuration, answer = found
    text = answer.detail if answer == HANGS else answer.text
    return f"{text} (`{configuration}`)" if configuration else text


def is_installed(peer: type[Peer]) -> bool:
    try:
        metadata.version(peer.distribution)
    except metadata.PackageNotFoundError:
        return peer.name == OURS
    return True


Seen = dict[tuple[int, int], tuple[str, Answer] | None]
"""By scenario and library: the best answer and its configuration; nothing where nothing is offered."""


def observed(scenarios: Sequence[int], peers: Sequence[int]) -> Seen:
    """Try every scenario with every library, and a library's next configuration only where none has survived yet."""
    best: Seen = {(scenario, peer): None for scenario in scenarios for peer in peers}
    left = {
        (scenario, peer): deque(SCENARIOS[scenario].configurations(PEERS[peer]()))
        for scenario in scenarios
        for peer in peers
    }
    while True:
        tries = []
        for place, configurations in left.items():
            found = best[place]
            if configurations and not (found and found[1].good):
                tries.append(Try(*place, configurations.popleft()))
        if not tries:
            return best
        for tried, answer in answers(tries).items():
            place = (tried.scenario, tried.peer)
            found = best[place]
            if answer is not None and (found is None or answer.good):
                best[place] = (tried.configuration, answer)


@dataclass(frozen=True)
class Running:
    """A try that is under way, in one process or two."""

    tried: Try
    processes: Sequence[BaseProcess]
    until: float


def answers(tries: Sequence[Try]) -> dict[Try, Answer | None]:
    """Do all tries, a few at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    waiting = deque(tries)
    running: dict[Connection, Running] = {}
    found: dict[Try, Answer | None] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            tried = waiting.popleft()
            ours, theirs = context.Pipe(duplex=False)
            here, there = context.Pipe()
            processes: list[BaseProcess] = [context.Process(target=in_process, args=(tried, theirs, here))]
            if SCENARIOS[tried.scenario].processes == 2:
                processes.append(context.Process(target=elsewhere, args=(tried, there)))
            for process in processes:
                process.start()
            for end in (theirs, here, there):
                end.close()
            running[ours] = Running(tried, processes, time.monotonic() + LIMIT + GRACE)
        ready = wait(list(running), timeout=0.2)
        for connection, one in list(running.items()):
            if connection in ready:
                try:
                    found[one.tried] = connection.recv()
                except EOFError:
                    found[one.tried] = Answer(False, "ends the process")
            elif time.monotonic() > one.until:
                found[one.tried] = HANGS
                one.processes[0].kill()
            else:
                continue
            one.processes[0].join()
            for process in one.processes[1:]:
                process.kill()
                process.join()
            connection.close()
            del running[connection]
    return found


def in_process(tried: Try, answer: Connection, other: Connection) -> None:
    """In a process of its own: do it, say what was observed, and end without waiting for anything left behind."""

    async def observe() -> None:
        wish = Wish(configuration=tried.configuration, elsewhere=other)
        answer.send(await outcome(SCENARIOS[tried.scenario], PEERS[tried.peer](), wish))
        os._exit(0)

    be_quiet()
    asyncio.run(observe())


def elsewhere(tried: Try, other: Connection) -> None:
    """In a second process, where a scenario takes one."""
    be_quiet()
    asyncio.run(in_second_process(PEERS[tried.peer](), other))


def be_quiet() -> None:
    """Drop what libraries log of the failures that they are put through."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


async def outcome(scenario: Scenario, peer: Peer, wish: Wish) -> Answer | None:
    """What was observed; nothing where the library does not offer what it takes."""
    try:
        async with asyncio.timeout(LIMIT) as limit:
            return await scenario.check(peer, wish)
    except NotOffered:
        return None
    except Exception as error:
        return HANGS if limit.expired() else Answer(False, type(error).__name__)
