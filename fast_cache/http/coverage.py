"""The coverage rule: can what an endpoint depends on reach it past its key?

A dependency graph is walked from the function down. Whatever in it reads the request must lie beneath a parameter
whose value is in the key and tells visitors apart, or beneath one that the author answers for. All else is a reason
not to cache, in words that say what to write. Relies on the graph being the effective one; does no I/O and calls
nothing of the user's.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.openapi.models import APIKey, APIKeyIn, SecuritySchemeType
from fastapi.security.base import SecurityBase

from fast_cache.http.endpoint import REQUEST_PARAMETER, RESPONSE_PARAMETER
from fast_cache.keys.parameters import hints_of, tells_nothing
from fast_cache.keys.roles import Role

Overrides = Mapping[Callable[..., Any], Callable[..., Any]]

_IN_KEY: Final = frozenset({Role.KEYED, Role.HASHED})
_AUTHORS_WORD: Final = frozenset({Role.NOT_KEYED, Role.BUILT, Role.OMITTED})
_FIELDS: Final = {
    "path_params": "path parameter",
    "query_params": "query parameter",
    "header_params": "header",
    "cookie_params": "cookie",
    "body_params": "body parameter",
}
_OF_THE_VISITOR: Final = frozenset({"header", "cookie"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether results of a function may be shared among the requests that give the same key.

    ``reasons`` are sentences for the author, and empty where ``cacheable``. ``authorization`` says whether that holds
    for requests with an ``Authorization`` header too (RFC 9111, section 3.5).
    """

    cacheable: bool
    reasons: tuple[str, ...] = ()
    authorization: bool = False
    private: bool = field(default=True, compare=False)
    """Whether anything tells visitors apart on the way to it: identity in the key, or guards."""
    blind: bool = field(default=False, compare=False)
    """Whether it depends on path and query alone, and nothing has to run for it."""
    addressed: bool = field(default=False, compare=False)
    """Whether path, query and the headers that pages vary on say all that is in the key."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the author said about one function.

    ``roles`` by parameter name. ``shared``: the answer is the same for everyone whom the guards let in.
    ``author_keyed``: ``key=`` or ``key_builder=`` makes the key, and answers for all parameters. Of a ``page`` status
    and headers are stored too; ``public``: it is the same for everyone; ``vary_on``: headers, in lower case, that are
    in the key.
    """

    roles: Mapping[str, Role]
    shared: bool = False
    author_keyed: bool = False
    page: bool = False
    public: bool = False
    vary_on: frozenset[str] = frozenset()

    def in_key(self, parameter: str | None) -> bool:
        """Whether the whole value of ``parameter`` is in the key."""
        return not self.author_keyed and self.roles.get(parameter or "") in _IN_KEY

    def covered(self, parameter: str | None) -> bool:
        """Whether the key or the author answers for ``parameter`` and all that it was made from."""
        return self.author_keyed or self.in_key(parameter) or self.roles.get(parameter or "") in _AUTHORS_WORD


class Node(NamedTuple):
    """A dependency in the graph."""

    dependant: Dependant
    identity: Hashable = None
    """Equal for two dependencies where FastAPI solves them once and uses the result twice."""
    scopes: frozenset[str] = frozenset()
    """The OAuth2 scopes it is solved for, its dependents' among them."""
    replaced: bool = False
    """Whether it stands in ``dependency_overrides`` for another."""


class Read(NamedTuple):
    """Something in the graph that reads the request."""

    reader: str
    what: str
    of_visitor: bool
    """Whether it can tell who asks, as paths, queries and bodies by themselves do not."""
    authorization: bool = False
    """Whether it is the ``Authorization`` header."""


@dataclass(slots=True)
class _Known:
    """What the key already holds: fields of the function's own, and results of dependencies."""

    fields: dict[tuple[str, str], Any] = field(default_factory=dict)
    results: set[Hashable] = field(default_factory=set)
    beneath: set[Hashable] = field(default_factory=set)
    """The dependencies from which ``results`` were made, themselves among them."""
    headers: frozenset[str] = frozenset()
    """Those that are in the key as they came."""

    def holds(self, kind: str, parameter: Any) -> bool:
        if kind == "header" and _alias(parameter).lower() in self.headers:
            return True
        return _declaration(self.fields.get((kind, _alias(parameter)))) == _declaration(parameter)


