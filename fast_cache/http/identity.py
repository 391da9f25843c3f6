"""May this call be answered from the cache? The verdict on one function in one request.

A function that FastAPI calls, as an endpoint or as a dependency, is judged by the coverage rule over the effective
graph of the route that the request matched. Whatever can't be determined is not cacheable. The :class:`Planner`
remembers verdicts without keeping any application, route or function alive; nothing here does I/O.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from starlette.requests import HTTPConnection

from fast_cache.http.coverage import Node, Overrides, Terms, Verdict, assess, descend, name_of, reaches
from fast_cache.http.routes import EffectiveRoute, Scope, effective_routes, route_path
from fast_cache.keys.roles import Role
from fast_cache.once import logger

__all__ = ["Planner", "Verdict", "authorization_allowed", "judge", "verdict"]

Page = tuple[re.Pattern[str], Verdict]

_ANYWHERE: Final = re.compile("")


def verdict(
    request: HTTPConnection | Scope,
    function: Callable[..., Any],
    roles: Mapping[str, Role],
    *,
    shared: bool = False,
    author_keyed: bool = False,
) -> Verdict:
    """Judge ``function`` in this request, as a function that makes values, without remembering.

    Args:
        request: what FastAPI passed as ``REQUEST_PARAMETER``, or its scope, while the request is served.
        function: the decorated function itself (not bound to an instance); other decorators may be around it.
        roles: what each parameter is to the key. A parameter that is missing counts as not in the key.
        shared: the author's word that the answer is the same for everyone whom the guards let in. It covers what
            guards read, and what tells visitors apart (headers, cookies, security schemes, a request taken by a
            dependency); not the path, query and body that a dependency reads, nor the function's own ``Request``.
        author_keyed: ``key=`` or ``key_builder=`` makes the key: the author answers for the function's parameters
            and what is beneath them, not for guards.
    """
    scope = request.scope if isinstance(request, HTTPConnection) else request
    return _examine(scope, function, Terms(roles, shared, author_keyed)).here(scope)


def authorization_allowed(verdict: Verdict, headers: Mapping[str, str]) -> bool:
    """Whether a request with these headers may be answered from, and stored in, a cache that visitors share.

    RFC 9111, section 3.5: credentials in ``Authorization`` need the author's consent. It is given where the header
    is read beneath a parameter that is in the key or ``NotKeyed``, and by ``shared=True``. A ``Request`` beneath a
    keyed parameter is no consent: what a dependency takes from it can't be seen.

    Args:
        verdict: the verdict on the function.
        headers: of the request, names in any case (``request.headers``).
    """
    return verdict.authorization or "authorization" not in headers


class Planner:
    """The verdicts of one cache, each made once per effective route and function.

    Memory is bounded by what is alive: a verdict goes when its application, route or function does. A known verdict
    costs a lookup and a match of the path, which notices a router that is included again later on. Where an
    application has ``dependency_overrides``, those in force are part of what is remembered, and only the latest.
    """

    def __init__(self) -> None:
        self._plans: dict[Hashable, _Plan] = {}

    def verdict(
        self,
        request: HTTPConnection,
        function: Callable[..., Any],
        roles: Mapping[str, Role],
        *,
        shared: bool = False,
        author_keyed: bool = False,
    ) -> Verdict:
        """Like :func:`verdict`. Two wrappers of one function, on other terms, have verdicts of their own."""
        scope = request.scope
        app, route = scope.get("app"), scope.get("route")
        key = (id(app), id(route), id(function), shared, author_keyed, tuple(roles.items()))
        plan = self._plans.get(key)
        if plan is not None and plan.concerns(app, route, function):
            pages = plan.pages(getattr(app, "dependency_overrides", None))
            found = _at(pages, route_path(scope))
            if found is not None:
                return found
        overrides = dict(getattr(app, "dependency_overrides", None) or {})  # as they are before they are read
        examined = _examine(scope, function, Terms(roles, shared, author_keyed))
        if examined.lasting:
            plans = self._plans
            plans[key] = _Plan(app, route, function, examined.pages, overrides, forget=lambda _: plans.pop(key, None))
        return examined.here(scope)

    def __len__(self) -> int:
        """How many verdicts are remembered, by application, route, function and terms."""
        return len(self._plans)


class _Plan:
    """What is remembered of one function on one route, and of whom, without keeping them alive."""

    __slots__ = ("_app", "_function", "_overrides", "_pages", "_route")

    def __init__(
        self,
        app: Any,
        route: Any,
        function: Callable[..., Any],
        pages: tuple[Page, ...],
        overrides: Overrides,
        *,
        forget: Callable[[Any], Any],
    ) -> None:
        self._app, self._route, self._function = (weakref.ref(thing, forget) for thing in (app, route, function))
        self._pages = pages
        self._overrides = tuple((_weak(original), _weak(replacement)) for original, replacement in overrides.items())

    def concerns(self, app: Any, route: Any, function: Callable[..., Any]) -> bool:
        """Whether this is about these very objects, and not about others that had their addresses."""
        return self._app() is app and self._route() is route and self._function() is function

    def pages(self, overrides: Overrides | None) -> tuple[Page, ...]:
        """What was found with the same overrides in force; nothing if they were others."""
        known = self._overrides
        if not overrides and not known:
            return self._pages
        if overrides is None or len(overrides) != len(known):
            return ()
        same = zip(known, tuple(overrides.items()), strict=True)
        return self._pages if all(a() is original and b() is now for (a, b), (original, now) in same) else ()


class _Examined(NamedTuple):
    """The verdicts on all pages of a route; ``lasting`` if nothing but the application's overrides can change them."""

    pages: tuple[Page, ...]
    lasting: bool

    def here(self, scope: Scope) -> Verdict:
        """The verdict on the page of this request; where the path does not tell which one it is, on all of them."""
        return _at(self.pages, route_path(scope)) or _all(verdict for _, verdict in self.pages)


