"""What a failover takes with it: a master dies under load, its replicas cut off from it some time before.

Several processes cache and invalidate what a common source says (see ``member``). What was acknowledged to them is
held against what the server that takes over has, what anybody is served from then on, and what is left in the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from fast_cache.backends.redis.layout import Layout
from fast_cache.errors import DecodeError
from fast_cache.serializers import unpack_stored
from tests.benchmarks.report import Table
from tests.faults.member import ITEMS, Folder, backend_at, load
from tests.faults.shop import until
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import RedisSentinel
from tests.support.redis_server import RedisServer

_ROOT: Final = Path(__file__).resolve().parents[2]

_BEFORE: Final = 1.0
"""Seconds of load before anything happens."""

_MEMBERS: Final = 3

_LAYOUT: Final = Layout("residue", 1000)


@dataclass(frozen=True)
class Case:
    """One way to lose a master.

    Args:
        cut: for how many seconds the replicas have been cut off when it dies; ``None`` if they are not.
        killed: whether one of the processes dies with it.
        waits: ``wait_for_replicas``.
    """

    title: str
    cut: float | None = 3.0
    killed: bool = False
    waits: int | None = None
    cluster: bool = False


QUICK: Final = Case("cut off for 3 s")
KILLED: Final = Case("cut off for 3 s, and a process dies with it", killed=True)
WAITS: Final = Case("cut off for 3 s, `wait_for_replicas=1`, and a process dies with it", killed=True, waits=1)
LONG: Final = Case("cut off for 35 s", cut=35.0)

CASES: Final = [
    Case("not cut off", cut=None),
    QUICK,
    Case("cut off for 3 s, in a Cluster", cluster=True),
    LONG,
    Case("cut off for 35 s, `wait_for_replicas=1`", cut=35.0, waits=1),
    KILLED,
    WAITS,
]


@dataclass
class Residue:
    """What one case came to."""

    acknowledged: int = 0
    """Invalidations."""
    unacknowledged: int = 0
    """Those of which the callers were told that the cache could not do them."""
    lost: int = 0
    """Acknowledged invalidations of values that were still there on the server that took over."""
    revived: set[int] = field(default_factory=set)
    """The items of these."""
    reads: int = 0
    stale: int = 0
    """Reads that were served something older than had been acknowledged to anybody, of items that are not left so."""
    lasted: float = 0.0
    """Seconds from the return of service to the end of the last such read."""
    left: set[int] = field(default_factory=set)
    """Items whose values are still too old after all that are alive have told what they know."""
    dead: set[int] = field(default_factory=set)
    """Items that the process changed that was killed."""
    failed: list[str] = field(default_factory=list)


def table(cases: Sequence[Case]) -> Table:
    """What each case came to.

    Raises:
        AssertionError: a request or an invalidation failed, or what a living process knows was not repaired.
    """
    rows = []
    for case in cases:
        found = measured(case)
        assert not found.failed, f"{case.title}: {found.failed[:5]}"
        rows.append(
            [
                case.title,
                f"{found.acknowledged:,}",
                f"{found.lost:,}",
                str(len(found.revived)),
                f"{found.stale} of {found.reads:,}",
                f"{found.lasted * 1000:.0f} ms" if found.stale else "",
                str(len(found.left)),
            ]
        )
    return Table(
        "What a failover takes with it",
        ["the replicas were", "acknowledged", "lost", "revived", "stale reads", "until", "left"],
        rows,
        notes=[
            f"{_MEMBERS} processes read and change {ITEMS} items, and invalidate them, when a master is killed: behind "
            "Sentinels, or in a Cluster. No call failed.",
            "Acknowledged: invalidations that were confirmed to their callers before it died. What was refused since, "
            "or had no replica's acknowledgement where that is asked for, is remembered, and not counted. Lost: of "
            "these, those that the server which took over had not heard of. Revived: items of which it held an older "
            "value.",
            "Stale reads: reads, by anybody, of something older than had been acknowledged to anybody, and how long "
            "after the return of service the last of them ended. Those of what is left are not counted.",
            "Left: items whose older value is served until it expires. With 35 s, what was acknowledged more than 30 s "
            "before the death and not since; with a process that dies, what it had invalidated.",
        ],
    )


class Process:
    """A member in a process of its own."""

    def __init__(self, url: str, folder: Path, number: int, waits: int | None) -> None:
        told = {"REDIS": url, "FOLDER": folder, "NUMBER": number, "COUNT": _MEMBERS, "WAITS": waits or 0}
        env = {**os.environ, **{f"MEMBER_{name}": str(value) for name, value in told.items()}}
        command = [sys.executable, "-c", "from tests.faults.member import main; main()"]
        self._process = subprocess.Popen(
            command, cwd=_ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, line: str) -> None:
        """Say what it is to do."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """What it says when it has done that."""
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def ask(self, line: str) -> dict[str, Any]:
        """Both."""
        self.tell(line)
        return self.answer()

    def kill(self) -> None:
        """End it, as the system does when it has no memory left."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Wait for its end."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()