def assess(node: Node, terms: Terms, overrides: Overrides) -> Verdict:
    """Judge the function that ``node`` calls, by the graph beneath it."""
    root = node.dependant
    owner = name_of(root.call)
    children = list(below(node, overrides))
    private, blind = _told_apart(root, children, terms, overrides), _is_blind(root, children)
    addressed = _is_addressed(root, children, terms)
    if terms.public:
        unkeyed = tuple(_whole_reasons(root, terms, owner))
        return Verdict(not unkeyed, unkeyed, authorization=True, private=False, blind=blind, addressed=addressed)
    telling = _telling(root, children, terms)
    known = _known(root, telling.values(), terms, overrides)
    reasons = list(_own_reasons(root, terms, owner))
    reasons.extend(reason for child in children for reason in _left_out_reasons(child, terms, owner, overrides, known))
    authorization = terms.shared or any(
        _is_authorization(kind, parameter) for kind, parameter in _fields(root) if terms.covered(parameter.name)
    )
    for child in children:
        parameter = child.dependant.name
        if parameter is None or (terms.in_key(parameter) and parameter not in telling):
            if not (terms.shared or child.identity in known.beneath):
                reasons.extend(_guards_reason(read, child, owner) for read in reads(child, overrides, known))
        elif terms.covered(parameter):
            authorization = authorization or any(read.authorization for read in reads(child, overrides, _Known()))
        else:
            reasons.extend(
                _dependencys_reason(read, parameter, owner)
                for read in reads(child, overrides, known)
                if not (terms.shared and read.of_visitor)
            )
    return Verdict(not reasons, tuple(dict.fromkeys(reasons)), authorization, private, blind, addressed)


def _told_apart(root: Dependant, children: Iterable[Node], terms: Terms, overrides: Overrides) -> bool:
    """Whether anything on the way to a page, in the key or in a guard, tells visitors apart."""
    known = _Known(headers=terms.vary_on)
    own = any(kind in _OF_THE_VISITOR and not known.holds(kind, field) for kind, field in _fields(root))
    return (
        own
        or any(_whole(root))
        or any(read.of_visitor for child in children for read in reads(child, overrides, known))
    )


def _is_addressed(root: Dependant, children: Collection[Node], terms: Terms) -> bool:
    """Whether nothing is in the key that a dependency makes, or that stands in another header, a cookie or a body."""
    if terms.author_keyed:
        return _is_blind(root, children)  # else of whatever the author made it
    known = _Known(headers=terms.vary_on)
    fields = ((kind, field) for kind, field in _fields(root) if terms.in_key(field.name))
    return all(
        kind in ("path parameter", "query parameter") or (kind == "header" and known.holds(kind, field))
        for kind, field in fields
    ) and not any(terms.in_key(child.dependant.name) for child in children)


def _is_blind(root: Dependant, children: Collection[Node]) -> bool:
    """Whether nothing of a request but its path and query is looked at, and no dependency has to run."""
    own = all(kind in ("path parameter", "query parameter") for kind, _ in _fields(root))
    others = [child for child in children if child.dependant.name != REQUEST_PARAMETER]
    return own and not others and not any(_whole(root)) and root.security_scopes_param_name is None


def below(node: Node, overrides: Overrides) -> Iterator[Node]:
    """The dependencies of ``node`` as FastAPI will solve them: overrides in place of what they override."""
    for sub in node.dependant.dependencies:
        assert sub.call is not None  # FastAPI would not have got as far as calling anything
        scopes = node.scopes | _scopes(sub)
        identity = (sub.call, scopes, getattr(sub, "scope", None)) if sub.use_cache else object()
        replacement = overrides.get(sub.call, sub.call)
        replaced = replacement is not sub.call
        if replaced:
            sub = get_dependant(path=sub.path or "", call=replacement, name=sub.name)
        yield Node(sub, identity, scopes, replaced)


def descend(node: Node, overrides: Overrides) -> Iterator[Node]:
    """All dependencies beneath ``node``, each one once."""
    return _walk(below(node, overrides), overrides, set())


