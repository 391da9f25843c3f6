"""The assertion that an application sends nobody from its cache what it would send to somebody else.

Each cached route is asked as several identities: without the cache, to learn what each of them is to be sent, and with
it, from cold, whoever comes first. Judged is only what tells two identities apart whenever they ask, so an answer that
merely changes with time accuses nobody; an accusation has to stand up a second time. Relies on ``cache.disabled()`` and
on the backend's ``clear``.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
from fastapi import FastAPI

from fast_cache.binding import Binding
from fast_cache.testing.asking import Answer, Client, Identity, alive, ask, identity_of
from fast_cache.testing.urls import CachedRoute, NoExample, cached_routes, example, urls_of
from fast_cache.watching import ALL

Identities = Mapping[str, Mapping[str, str] | Identity | Client]
Paths = Mapping[str, str | Iterable[str]]

_OF_THE_CACHE: Final = frozenset(
    {"age", "cache-control", "cache-groups", "cache-status", "etag", "expires", "vary"}
    | {"connection", "content-length", "date", "server", "transfer-encoding"}
)
"""Headers that a cache adds, and those that belong to the moment or follow from the body."""

_ABSENT: Final = object()

_STATUS: Final = ("status",)
_EVERYTHING: Final = ("everything",)

Feature = tuple[Any, ...]
"""Something that can be said of an answer: its status, a header, its body, a part of that."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One route that was asked.

    ``path`` is as it was declared, ``url`` what was asked for. ``differs``: whether two of the identities are sent
    something different there; where they are not, nothing could have been seen.
    """

    path: str
    url: str
    differs: bool


@dataclass(frozen=True, slots=True)
class _Crossed:
    """``reader`` was sent what is ``owner``'s, after ``first`` had come first (``None``: all came at once)."""

    reader: str
    owner: str
    first: str | None
    feature: Feature


def assert_no_leak(
    app: FastAPI, identities: Identities, *, paths: Paths | None = None, method: str = "GET"
) -> list[Replayed]:
    """Fail if ``app`` answers one of ``identities`` from its cache with what is another's.

        assert_no_leak(app, {"ada": {"authorization": "Bearer …"}, "bob": {"authorization": "Bearer …"}, "nobody": {}})

    Every route is asked whose endpoint is cached, or something that it depends on: without the cache, twice as each
    identity, and then with it, once for each identity that may come first, and once by all at the same time. Nothing is
    sent over a network; the lifespan of ``app`` is entered unless it runs.

    It leaks where somebody is sent a status, a header, a body, or a part of a body, that is not what he is sent
    without the cache, but is what another one is; twice in a row. (Parts are the fields of JSON, and the words of
    other texts.) What changes from call to call by itself, such as a time or a random token, can't be told from a page
    that is the same for everyone, and is left out of account. So two identities show a leak only on what differs
    between them whenever they ask: let their data differ, not only their tokens, and look at ``differs`` of what is
    returned. Nothing can be said of requests that are not made: other methods, bodies, headers or identities.

    Before each round the backends of the caches concerned are cleared: test with a backend of its own.

    Args:
        app: the application. What its caches are (or are not) is part of the test: call ``cache.init_app`` before.
        identities: by name, what each of them sends with every request: a mapping of headers, an :class:`Identity` with
            cookies or query parameters, or a client (``TestClient``, ``httpx.Client``) that has logged in.
        paths: by path as it is declared (with the prefixes of routers and mounts), the URL or URLs to ask there, query
            included; ``()`` leaves a route out. For others values are made up by the declared types.
        method: of the routes to ask; requests have no body.

    Returns:
        What was asked.

    Raises:
        AssertionError: something leaked; or a route could not be asked: no value is known for a parameter, everybody is
            refused, the cache has no backend; or there is no cached route. It names routes and identities, and nothing
            of what was sent.
        TypeError: not an application, or not an identity.
        ValueError: fewer than two identities, or a path that is not one of a cached route.
        RuntimeError: it was called where an event loop runs: await :func:`aassert_no_leak`.
    """
    if _in_a_loop():
        raise RuntimeError("an event loop is running here: await aassert_no_leak(...)")
    return anyio.run(functools.partial(aassert_no_leak, app, identities, paths=paths, method=method))


