"""Several processes and one Redis: what one of them invalidated while Redis was away, none serves once it was told.

With two tiers, another one may serve it for ``STALENESS`` more.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import httpx2 as httpx
import pytest

from fast_cache.testing import PATIENCE
from tests.faults.faults import Ground, frozen, killed
from tests.faults.shop import CHANGING, STEADY, WAYS, Mode, in_both_modes, until
from tests.faults.tiers import lag
from tests.support.uvicorn_server import ServedApp, serve

_ROOT = Path(__file__).resolve().parents[2]

in_both_tiers = pytest.mark.parametrize("tiers", [1, 2], ids=["redis", "two tiers"])


class Process:
    """A process that serves, and somebody who keeps asking it and judges.

    ``lag`` is for how long it may serve what another one has invalidated.
    """

    def __init__(self, served: ServedApp, lag: float) -> None:
        # Kept open, each answer would wait for an acknowledgement that the system delays for 40 ms.
        self._client = served.client(headers={"connection": "close"})
        self._asking = served.client(headers={"connection": "close"})
        self._lag = lag
        self._floors: dict[int, list[tuple[float, int]]] = {item: [(0.0, 0)] for item in CHANGING}
        """From when on nothing older than which version may be served."""
        self._closing = threading.Event()
        self._caller = threading.Thread(target=self._ask_on, daemon=True)
        self.requests = 0
        self.wrong: list[str] = []
        self._caller.start()

    def state(self, name: str) -> Any:
        return self._client.get("/state").json()[name]

    def change(self, item: int) -> int:
        """Change an item; this process serves nothing older from now on."""
        version = int(self._client.put(f"/items/{item}").json())
        self._floors[item].append((monotonic(), version))
        return version

    def completed(self, item: int, version: int) -> None:
        """Another process has changed it, and Redis was told: nothing older may be served, once the lag is over."""
        self._floors[item].append((monotonic() + self._lag, version))

    def is_cached(self) -> bool:
        """Whether what does not change is served from the cache, of two tiers the nearer one."""
        for way in WAYS:
            self._client.get(f"/{way}/{STEADY[0]}")
        before = self.state("asked")
        for way in WAYS:
            self._client.get(f"/{way}/{STEADY[0]}")
        return bool(self.state("asked") - before == 0) and not self.state("away") and bool(self.state("sure"))

    def go_on(self, requests: int = 50) -> None:
        """Wait until so many more have been asked for, with no lag to come."""
        over = max(since for floors in self._floors.values() for since, _ in floors)
        until(lambda: monotonic() >= over, "the lag is over")
        goal = self.requests + requests
        until(lambda: self.requests >= goal or not self._caller.is_alive(), "requests are answered")

    def _ask_on(self) -> None:
        places = itertools.cycle(itertools.product(CHANGING, WAYS))
        while not self._closing.is_set():
            item, way = next(places)
            now = monotonic()
            floor = max(version for since, version in self._floors[item] if since <= now)
            try:
                response = self._asking.get(f"/{way}/{item}")
                if response.status_code != 200 or response.json() < floor:
                    self.wrong.append(f"{way} {item}: {response.status_code} {response.text} after {floor}")
            except httpx.HTTPError as error:
                self.wrong.append(f"{way} {item}: {error!r}")
            self.requests += 1

    def close(self) -> None:
        self._closing.set()
        self._caller.join(PATIENCE)
        self._client.close()
        self._asking.close()


@contextlib.contextmanager
def two_processes(ground: Ground, mode: Mode, tiers: int, truth: Path) -> Iterator[tuple[Process, Process]]:
    env = {"FAULTS_REDIS": ground.url, "FAULTS_MODE": mode, "FAULTS_TRUTH": str(truth), "FAULTS_TIERS": str(tiers)}
    with serve("tests.faults.served:app", env=env) as one, serve("tests.faults.served:app", env=env) as two:
        first, second = (Process(served, lag(tiers)) for served in (one, two))
        try:
            for process in (first, second):
                until(process.is_cached, "it is served from the cache")
                process.go_on()
            yield first, second
            for process in (first, second):
                process.go_on()
        finally:
            first.close()
            second.close()
        assert first.wrong[:5] == []
        assert second.wrong[:5] == []


def changed_while(fault: contextlib.AbstractContextManager[None], first: Process, second: Process) -> None:
    """The first process changes everything while Redis is away; the second must know once the first has told."""
    with fault:
        versions = {item: first.change(item) for item in CHANGING}
        assert first.state("owes")
        until(lambda: first.state("away"), "Redis is found to be away")
        first.go_on()
        second.go_on()
    until(lambda: not first.state("owes"), "Redis has been told")
    for item, version in versions.items():
        second.completed(item, version)
    for process in (first, second):
        until(process.is_cached, "it is served from the cache again")


@in_both_tiers
@pytest.mark.parametrize(("mode", "fault"), [("async", frozen), ("sync", killed)], ids=["frozen", "killed"])
def test_what_one_process_invalidated_while_redis_was_away_no_process_serves_after(
    mode: Mode,
    fault: Callable[[Ground], contextlib.AbstractContextManager[None]],
    tiers: int,
    ground: Ground,
    tmp_path: Path,
) -> None:
    with two_processes(ground, mode, tiers, tmp_path / "truth") as (first, second):
        changed_while(fault(ground), first, second)
        changed_while(fault(ground), second, first)


@in_both_tiers
@in_both_modes
def test_a_snapshot_that_revives_what_another_process_invalidated(
    mode: Mode, tiers: int, ground: Ground, tmp_path: Path
) -> None:
    """The process that invalidated has to tell again; once it did, no process serves what was revived."""
    with two_processes(ground, mode, tiers, tmp_path / "truth") as (first, second):
        ground.server.command("SAVE")
        versions = {item: first.change(item) for item in CHANGING}
        assert not first.state("owes")
        ground.server.kill()
        until(lambda: first.state("away"), "Redis is found to be away")
        ground.server.start()
        until(lambda: not first.state("away"), "Redis has been told again")
        for item, version in versions.items():
            second.completed(item, version)
        for process in (first, second):
            until(process.is_cached, "it is served from the cache again")


@in_both_tiers
@in_both_modes
def test_a_process_that_is_forked_while_redis_is_away(mode: Mode, tiers: int, ground: Ground) -> None:
    """The child finds out by itself when Redis is back, and both tell what they invalidated."""
    command = [sys.executable, "-m", "tests.faults.forked", ground.url, mode, str(tiers)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "warm\n"
        ground.server.freeze()
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "changed\n"
        ground.server.thaw()
        print(file=process.stdin, flush=True)
        child, parent = json.loads(process.stdout.readline())
        assert process.wait(PATIENCE) == 0
    assert child == {"first": ["new"], "served": ["new"], "cached": True, "owes": False}
    assert parent == {"served": ["new"], "cached": True, "owes": False}