def measured(case: Case) -> Residue:
    """Let a master die, and look what became of everything."""
    # A replica that has heard nothing from its master for ten times as long is not taken.
    down_after = max(1.0, (case.cut or 0) / 5)
    deployment: Any = RedisCluster(node_timeout=1.0) if case.cluster else RedisSentinel(down_after=down_after)
    with deployment, tempfile.TemporaryDirectory() as path, contextlib.ExitStack() as stack:
        folder = Folder(Path(path))
        processes = []
        for number in range(_MEMBERS):
            processes.append(Process(deployment.url, folder.path, number, case.waits))
            stack.callback(processes[-1].close)
        with contextlib.closing(backend_at(deployment.url)) as looking:
            # Half of the items change all the while.
            until(lambda: sum(looking.has(load.key(item)) for item in range(ITEMS)) > ITEMS / 2, "much is cached")
        return _Failover(case, deployment, folder, processes).done()


class _Failover:
    """The course of one case."""

    def __init__(self, case: Case, deployment: Any, folder: Folder, processes: list[Process]) -> None:
        self._case = case
        self._deployment = deployment
        self._folder = folder
        self._processes = processes
        self._master: RedisServer = deployment.masters[0] if case.cluster else deployment.master()
        self._residue = Residue()

    def done(self) -> Residue:
        time.sleep(_BEFORE)  # in which everybody is at work
        if self._case.cut is not None:
            self._master.cut_replicas()
            for process in self._processes:
                process.tell("change once")
            time.sleep(self._case.cut)  # likewise
        self._kill()
        if self._case.cut is not None:
            for process in self._processes:
                process.answer()
        self._count_lost()
        self._take_over()
        self._until_told()
        self._count_left()
        self._end()
        return self._residue

    def _kill(self) -> None:
        if self._case.killed:
            self._processes.pop().kill()
            self._residue.dead = set(range(_MEMBERS - 1, ITEMS, _MEMBERS))
        self._replicas = (
            [self._deployment.nodes[3]]
            if self._case.cluster
            else [server for server in self._deployment.servers if server is not self._master]
        )
        self._master.kill()
        self._died = time.monotonic()

    def _count_lost(self) -> None:
        """What the replicas have, one of which takes over: nobody has told them anything yet."""
        held = held_by(self._replicas[0])
        for at, item, version in self._folder.all_acknowledged():
            if at < self._died:
                self._residue.acknowledged += 1
                if item in held and held[item] < version:
                    self._residue.lost += 1
                    self._residue.revived.add(item)

    def _take_over(self) -> None:
        deployment = self._deployment
        if self._case.cluster:
            until(lambda: self._replicas[0].command("ROLE")[0] == b"master", "the replica takes over")
        else:
            until(lambda: deployment.master() is not self._master, "the Sentinels name another master")

    def _until_told(self) -> None:
        """Until all that are alive have told the server what they know, and a while longer."""
        for process in self._processes:

            def told(process: Process = process) -> bool:
                state = process.ask("state")
                return not state["away"] and not state["owes"]

            until(told, "it has told the new master what it knows")
        time.sleep(_BEFORE)  # in which anything that is left is served

    def _count_left(self) -> None:
        """What somebody is served who comes now."""
        floors = self._folder.floors
        with contextlib.closing(backend_at(self._deployment.url)) as looking:
            for item in range(ITEMS):
                floor = floors.version(item)
                found = looking.get(load.key(item))
                if found is not None and found < floor:
                    self._residue.left.add(item)

    def _end(self) -> None:
        residue = self._residue
        reports = [process.ask("end") for process in self._processes]
        back = min(at for report in reports for at, away in report["turns"] if at > self._died and not away)
        for report in reports:
            residue.failed += report["failed"]
            residue.unacknowledged += report["unacknowledged"]
            residue.reads += report["reads"]
            passing = [ended for _, ended, item in report["stale"] if item not in residue.left]
            residue.stale += len(passing)
            residue.lasted = max([residue.lasted, *(ended - back for ended in passing)])


def held_by(server: RedisServer) -> dict[int, int]:
    """The versions that one server holds, by item."""
    keys = {_LAYOUT.value_key(load.key(item)): item for item in range(ITEMS)}
    held: dict[int, int] = {}
    looking = backend_at(server.url)
    with contextlib.closing(server.client(protocol=2)) as raw:
        with contextlib.suppress(redis.ResponseError):
            raw.execute_command("READONLY")  # type: ignore[no-untyped-call]  # which only nodes of a Cluster know
        for name, item in keys.items():
            with contextlib.suppress(redis.ResponseError, DecodeError):  # another node's; nothing
                data = raw.get(name)
                if isinstance(data, bytes):
                    held[item] = looking._store.value_of(unpack_stored(load.key(item), data))
    return held