async def aassert_no_leak(
    app: FastAPI, identities: Identities, *, paths: Paths | None = None, method: str = "GET"
) -> list[Replayed]:
    """The same as :func:`assert_no_leak`, where an event loop runs."""
    if not isinstance(app, FastAPI):
        raise TypeError(f"assert_no_leak takes the FastAPI application first, not a {type(app).__name__}")
    who = {name: identity_of(given) for name, given in identities.items()}
    if len(who) < 2:
        raise ValueError("a leak is between two: give at least two identities")
    routes = cached_routes(app, method)
    named = {path: urls_of(given) for path, given in (paths or {}).items()}
    unknown = named.keys() - {route.template for route in routes}
    if unknown:
        raise ValueError(
            f"no cached route has the path {', '.join(sorted(unknown))} for {method}; there are: "
            f"{', '.join(route.template for route in routes) or 'none'}"
        )
    if not routes:
        raise AssertionError(f"no route of the application for {method} is cached, so nothing was tested")
    faults: list[str] = []
    done: list[Replayed] = []
    async with alive(app) as state:
        for route in routes:
            for number, url in enumerate(_urls(route, named, faults)):
                place = f"{method} {route.template}" + (f" (its URL number {number + 1})" if number else "")
                replay = _Replay(functools.partial(ask, app, method, url, state=state), who, _bindings(route))
                found = await replay.run()
                faults += [f"{place}: {fault}" for fault in found]
                done.append(Replayed(route.template, url, replay.differs))
    if faults:
        raise AssertionError("\n".join(faults))
    return done


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _urls(route: CachedRoute, named: Mapping[str, Sequence[str]], faults: list[str]) -> Sequence[str]:
    if route.template in named:
        return named[route.template]
    try:
        return (example(route),)
    except NoExample as reason:
        faults.append(
            f"{route.template}: not tested, {reason}; give URLs by paths={{{route.template!r}: ...}}, "
            "or () to leave it out"
        )
        return ()


def _bindings(route: CachedRoute) -> list[Binding]:
    """What all functions of the caches concerned have in common."""
    return list(dict.fromkeys(function.binding for function in route.functions))


class _Replay:
    """One URL, asked as everybody."""

    def __init__(self, asked: Any, who: Mapping[str, Identity], bindings: Sequence[Binding]) -> None:
        self._asked = asked
        self._who = who
        self._bindings = bindings
        self.differs = False

    async def run(self) -> list[str]:
        """What is wrong, in sentences."""
        if any(binding.backend is None for binding in self._bindings):
            return ["not tested, the cache has no backend; call cache.init_app(app) first"]
        own = _Own(await self._uncached())
        if not own.answered:
            statuses = ", ".join(f"{status}" for status in sorted(own.statuses))
            return [f"not tested, everybody is answered with {statuses}; give URLs that exist by paths="]
        self.differs = own.differs
        found = await self._cached(own)
        if found:
            own.add(await self._uncached())
            found &= await self._cached(own)
        return _sentences(found)

    async def _uncached(self) -> dict[str, list[Answer]]:
        """Two answers for each. They take turns: what grows can't stand still for one and differ from another's."""
        answers: dict[str, list[Answer]] = {name: [] for name in self._who}
        with _disabled(self._bindings):
            for _ in range(2):
                for name, identity in self._who.items():
                    answers[name].append(await self._asked(identity))
        return answers

    async def _cached(self, own: _Own) -> set[_Crossed]:
        found: set[_Crossed] = set()
        for first in self._who:
            await self._clear()
            order = [first, *(name for name in self._who if name != first)]
            for name in (*order, *order):
                found |= own.crossed(name, await self._asked(self._who[name]), first)
        await self._clear()
        for _ in range(2):
            answers: dict[str, Answer] = {}
            async with anyio.create_task_group() as tasks:
                for name in self._who:
                    tasks.start_soon(self._leave, answers, name)
            for name, answer in answers.items():
                found |= own.crossed(name, answer, None)
        return found

    async def _leave(self, answers: dict[str, Answer], name: str) -> None:
        answers[name] = await self._asked(self._who[name])

    async def _clear(self) -> None:
        for binding in self._bindings:
            assert binding.backend is not None
            await binding.backend.aclear()


