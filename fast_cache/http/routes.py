"""The effective routes of a request: what FastAPI runs for it, with everything that including routers added.

One decorated path operation may be served by several effective routes, because a router can be included more than
once. Relies on ``scope["app"]`` and ``scope["route"]``, and on ``fastapi.routing.iter_route_contexts`` where FastAPI
has it; older ones copy routes on inclusion, so that the route itself is the effective one. What is not found in the
application's own routes is not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import routing
from fastapi.dependencies.models import Dependant
from starlette.routing import BaseRoute, Host, Mount

Scope = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class EffectiveRoute:
    """One page: a path and the dependency graph that is solved for it.

    ``path_regex`` matches the path of a request within its application (:func:`route_path`). ``overriding`` is the
    object whose ``dependency_overrides`` FastAPI applies, mostly the application, or ``None``.
    """

    path_regex: re.Pattern[str]
    dependant: Dependant
    overriding: Any


def effective_routes(app: Any, route: Any) -> list[EffectiveRoute]:
    """Every effective route of ``app`` that ``route``, as it stands in ``scope["route"]``, was declared for.

    In the order in which FastAPI tries them. Empty where it can't be said: a route that is not among the
    application's, or is not of the known shape.
    """
    found: list[EffectiveRoute] = []
    for original, effective in _contexts(getattr(app, "routes", ()), set()):
        if original is not route:
            continue
        pattern, dependant = getattr(effective, "path_regex", None), getattr(effective, "dependant", None)
        if not isinstance(pattern, re.Pattern) or not isinstance(dependant, Dependant):
            return []
        found.append(EffectiveRoute(pattern, dependant, getattr(effective, "dependency_overrides_provider", None)))
    return found


def route_path(scope: Scope) -> str:
    """The path that the routes of ``scope["app"]`` are matched against: without what mounts took off it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    below = path.removeprefix(root)
    # A root path ends at a slash or with the path: "/app" is no root of "/apple".
    return below if root and (not below or below.startswith("/")) else path


def _contexts(routes: Sequence[BaseRoute], entered: set[int]) -> Iterator[tuple[Any, Any]]:
    """Pairs of a declared route and what it is in effect, mounted routers included."""
    if id(routes) in entered:  # an application mounted within itself
        return
    entered.add(id(routes))
    lazily = getattr(routing, "iter_route_contexts", None)
    pairs = ((r, r) for r in routes) if lazily is None else ((c.original_route, c) for c in lazily(routes))
    for original, effective in pairs:
        yield original, effective
        if isinstance(original, (Mount, Host)):
            yield from _contexts(getattr(effective, "routes", ()), entered)
