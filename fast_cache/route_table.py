"""What becomes of the cached endpoints of an application: where each is answered from, by which key, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI

from fast_cache.decorator import Operations
from fast_cache.entry import MISSING
from fast_cache.http.exchange import BOUND, Exchanges, may_be_cached
from fast_cache.http.identity import judge
from fast_cache.http.routes import EffectiveRoute, all_routes
from fast_cache.keys import Role
from fast_cache.method import BoundCachedMethod, CachedMethod
from fast_cache.pages import say_uncached, why_routed

BEFORE_ROUTING: Final = "before routing"
AFTER_DEPENDENCIES: Final = "after dependencies"
AS_A_VALUE: Final = "as a value"
UNCACHED: Final = "uncached"


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """What becomes of requests for one route.

    Attributes:
        path: its template, prefixes included.
        methods: those that are answered from the cache; those of the route if none is.
        function: the full name of the endpoint.
        answered: ``"before routing"``: from local memory, by its exact path and query, once it was asked for, unless a
            middleware stands inside of the cache's own or ``dependency_overrides`` are set; ``"after dependencies"``;
            ``"as a value"``: another decorator is around the cached function, and what that returns is cached;
            ``"uncached"``.
        key: what tells its pages apart, in words; what comes from headers, cookies and security schemes is in the key
            as a digest.
        reasons: why it is uncached, and what to write; or why it is not answered before routing.
    """

    path: str
    methods: tuple[str, ...]
    function: str
    answered: str
    key: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


class RouteTable(tuple[RouteExplanation, ...]):
    """The explanations of all routes with cached endpoints, in the order in which they are tried. ``str`` draws it."""

    __slots__ = ()

    def __str__(self) -> str:
        head = ("route", "methods", "answered", "key", "why")
        rows = [
            (one.path, ", ".join(one.methods), one.answered, ", ".join(one.key), "; ".join(one.reasons)) for one in self
        ]
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
        lines = []
        for row in (head, tuple("-" * width for width in (*widths, len(head[-1]))), *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            lines.append("  ".join([*cells, row[-1]]).rstrip())
        return "\n".join(lines)


def route_table(app: FastAPI, functions: Iterable[Operations]) -> RouteTable:
    """Explain the endpoints of ``app`` that are among ``functions``, as if ``init_app`` had been called for it."""
    return RouteTable(_rows(app, _by_wrapper(functions)))


def say_what_is_uncached(app: FastAPI, functions: Iterable[Operations]) -> None:
    """Say of the endpoints of ``app`` which can't be cached, and why: before anybody asks for them."""
    known = _by_wrapper(functions)
    for route in all_routes(app):
        function = _operations(route.dependant.call, known)
        if function is None or not route.straight or not route.methods & function.page.methods:
            continue
        verdict = judge(route, function.fn, function.rules)
        if not verdict.cacheable:
            say_uncached(function.policy.name, verdict)


def _by_wrapper(functions: Iterable[Operations]) -> dict[int, Operations]:
    return {id(function.wrapper): function for function in functions if hasattr(function, "wrapper")}


def _rows(app: FastAPI, known: dict[int, Operations]) -> Iterator[RouteExplanation]:
    for route in all_routes(app):
        call = route.dependant.call
        function = _operations(call, known)
        if function is not None:
            yield _explained(app, route, function)
        elif may_be_cached(call):
            name = f"{getattr(call, '__module__', '')}.{getattr(call, '__qualname__', type(call).__qualname__)}"
            reason = "another decorator is around the cached function, so it is a value that is cached"
            yield RouteExplanation(route.path, tuple(sorted(route.methods)), name, AS_A_VALUE, reasons=(reason,))


def _operations(call: Any, known: dict[int, Operations]) -> Operations | None:
    if isinstance(call, (CachedMethod, BoundCachedMethod)):
        operations: Operations = call._operations
        return operations if known.get(id(operations.wrapper)) is operations else None
    return known.get(id(call))


def _explained(app: FastAPI, route: EffectiveRoute, function: Operations) -> RouteExplanation:
    options, name = function.page, function.policy.name
    methods = tuple(sorted(route.methods & options.methods))
    if not methods:
        wanted, there = ", ".join(sorted(options.methods)), tuple(sorted(route.methods))
        return RouteExplanation(route.path, there, name, UNCACHED, reasons=(f"only {wanted} is cached; see methods=",))
    verdict = judge(route, function.fn, function.rules)
    if not verdict.cacheable:
        return RouteExplanation(route.path, methods, name, UNCACHED, reasons=verdict.reasons)
    if not route.straight:
        reason = "its route does something to responses, or is mounted, so it is a value that is cached"
        return RouteExplanation(route.path, methods, name, AS_A_VALUE, reasons=(reason,))
    exchanges = getattr(app.state, BOUND, MISSING)
    if exchanges is MISSING:
        reason = "the application was never initialised; call cache.init_app(app)"
        return RouteExplanation(route.path, methods, name, UNCACHED, reasons=(reason,))
    innermost = (
        exchanges.innermost if exchanges is not None else getattr(app.user_middleware[-1], "cls", None) == Exchanges
    )
    reasons = why_routed(route, verdict, options, app, innermost=innermost)
    store = function.binding.store
    if not (store.slotted and store.shares):
        reasons.append("the backend keeps nothing in local memory that may be handed out; see LayeredBackend")
    if app.dependency_overrides:
        reasons.append("dependency_overrides are set")
    answered = AFTER_DEPENDENCIES if reasons else BEFORE_ROUTING
    return RouteExplanation(route.path, methods, name, answered, tuple(_key(function)), tuple(reasons))


def _key(function: Operations) -> Iterator[str]:
    yield "route"
    yield "method"
    for name, role in function.roles.items():
        if role is Role.KEYED:
            yield name
        elif role is Role.HASHED:
            yield f"{name} (digest)"
        elif role is Role.BUILT:
            yield "key_builder"
            break
    for header in function.page.vary_on:
        yield f"header {header} (digest)"