@contextmanager
def _disabled(bindings: Iterable[Binding]) -> Iterator[None]:
    with ExitStack() as stack:
        for binding in bindings:
            watching = stack.enter_context(binding.watched())
            stack.enter_context(watching.disabled(ALL))
        yield


class _Own:
    """What each identity is sent when nothing is cached."""

    def __init__(self, answers: Mapping[str, Sequence[Answer]]) -> None:
        self._known = {name: [_features(answer) for answer in given] for name, given in answers.items()}
        self._changing: set[Feature] = set()
        self.statuses = {answer.status for given in answers.values() for answer in given}
        self.answered = any(answer.status < 400 and answer.routed for given in answers.values() for answer in given)
        self._learn()

    @property
    def differs(self) -> bool:
        return any(self._telling(one, other) for one in self._known for other in self._known if one != other)

    def add(self, answers: Mapping[str, Sequence[Answer]]) -> None:
        """Learn from more of them what changes by itself."""
        for name, given in answers.items():
            self._known[name] += [_features(answer) for answer in given]
        self._learn()

    def crossed(self, reader: str, answer: Answer, first: str | None) -> set[_Crossed]:
        """What in an answer to ``reader`` is another's."""
        sent = _features(answer)
        found = set()
        for owner in self._known:
            if owner == reader:
                continue
            telling, theirs = self._telling(reader, owner), self._known[owner][0]
            same = [feature for feature in telling if sent.get(feature, _ABSENT) == theirs.get(feature, _ABSENT)]
            found |= {_Crossed(reader, owner, first, feature) for feature in same if feature in sent}
            # It has nothing of the reader's own: an answer that lacks it all for another reason has another status.
            if len(same) == len(telling) > 0 and sent[_STATUS] == theirs[_STATUS]:
                found.add(_Crossed(reader, owner, first, _EVERYTHING))
        return found

    def _learn(self) -> None:
        """What differs between answers to the same identity says nothing."""
        for answers in self._known.values():
            one, *others = answers
            for other in others:
                self._changing |= {
                    feature
                    for feature in one.keys() | other.keys()
                    if one.get(feature, _ABSENT) != other.get(feature, _ABSENT)
                }

    def _telling(self, one: str, other: str) -> set[Feature]:
        """By what two identities can be told apart, whenever they ask."""
        a, b = self._known[one][0], self._known[other][0]
        return {f for f in a.keys() | b.keys() if a.get(f, _ABSENT) != b.get(f, _ABSENT)} - self._changing


def _features(answer: Answer) -> dict[Feature, Any]:
    features: dict[Feature, Any] = {_STATUS: answer.status, ("body",): answer.body}
    for name, value in answer.headers:
        if name not in _OF_THE_CACHE:
            features["header", name] = (*features.get(("header", name), ()), value)
    text = answer.body.decode("utf-8", "replace")
    try:
        features.update(_fields(json.loads(text), ("body",)))
    except (ValueError, RecursionError):
        features.update((("body", "word", word), True) for word in re.findall(r"\w+", text))
    return features


def _fields(value: Any, place: Feature) -> Iterator[tuple[Feature, Any]]:
    """The fields of JSON, by where they are; ``1``, ``1.0`` and ``true`` are three."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _fields(inner, (*place, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _fields(inner, (*place, number))
    else:
        yield (*place, ""), (type(value).__name__, value)


def _sentences(found: Iterable[_Crossed]) -> list[str]:
    """One for each pair and order. What was sent is not in them: it may be a secret."""
    told: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for one in sorted(found, key=lambda one: (one.reader, one.owner, one.first or "", one.feature[0])):
        whats, firsts = told.setdefault((one.reader, one.owner), ({}, {}))
        if one.feature != _EVERYTHING:
            whats[f"the header {one.feature[1]}" if one.feature[0] == "header" else f"the {one.feature[0]}"] = None
        firsts["all at once" if one.first is None else f"{one.first!r} first"] = None
    return [
        f"{reader!r} was sent what belongs to {owner!r}: {', '.join(whats) or 'all that tells the two apart'} "
        f"(asked: {'; '.join(firsts)})"
        for (reader, owner), (whats, firsts) in told.items()
    ]