def _walk(nodes: Iterable[Node], overrides: Overrides, seen: set[Hashable]) -> Iterator[Node]:
    """``nodes`` and all dependencies beneath them, each one once, save what was ``seen`` and what only that uses."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.identity not in seen:
            seen.add(node.identity)
            yield node
            waiting.extend(below(node, overrides))


def reads(node: Node, overrides: Overrides, known: _Known) -> Iterator[Read]:
    """What ``node`` and the dependencies beneath it read from the request, save what ``known`` already holds.

    A dependency whose very result is in the key brings in nothing new. One that is merely beneath such a result
    does: a key that holds the language of a user does not hold the user.
    """
    seen = set(known.results)
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.identity in seen or node.dependant.name == REQUEST_PARAMETER:
            continue
        seen.add(node.identity)
        dependant, reader, scheme = node.dependant, name_of(node.dependant.call), _bare(node.dependant.call)
        if isinstance(scheme, SecurityBase):
            yield Read(reader, "is a security scheme", True, _reads_authorization(scheme))
            continue
        for kind, parameter in _fields(dependant):
            if not known.holds(kind, parameter):
                what = f"reads {kind} {_alias(parameter)}"
                yield Read(reader, what, kind in _OF_THE_VISITOR, _is_authorization(kind, parameter))
        for _, what in _whole(dependant):
            yield Read(reader, f"reads the whole {what}", True)
        waiting.extend(below(node, overrides))


def reaches(call: Any, function: Any) -> bool:
    """Whether ``call`` is ``function``, or wraps, binds or partially applies it, or has it as ``__call__``."""
    for _ in range(_DEEPEST):
        if call is function:
            return True
        if isinstance(call, functools.partial):
            call = call.func
        elif inspect.ismethod(call):
            call = call.__func__
        elif hasattr(call, "__wrapped__"):
            call = call.__wrapped__
        elif inspect.isroutine(call) or inspect.isclass(call):
            return False
        else:
            call = type(call).__call__
    return False


_DEEPEST: Final = 100
"""Wrappers around a function beyond which something is wrong, such as one that wraps itself."""


def name_of(call: Any) -> str:
    """A name for messages: of the function, or of the class where ``call`` is an object."""
    bare = _bare(call)
    return getattr(bare, "__name__", type(bare).__name__)


def _telling(root: Dependant, children: list[Node], terms: Terms) -> dict[str, Node]:
    """By parameter, the dependencies whose results are in the key and tell visitors apart. The others are guards."""
    hints = hints_of(root.call) if root.call is not None else {}
    return {
        name: child
        for child in children
        if (name := child.dependant.name) is not None
        and terms.in_key(name)
        and not (child.dependant.call and tells_nothing(hints.get(name), child.dependant.call))
    }


def _known(root: Dependant, keyed: Collection[Node], terms: Terms, overrides: Overrides) -> _Known:
    results = {node.identity for node in keyed}
    return _Known(
        fields={(kind, _alias(p)): p for kind, p in _fields(root) if terms.in_key(p.name)},
        results=results,
        beneath=results.union(sub.identity for node in keyed for sub in descend(node, overrides)),
        headers=terms.vary_on,
    )


def _own_reasons(root: Dependant, terms: Terms, owner: str) -> Iterator[str]:
    for kind, parameter in _fields(root):
        varies = kind == "header" and _alias(parameter).lower() in terms.vary_on
        if not varies and not terms.covered(parameter.name):
            yield (
                f"{kind} {_alias(parameter)} of {owner} is not part of its key; annotate {parameter.name} as "
                "Annotated[..., NotKeyed] if the result does not depend on it"
            )
    yield from _whole_reasons(root, terms, owner)
    response = _response(root)
    if response is not None and not terms.page and terms.roles.get(response) is not Role.NOT_KEYED:
        yield _response_reason(response, owner)


def _whole_reasons(root: Dependant, terms: Terms, owner: str) -> Iterator[str]:
    for name, _ in _whole(root):
        if not terms.covered(name):
            yield (
                f"parameter {name} of {owner} is the request itself, which no key can hold; take what the result "
                f"depends on as parameters of their own, annotate {name} as Annotated[Request, NotKeyed] if the result "
                "does not depend on it, or pass key_builder="
            )


def _left_out_reasons(child: Node, terms: Terms, owner: str, overrides: Overrides, known: _Known) -> Iterator[str]:
    """Why the result of a dependency must not be left out of the key though it reads nothing of the request."""
    name = child.dependant.name
    role = terms.roles.get(name or "")
    if name is None or role in _IN_KEY or role in _AUTHORS_WORD:
        return
    beneath = list(_walk([child], overrides, set(known.results)))
    if not terms.page and role is Role.PER_REQUEST and any(_response(node.dependant) for node in beneath):
        yield _response_reason(name, owner)
    for node in beneath:
        if node.replaced:
            yield (
                f"dependency_overrides puts {name_of(node.dependant.call)} beneath {name} of {owner}, which is left "
                "out of its key, and another application may put something else there; annotate "
                f"{name} as Annotated[..., NotKeyed] if the result is the same whatever stands there"
            )


def _response_reason(name: str, owner: str) -> str:
    return (
        f"{owner} takes the Response, whose status and headers a cached value can't replay; cache a function beneath "
        f"{owner} that does not take it, or annotate {name} as Annotated[Response, NotKeyed] if {owner} sets nothing "
        "on it that matters"
    )


def _dependencys_reason(read: Read, parameter: str, owner: str) -> str:
    everyone = ", or pass shared=True if everyone gets the same answer" if read.of_visitor else ""
    return (
        f"dependency {read.reader} {read.what}, which no keyed parameter of {owner} covers; declare what the result "
        f"depends on as a parameter of {owner}, or annotate {parameter} as Annotated[..., NotKeyed] if the result does "
        f"not depend on that{everyone}"
    )


def _guards_reason(read: Read, guard: Node, owner: str) -> str:
    name, parameter = name_of(guard.dependant.call), guard.dependant.name
    through = "" if read.reader == name else f" (through {read.reader})"
    out = f"take what {name} returns as a parameter of {owner}"
    if parameter is not None:
        out = f"let {name} return what the result depends on, because {parameter} tells no two visitors apart"
    return (
        f"guard {name} {read.what}{through}, which no keyed parameter of {owner} covers; pass shared=True if the "
        f"answer is the same for everyone whom the guards let in, or {out}"
    )


def _fields(dependant: Dependant) -> Iterator[tuple[str, Any]]:
    for attribute, kind in _FIELDS.items():
        for parameter in getattr(dependant, attribute):
            yield kind, parameter


def _whole(dependant: Dependant) -> Iterator[tuple[str, str]]:
    """The parameters that FastAPI fills with the request itself, and what to call it; ours is not among them."""
    for name, what in ((dependant.request_param_name, "request"), (dependant.http_connection_param_name, "connection")):
        if name is not None and name != REQUEST_PARAMETER:
            yield name, what


def _response(dependant: Dependant) -> str | None:
    """The parameter that FastAPI fills with the response, unless it is ours."""
    name = dependant.response_param_name
    return None if name == RESPONSE_PARAMETER else name


def _alias(parameter: Any) -> str:
    """What the field is called in a request."""
    name = getattr(parameter, "validation_alias", None)
    return name if isinstance(name, str) else str(parameter.alias)


def _is_authorization(kind: str, parameter: Any) -> bool:
    return kind == "header" and _alias(parameter).lower() == "authorization"


def _declaration(parameter: Any) -> tuple[Any, ...] | None:
    """What decides how a field is read: two of the same declaration have the same value in every request.

    The type matters too: 1 is in the key for "1" and for "01", which a dependency that takes text tells apart.
    """
    if parameter is None:
        return None
    info = parameter.field_info
    return (
        getattr(info, "validation_alias", None),
        info.annotation,
        info.default,
        info.default_factory,
        tuple(info.metadata),
    )


def _scopes(dependant: Dependant) -> frozenset[str]:
    """The OAuth2 scopes that a dependency is solved for; FastAPI has renamed the attribute over time."""
    names = ("own_oauth_scopes", "parent_oauth_scopes", "security_scopes")
    return frozenset(scope for name in names for scope in getattr(dependant, name, None) or ())


def _reads_authorization(scheme: SecurityBase) -> bool:
    if not type(scheme).__call__.__module__.startswith("fastapi."):
        return False  # a subclass that looks elsewhere, such as in a cookie
    model: Any = scheme.model
    if isinstance(model, APIKey):
        return model.in_ is APIKeyIn.header and model.name.lower() == "authorization"
    return model.type_ in (SecuritySchemeType.http, SecuritySchemeType.oauth2, SecuritySchemeType.openIdConnect)


def _bare(call: Any) -> Any:
    while isinstance(call, functools.partial):
        call = call.func
    return inspect.unwrap(call) if callable(call) else call
