"""Which routes of an application have something cached, and URLs by which they can be asked.

All effective routes are looked at, those of included routers and of mounted applications too. Values for parameters are
made up by what was declared, and taken only if that accepts them; where none is found, that is said.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from urllib.parse import quote, urlencode

from fastapi import routing
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel, TypeAdapter
from starlette.routing import BaseRoute, Host, Mount

from fast_cache.decorator import Operations
from fast_cache.http.coverage import Node, descend

_TRIED: Final = ("a", "1", "true", "1.5", "00000000-0000-0000-0000-000000000001", "2000-01-01", "12:00:00")
"""For a declaration that says nothing more: text, numbers, and what has a form of its own."""

_TRIED_NEXT: Final = ("2000-01-01T00:00:00Z", "P1D", "10", "100", "1000", "0", "-1", "aaaaaaaa", "a@example.com")
"""For one that does, by limits and lengths."""

_MOST: Final = 1000
"""How many combinations of values for a path are tried."""


@dataclass(frozen=True, slots=True)
class CachedRoute:
    """A route whose endpoint is cached, or something that it depends on.

    ``prefix`` is what mounts put before its path, as they were declared.
    """

    prefix: str
    path: str
    pattern: re.Pattern[str]
    dependant: Dependant
    overriding: Any
    functions: tuple[Operations, ...]
    below_host: bool = False

    @property
    def template(self) -> str:
        """Its whole path, as it was declared."""
        return self.prefix + self.path


class NoExample(Exception):
    """There is no value to ask with; the message says for what."""


def cached_routes(app: Any, method: str) -> list[CachedRoute]:
    """The routes for ``method`` that have something cached, in the order in which they are tried."""
    found = []
    for prefix, below_host, effective in _walk(app, "", False, {id(app)}):
        dependant = getattr(effective, "dependant", None)
        pattern = getattr(effective, "path_regex", None)
        if not isinstance(dependant, Dependant) or not isinstance(pattern, re.Pattern):
            continue
        if method not in (getattr(effective, "methods", None) or ()):
            continue
        overriding = getattr(effective, "dependency_overrides_provider", None)
        functions = tuple(_functions(dependant, overriding))
        if functions:
            found.append(CachedRoute(prefix, _path(effective), pattern, dependant, overriding, functions, below_host))
    return found


def example(route: CachedRoute) -> str:
    """A URL for ``route``.

    Raises:
        NoExample: none could be made up.
    """
    if route.below_host:
        raise NoExample("it lies below a Host, whose name can't be made up")
    nodes = [Node(route.dependant), *descend(Node(route.dependant), _overrides(route.overriding))]
    dependants = [node.dependant for node in nodes]
    if any(_is_required(parameter) for dependant in dependants for parameter in dependant.body_params):
        raise NoExample("it wants a body")
    declared = {_alias(parameter): parameter for dependant in dependants for parameter in dependant.path_params}
    query = {
        name: value
        for dependant in dependants
        for parameter in dependant.query_params
        if _is_required(parameter)
        for name, value in _in_query(parameter)
    }
    path = _filled(route.path, declared, route.pattern)
    # What mounts capture is declared nowhere but in their path.
    prefix = re.sub(r"{[^}]*}", "a", route.prefix)
    return prefix + path + (f"?{urlencode(query)}" if query else "")


def _walk(app: Any, prefix: str, below_host: bool, entered: set[int]) -> Iterator[tuple[str, bool, Any]]:
    """What precedes a route and whether that is a host, and the route as it is in effect."""
    for original, effective in _in_effect(getattr(app, "routes", ())):
        mounted = getattr(original, "app", None) if isinstance(original, (Mount, Host)) else None
        mounted = getattr(original, "_base_app", mounted)  # beneath middleware of the mount's own
        yield prefix, below_host, effective
        if mounted is not None and id(mounted) not in entered:
            here = "" if isinstance(original, Host) else str(getattr(effective, "path", ""))
            yield from _walk(mounted, prefix + here, below_host or isinstance(original, Host), entered | {id(mounted)})


def _in_effect(routes: Sequence[BaseRoute]) -> Iterator[tuple[Any, Any]]:
    lazily = getattr(routing, "iter_route_contexts", None)
    if lazily is None:  # older ones copy routes on inclusion
        return ((route, route) for route in routes)
    return ((context.original_route, context) for context in lazily(routes))


def _path(effective: Any) -> str:
    return str(getattr(effective, "path_format", None) or getattr(effective, "path", ""))


def _functions(dependant: Dependant, overriding: Any) -> Iterator[Operations]:
    """The cached functions that a route calls: by itself, or through its dependencies."""
    root = Node(dependant)
    for node in (root, *descend(root, _overrides(overriding))):
        operations = operations_of(node.dependant.call)
        if operations is not None:
            yield operations


def operations_of(call: Any) -> Operations | None:
    """The cached function that ``call`` is, or has inside: partials and other decorators are seen through."""
    for _ in range(100):
        for candidate in (
            getattr(call, "_operations", None),
            getattr(getattr(call, "invalidate_all", None), "__self__", None),
        ):
            if isinstance(candidate, Operations):
                return candidate
        call = getattr(call, "__wrapped__", None) or getattr(call, "func", None) or getattr(call, "__func__", None)
        if call is None:
            return None
    return None


def _overrides(provider: Any) -> Any:
    return getattr(provider, "dependency_overrides", None) or {}


def _filled(path: str, declared: dict[str, Any], pattern: re.Pattern[str]) -> str:
    """``path`` with values that the route accepts."""
    names = re.findall(r"{([^}:]*)[^}]*}", path)
    choices = [list(_accepted(declared[name])) if name in declared else list(_TRIED) for name in names]
    for name, values in zip(names, choices, strict=True):
        if not values:
            raise NoExample(f"there is no value for the path parameter {name}")
    for chosen in itertools.islice(itertools.product(*choices), _MOST):
        if pattern.match(_put_in(path, chosen)):
            return _put_in(path, [quote(value, safe="") for value in chosen])
    raise NoExample(f"there are no values for the path parameters {', '.join(names)}")


def _put_in(path: str, values: Iterable[str]) -> str:
    left = iter(values)
    return re.sub(r"{[^}]*}", lambda _: next(left), path)


def _in_query(parameter: Any) -> Iterator[tuple[str, str]]:
    """Names and values of a parameter that may be a whole model of them."""
    annotation = parameter.field_info.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, inner in annotation.model_fields.items():
            if inner.is_required():
                yield str(inner.validation_alias or inner.alias or name), _first(inner, name)
    else:
        yield _alias(parameter), _first(parameter.field_info, _alias(parameter))


def _first(info: Any, name: str) -> str:
    for value in _accepted_by(info):
        return value
    raise NoExample(f"there is no value for the query parameter {name}")


def _accepted(parameter: Any) -> Iterator[str]:
    return _accepted_by(parameter.field_info)


def _accepted_by(info: Any) -> Iterator[str]:
    """Texts that are valid for what was declared; the author's own examples come first."""
    annotation: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    examples = info.examples if isinstance(info.examples, list) else []
    tried = [*map(_text, examples), *_named(info.annotation), *_TRIED, *_TRIED_NEXT]
    for value in dict.fromkeys(tried):
        # A list is given by as many parameters of its name as it has elements; one is enough.
        if _is_valid(adapter, value) or _is_valid(adapter, [value]):
            yield value


def _named(annotation: Any) -> Iterator[str]:
    """The values that a type names."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        yield from (_text(member.value) for member in annotation)
    elif get_origin(annotation) is Literal:
        yield from map(_text, get_args(annotation))
    else:
        for inner in get_args(annotation):
            yield from _named(inner)


def _text(value: Any) -> str:
    value = value.value if isinstance(value, Enum) else value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_valid(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except Exception:  # of validators of the user's too
        return False
    return True


def _is_required(parameter: Any) -> bool:
    return bool(parameter.field_info.is_required())


def _alias(parameter: Any) -> str:
    info: Any = parameter.field_info
    name = getattr(info, "validation_alias", None) or getattr(parameter, "alias", None)
    return name if isinstance(name, str) else str(parameter.name)


def urls_of(given: str | Iterable[str]) -> tuple[str, ...]:
    """One URL, or several."""
    return (given,) if isinstance(given, str) else tuple(given)
