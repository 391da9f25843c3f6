"""The effective routes of a request: what FastAPI runs for it, with everything that including routers added.

One decorated path operation may be served by several effective routes, because a router can be included more than
once. Relies on ``scope["app"]`` and ``scope["route"]``, and on ``fastapi.routing.iter_route_contexts`` where FastAPI
has it; older ones copy routes on inclusion, so that the route itself is the effective one. What is not found in the
application's own routes is not guessed at.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import routing
from fastapi.dependencies.models import Dependant
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount, Router
from starlette.staticfiles import StaticFiles

from fast_cache.serializers import schema_digest

Scope = MutableMapping[str, Any]


_SHAPING: Final = (
    "status_code",
    *(f"response_model_{what}" for what in ("include", "exclude", "by_alias")),
    *(f"response_model_exclude_{what}" for what in ("unset", "defaults", "none")),
)


@dataclass(frozen=True, slots=True)
class EffectiveRoute:
    """One page: a path and the dependency graph that is solved for it.

    ``path_regex`` matches the path of a request within its application (:func:`route_path`). ``overriding`` is the
    object whose ``dependency_overrides`` FastAPI applies, mostly the application, or ``None``.
    """

    path_regex: re.Pattern[str]
    dependant: Dependant
    overriding: Any
    path: str = ""
    """Its template, prefixes included."""
    methods: frozenset[str] = frozenset()
    plain: bool = False
    """Whether FastAPI alone decides which requests reach it, and by the path."""
    straight: bool = False
    """Whether nothing changes its responses on their way out of the application, but its middlewares."""
    declared: Any = None

    def shape(self) -> str:
        """How it makes responses of what its endpoint returns: another shape makes other bytes of the same result."""
        route = self.declared
        kind = getattr(route, "response_class", None)
        kind = getattr(kind, "value", kind)  # a default is wrapped
        name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"
        model = schema_digest(getattr(route, "response_model", None))
        parts = [name, model, *(getattr(route, option, None) for option in _SHAPING)]
        return json.dumps(parts, default=_listed, sort_keys=True)


def effective_routes(app: Any, route: Any) -> list[EffectiveRoute]:
    """Every effective route of ``app`` that ``route``, as it stands in ``scope["route"]``, was declared for.

    In the order in which FastAPI tries them. Empty where it can't be said: a route that is not among the
    application's, or is not of the known shape.
    """
    found: list[EffectiveRoute] = []
    for original, effective, mounted in _contexts(getattr(app, "routes", ()), set()):
        if original is not route:
            continue
        made = _effective(original, effective, plain=not mounted)
        if made is None:
            return []
        found.append(made)
    return found


def all_routes(app: Any) -> Iterator[EffectiveRoute]:
    """Every effective route of ``app`` that has an endpoint of FastAPI's, in the order in which they are tried."""
    for original, effective, mounted in _contexts(getattr(app, "routes", ()), set(), within=True):
        made = _effective(original, effective, plain=not mounted)
        if made is not None:
            yield made


def has_own_ways(app: Any) -> bool:
    """Whether something other than paths and methods decides where a request goes."""
    routes = getattr(app, "routes", ())
    every = [*routes, *(original for original, _, _ in _contexts(routes, set()))]
    return any(isinstance(route, Host) or not _matches_by_path(route) for route in every)


def paths_to(app: Any, wanted: Callable[[Any], bool]) -> dict[str | None, re.Pattern[str]] | None:
    """What the paths match (:func:`route_path`) that may lead to endpoints or dependencies which are ``wanted``.

    By the method of the request; under ``None`` for all that are not named. ``None`` if that can't be told.

    Applications that are mounted are left out, and routers that are mounted count as what is wanted.
    """
    patterns: dict[str | None, list[str]] = {None: []}
    for original, effective, mounted in _contexts(getattr(app, "routes", ()), set(), within=True):
        pattern = getattr(effective, "path_regex", None)
        if isinstance(original, Host) or not _matches_by_path(original) or not isinstance(pattern, re.Pattern):
            return None
        if isinstance(original, Mount):
            leads = not isinstance(original.app, Starlette)
        else:
            dependant = getattr(effective, "dependant", None)
            leads = wanted(getattr(effective, "endpoint", None)) or _uses(dependant, wanted)
        if leads and not mounted:
            of_route = None if isinstance(original, Mount) else getattr(effective, "methods", None)
            for method in of_route or (None,):
                patterns.setdefault(method, []).append(_NAMED.sub("(?:", pattern.pattern))
    whatever = patterns[None]
    return {method: _any_of([*own, *whatever] if method else whatever) for method, own in patterns.items()}