def _examine(scope: Scope, function: Callable[..., Any], terms: Terms) -> _Examined:
    app, route, name = scope.get("app"), scope.get("route"), name_of(function)
    if scope["type"] != "http":
        reason = f"{name} was called for a WebSocket, and only what HTTP requests call is cached"
        return _Examined(((_ANYWHERE, Verdict(False, (reason,))),), lasting=False)
    try:
        routes = effective_routes(app, route)
        pages = tuple((page.path_regex, judge(page, function, terms)) for page in routes)
    except Exception:
        # FastAPI's graphs are not ours: whatever shape they take one day, requests are answered, without the cache.
        logger.exception("the dependencies of %s could not be examined; it runs uncached", name)
        routes, pages = [], ()
    if not pages:
        reason = (
            f"what {name} depends on can't be determined, because its route was not found among those of its "
            "application or is not of a known kind; add it with a decorator of the application or of an included router"
        )
        pages = ((_ANYWHERE, Verdict(False, (reason,))),)
    lasting = route is not None and all(page.overriding is None or page.overriding is app for page in routes)
    return _Examined(pages, lasting)


def judge(page: EffectiveRoute, function: Callable[..., Any], terms: Terms) -> Verdict:
    """The verdict on ``function`` where it is the endpoint of ``page``, or one of its dependencies."""
    overrides: Overrides = getattr(page.overriding, "dependency_overrides", None) or {}
    root = Node(page.dependant)
    if reaches(page.dependant.call, function):
        return assess(root, terms, overrides)
    uses = [node for node in descend(root, overrides) if reaches(node.dependant.call, function)]
    if not uses:
        reason = (
            f"what {name_of(function)} depends on can't be determined, because it is neither the endpoint of its "
            "request nor a dependency; put functools.wraps on what is wrapped around it"
        )
        return Verdict(False, (reason,))
    # A dependency is cached as a function, not as a page: neither the guards of the route nor the rule for
    # credentials in requests for pages concern it.
    return replace(_all(assess(node, terms, overrides) for node in uses), authorization=True)


def _at(pages: Iterable[Page], path: str) -> Verdict | None:
    """The verdict on the pages at ``path``: of several, such as below two mounts, the one that holds for all."""
    found = None
    for pattern, page in pages:
        if pattern.match(path):
            found = page if found is None else _all((found, page))
    return found


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    every = tuple(verdicts)
    reasons = dict.fromkeys(reason for verdict in every for reason in verdict.reasons)
    return Verdict(not reasons, tuple(reasons), all(verdict.authorization for verdict in every))


def _weak(target: Callable[..., Any]) -> Callable[[], Any]:
    try:
        return weakref.ref(target)
    except TypeError:
        return lambda: target
