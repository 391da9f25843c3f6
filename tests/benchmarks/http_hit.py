"""What a request takes in process, without a network: pages from the cache, and endpoints that are not cached.

Every application is asked by hand, as a server would, in one coroutine of one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

from starlette.types import ASGIApp, Scope

from tests.benchmarks import http_app
from tests.benchmarks.harness import Contender, Effort, Measurement, measure
from tests.benchmarks.http_app import BARE, BODY, CASHEWS, FASTAPI_CACHE, MODELS, UNCACHED, UNCACHED_AFTER
from tests.benchmarks.http_requests import PAGES, discard, pages, receive, scope, warm
from tests.benchmarks.peers import made
from tests.benchmarks.report import OURS, Table, difference, duration, durations, ratio

AGAIN = "again"
"""The same once more, in another application: what there is of a difference is chance."""

CALL = "await app(item, receive, send)"

LEAST: dict[str, tuple[Callable[[], ASGIApp], Callable[[], ASGIApp], bool]] = {
    "before routing": (http_app.bare, http_app.before_routing, False),
    "after a keyed parameter": (http_app.with_ready_of_tenant, http_app.after_keyed_dependency, True),
    "after a guard, `shared=True`": (http_app.with_ready_behind_guard, http_app.after_guard, True),
}
"""For each way to answer with a page: the least that it can be compared with, ours, and whether that is routed."""

_numbers = count()


def contender(name: str, make: Callable[[], ASGIApp], note: str = "", **checks: Any) -> Contender:
    """An application, made here, and warmed up and checked before it is measured."""
    app = make()
    names = {"app": app, "receive": receive, "send": discard}
    return Contender(name, CALL, names, note, prepare=partial(warm, app, **checks))


def peer(name: str, make: Callable[[], ASGIApp], note: str = "") -> Contender:
    """Another library's: tried out first in an application that is thrown away, so that it can be left out."""
    asyncio.run(warm(make()))
    return contender(name, make, note)


def hits(effort: Effort) -> Table:
    """All ways to answer with twenty models."""
    own = [
        contender(BARE, http_app.bare, "it reads nothing of the request, and its response was made once"),
        contender(f"{BARE}, {AGAIN}", http_app.bare, "the control"),
        contender("Starlette, a response of ready bytes", http_app.made_anew),
        *(_ours(f"{OURS}, {way}", way) for way in LEAST),
        contender("FastAPI, a ready response", http_app.with_ready),
        contender(UNCACHED, http_app.uncached),
        contender(UNCACHED_AFTER, http_app.uncached_after_dependency, "the keyed parameter's, which reads a header"),
    ]
    peers, absent = made(
        [
            partial(peer, FASTAPI_CACHE, http_app.by_fastapi_cache, "`InMemoryBackend`"),
            partial(peer, CASHEWS, http_app.by_cashews, "`mem://`; the decorator alone, which sends no headers"),
            partial(
                peer,
                f"{CASHEWS} with its middlewares",
                http_app.by_cashews_with_middlewares,
                "those that its documentation adds, for `ETag`, `Cache-Control` and `Clear-Site-Data`",
            ),
        ]
    )
    contenders = [*own, *peers]
    measurement = measure(contenders, effort, items=pages, loads=http_app.runs)
    return Table(
        f"A page of {MODELS} models, in process",
        ["", "per request", "quartiles", "÷ Starlette", "fastapi-cache2 ÷ it"],
        [_row(one.name, measurement) for one in contenders],
        notes=[
            f"Calls of the application with the scope of a browser's request; {PAGES} pages of {len(BODY):,} bytes "
            "take turns.",
            *(f"{one.name}: {one.note}." for one in contenders if one.note),
            *absent,
        ],
    )


def _row(name: str, measurement: Measurement) -> list[str]:
    taken = measurement.per_call(name)
    others = [ratio(measurement.ratio(name, BARE)) if name != BARE else "1"]
    if name == FASTAPI_CACHE:
        others.append("1")
    else:
        others.append(ratio(measurement.ratio(FASTAPI_CACHE, name)) if FASTAPI_CACHE in measurement.samples else "-")
    return [name, duration(taken.median), durations(taken), *others]


def _ours(name: str, way: str) -> Contender:
    _, make, routed = LEAST[way]
    return contender(name, make, hits=True, routed=routed)


def least(effort: Effort) -> Table:
    """Ours beside the least that it can be compared with: one measurement for each way."""
    rows = []
    for way, (theirs, _, _) in LEAST.items():
        names = ["a ready response", f"a ready response, {AGAIN}", OURS]
        contenders = [contender(names[0], theirs), contender(names[1], theirs), _ours(OURS, way)]
        measurement = measure(contenders, effort, items=pages, loads=http_app.runs)
        rows.append([way, *_compared(measurement, *names)])
    return Table(
        "A page beside a response that was made once, in process",
        ["", "a ready response", OURS, f"{OURS} ÷ it", "difference", "control"],
        rows,
        notes=[
            "Before routing: beside a route of Starlette. After a parameter or a guard, which both read a header: "
            "beside an endpoint of FastAPI that has the same one. Control: the ready response in two applications.",
        ],
    )


def new_paths() -> list[Scope]:
    return [scope(f"/plain/{next(_numbers)}") for _ in range(PAGES)]


def known_paths() -> list[Scope]:
    return [scope(f"/plain/{number}") for number in range(PAGES)]


PATHS: dict[str, Callable[[], Sequence[Scope]]] = {"known": known_paths, "new at each request": new_paths}


def beside(effort: Effort) -> Table:
    """What an endpoint pays that is not cached, in an application that has the cache."""
    rows = []
    for what, requests in PATHS.items():
        names = ["without", f"without, {AGAIN}", "with"]
        without, with_cache = partial(http_app.plain, cached=False), partial(http_app.plain, cached=True)
        contenders = [
            contender(name, make, requests=requests)
            for name, make in zip(names, (without, without, with_cache), strict=True)
        ]
        measurement = measure(contenders, effort, items=requests)
        rows.append([what, *_compared(measurement, *names)])
    return Table(
        "A request to an endpoint that is not cached, in process",
        ["paths", "without a cache", f"beside one of {OURS}", "÷ without", "difference", "control"],
        rows,
        notes=[
            "The same endpoint, which returns one number, in two applications: one has the cache and a cached "
            "endpoint, the other the same endpoints without it. Control: two applications without it.",
        ],
    )


def _compared(measurement: Measurement, one: str, again: str, other: str) -> list[str]:
    """What ``other`` takes beside ``one``."""
    return [
        duration(measurement.per_call(one).median),
        duration(measurement.per_call(other).median),
        ratio(measurement.ratio(other, one)),
        difference(measurement.difference(other, one)),
        ratio(measurement.ratio(again, one)),
    ]