def _any_of(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or "(?!)")


def steps_generators(app: Any) -> bool:
    """Whether a request may need a generator that is written ``def``, as far as can be told: of a dependency, or of a
    stream. Each of its steps is taken on a thread.
    """
    for original, effective, _ in _contexts(getattr(app, "routes", ()), set()):
        if isinstance(original, (Mount, Host)) and not isinstance(original.app, (Router, StaticFiles, Starlette)):
            return True
        if _makes_generator(getattr(effective, "endpoint", None)):
            return True
        if _uses(getattr(effective, "dependant", None), _is_generator):
            return True
    return False


def _is_generator(call: Any) -> bool:
    kinds = (call, inspect.unwrap(call), getattr(call, "__call__", None))  # noqa: B004 -- an object, maybe
    return any(map(inspect.isgeneratorfunction, kinds))


def _makes_generator(endpoint: Any) -> bool:
    """Whether there is one in the code of an endpoint, or among what that names."""
    function = inspect.unwrap(endpoint) if callable(endpoint) else endpoint
    code = getattr(function, "__code__", None)
    if code is None:
        return endpoint is not None and not inspect.isclass(endpoint)
    inner = (one for one in code.co_consts if inspect.iscode(one))
    if any(one.co_flags & inspect.CO_GENERATOR and one.co_name != "<genexpr>" for one in inner):
        return True
    named = [function.__globals__.get(name) for name in code.co_names]
    named += [cell.cell_contents for cell in function.__closure__ or ()]
    return any(map(inspect.isgeneratorfunction, named))


def _uses(dependant: Any, wanted: Callable[[Any], bool]) -> bool:
    """Whether anything beneath an endpoint is wanted."""
    below = getattr(dependant, "dependencies", ())
    return any(wanted(one.call) or _uses(one, wanted) for one in below)


_NAMED: Final = re.compile(r"\(\?P<\w+>")


def _matches_by_path(route: Any) -> bool:
    """Whether ``matches`` is the frameworks' own: another one may look at headers."""
    return getattr(type(route).matches, "__module__", "").partition(".")[0] in ("starlette", "fastapi")


def _effective(original: Any, effective: Any, *, plain: bool) -> EffectiveRoute | None:
    pattern, dependant = getattr(effective, "path_regex", None), getattr(effective, "dependant", None)
    if not isinstance(pattern, re.Pattern) or not isinstance(dependant, Dependant):
        return None
    return EffectiveRoute(
        pattern,
        dependant,
        getattr(effective, "dependency_overrides_provider", None),
        str(getattr(effective, "path_format", None) or getattr(effective, "path", "")),
        frozenset(getattr(effective, "methods", None) or ()),
        plain and type(original) is routing.APIRoute,
        plain and getattr(type(original), "get_route_handler", None) is routing.APIRoute.get_route_handler,
        effective,
    )


def _listed(value: Any) -> Any:
    """A set as a list: in each process it has another order."""
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def route_path(scope: Scope) -> str:
    """The path that the routes of ``scope["app"]`` are matched against: without what mounts took off it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    below = path.removeprefix(root)
    # A root path ends at a slash or with the path: "/app" is no root of "/apple".
    return below if root and (not below or below.startswith("/")) else path


def _contexts(
    routes: Sequence[BaseRoute], entered: set[int], *, mounted: bool = False, within: bool = False
) -> Iterator[tuple[Any, Any, bool]]:
    """A declared route, what it is in effect, and whether it lies below a mount or a host; mounted routers included,
    and mounted applications, unless it is to be ``within`` one."""
    if id(routes) in entered:  # an application mounted within itself
        return
    entered.add(id(routes))
    lazily = getattr(routing, "iter_route_contexts", None)
    pairs = ((r, r) for r in routes) if lazily is None else ((c.original_route, c) for c in lazily(routes))
    for original, effective in pairs:
        yield original, effective, mounted
        if isinstance(original, (Mount, Host)) and not (within and isinstance(original.app, Starlette)):
            yield from _contexts(getattr(effective, "routes", ()), entered, mounted=True, within=within)
