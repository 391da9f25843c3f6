"""The pages of one function on one route: their keys, what becomes of a response, and pages that are at hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import Scope

from fast_cache.entry import MAX_VISITS, NEVER, AgedEntry
from fast_cache.freshness import Found, Life
from fast_cache.http.aliases import names_in
from fast_cache.http.coverage import Verdict
from fast_cache.http.directives import cache_groups, directives, seconds_of
from fast_cache.http.exchange import Exchanges
from fast_cache.http.options import PageOptions
from fast_cache.http.page import Page, PageCodec, Unstorable, page_of
from fast_cache.http.routes import EffectiveRoute, has_own_ways
from fast_cache.http.sending import Headers, Sender, has_it
from fast_cache.once import warn_once
from fast_cache.outcome import Outcome
from fast_cache.policy import CachePolicy, Keeping, LoadOptions
from fast_cache.serializers import Codec, RaisingCodec, register
from fast_cache.single_flight import Mark

if TYPE_CHECKING:
    from fast_cache.decorator import Operations

_PASSING: Final = 4096
"""Of how many keys of a route it is remembered that their answers can't be stored."""

_PASSING_FOR: Final = 10.0
"""For how many seconds that is remembered."""

_COUNTED_FOR: Final = 60.0
"""For how many seconds at least the variants of a route are counted."""

_OWN: Final = frozenset({"set-cookie", "www-authenticate"})
"""Headers of an exception that are for the visitor alone whom it is raised for."""

_LONGEST_ALIAS: Final = 512
"""Of path and query, in characters: longer ones are routed each time, so that nobody fills the memory with them."""

ASKED: Final = frozenset({b"if-none-match", b"authorization", b"cache-control", b"pragma"})
"""In which headers a request says something to a cache."""

_NAME: Final = itemgetter(0)


class EndpointOptions(LoadOptions, total=False):
    """The options of ``cached`` that have no parameter of their own there."""

    public: bool
    vary_on: str | Iterable[str]
    methods: str | Iterable[str]
    statuses: int | Iterable[int]
    cache_control: str | None
    client_control: bool


@dataclass(frozen=True)
class PagePolicy(CachePolicy):
    """The policy of a function's pages: they are stored whatever it is that they were made from."""

    inner: Codec | None = None
    """What makes bytes of the function's results by the author's word; it gets those of a page."""

    def keeping(self, value: Any) -> Keeping:
        # What can't be stored is its visitor's alone, and holds up nobody.
        return Keeping.STORE if type(value) is Page else Keeping.ALONE

    def keeping_error(self, error: Exception, spare: Found | None) -> Keeping:
        # That a request could not be made again is no result of the function's, whatever it says of its exceptions.
        if type(error) is NotRepeated:
            return Keeping.SHARE
        if isinstance(error, HTTPException) and any(name.lower() in _OWN for name in error.headers or ()):
            return Keeping.ALONE  # made of this visitor's request
        return super().keeping_error(error, spare)

    def life(
        self, outcome: Outcome, said: Mark, args: tuple[Any, ...], kwargs: dict[str, Any], default: float | None
    ) -> Life | None:
        life = super().life(outcome, said, args, kwargs, default)
        if life is not None and type(outcome.value) is Page:
            outcome.value.lifetime = NEVER if life.fresh is None else life.fresh
        return life

    def _make_codec(self, default: Codec | None) -> Codec:
        codec: Codec = PageCodec(default if self.inner is None else self.inner)
        register(codec)
        if self.cache_errors:
            codec = RaisingCodec(codec, [kind for kind, _ in self.cache_errors])
            register(codec)
        return codec


class NotRepeated(Exception):
    """A page could not be made behind its visitor: something on the way to its endpoint answered in its place, or the
    request may change something."""


class RoutePages:
    """The pages of one function on one route.

    ``prefix`` is what their keys begin with: that of the function's keys, with a digest of the route in its version, so
    that they belong to the function's group.
    """

    def __init__(self, function: Operations, route: EffectiveRoute, verdict: Verdict, outer: Exchanges) -> None:
        self.function = function
        self.verdict = verdict
        options = function.page
        self.options = options
        self.varies = _varies(route, options)
        head, _, version = function.keys.prefix[:-1].rpartition(":")
        told = "\0".join((route.path, route.shape(), ",".join(options.vary_on)))
        digest = blake2b(told.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
        self.prefix = f"{head}:{version}~{digest}:"
        # The usual key in one piece: to put it together from two would be 0.5 µs of a hit.
        self._get = None if options.vary_on else function.endpoint_keys.compiled_with(f"{self.prefix}GET ")
        self.counted = function.counted
        self.hit = function.hit
        self.policy = _page_policy(function.policy)
        # What can't be stored can't be made behind its visitor either, as an impatient one would have it.
        patient = replace(self.policy.freshness, timeout=None, hard_timeout=None)
        self.unshared = replace(self.policy, lock=False, freshness=patient)
        self.http = function.binding.http
        self.sender = Sender(self.http, options, self.policy, private=verdict.private, weak=outer.weak)
        self._passing: dict[str, float] = {}
        self._variants: set[str] = set()
        self._counting_since = monotonic()
        self._queries = {str(getattr(p, "validation_alias", None) or p.alias) for p in route.dependant.query_params}
        self.before_routing = not why_routed(route, verdict, options, outer.owner, innermost=outer.innermost)
        self.shelf = function.binding.register_pages(self)

    def key(self, scope: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """The key of the page for a request; ``None`` if it varies more than is stored.

        Raises:
            UnkeyableError: there is none.
        """
        method = scope["method"]
        if method == "GET" and self._get is not None:
            return self._get(*args, **kwargs)
        keys = self.function.endpoint_keys
        rest = keys.compiled(*args, **kwargs)[len(keys.prefix) :]
        if not self.options.vary_on:
            return f"{self.prefix}{method} {rest}"
        variant = self.variant(scope["headers"])
        if variant not in self._variants:
            if len(self._variants) >= self.http.max_variants and not self._renewed():
                warn_once(
                    f"{self.function.policy.name} varies on more than {self.http.max_variants} values of "
                    f"{', '.join(self.options.vary_on)}; others run uncached (HTTPOptions.max_variants)",
                    "variants",
                    self.prefix,
                )
                return None
            self._variants.add(variant)
        return f"{self.prefix}{method} {variant} {rest}"

    def _renewed(self) -> bool:
        """Whether variants are counted anew: those that somebody made up must not be in the way of others for good."""
        now = monotonic()
        if now - self._counting_since < _COUNTED_FOR:
            return False
        self._counting_since, self._variants = now, set()
        return True

    def variant(self, headers: Any) -> str:
        """A digest of what a request says in the headers that pages vary on; ``headers`` as in its scope."""
        wanted = [name.encode("latin-1") for name in self.options.vary_on]
        # Line by line: a header that is absent is another thing than an empty one, and two lines than one with a comma.
        said = [b"".join(b"%d:%b" % (len(value), value) for name, value in headers if name == one) for one in wanted]
        return blake2b(b"\0".join(said), digest_size=12).hexdigest()

    def admits(self, asked: list[tuple[bytes, bytes]]) -> bool:
        """Whether a request that says this to caches may be answered from one that visitors share (RFC 9111, 3.5)."""
        if self.verdict.authorization or not any(name == b"authorization" for name, _ in asked):
            return True
        name = self.function.policy.name
        warn_once(
            f"{name} runs uncached for requests with an Authorization header, because nothing in its key "
            "comes from it; take what the result depends on as a parameter, or pass shared=True",
            "authorization",
            name,
        )
        return False

    def may_serve(self, asked: list[tuple[bytes, bytes]]) -> bool:
        """Whether a page at hand will do for a request that says this."""
        return wish_of(self.options, asked) is None and self.admits(asked)

    def serve(self, key: str, method: str, said: Sequence[tuple[bytes, bytes]]) -> tuple[Page, Headers, bool] | None:
        """A page that is at hand and has nothing to be decided about: that is a hit.

        Returns it with its headers, and whether 304 will do for a request whose headers are these.
        """
        entry = self.shelf.table.get(key)
        if entry is None:
            return None
        page = entry.value  # before the expiry: an entry is retired in the opposite order
        now = monotonic()
        if type(page) is not Page or entry.expires <= now:
            return None
        known = False
        if not ASKED.isdisjoint(map(_NAME, said)):  # 0.4 µs, where a loop over ten headers takes 0.9
            asked = asked_in(said)
            if not self.may_serve(asked):
                return None
            known = has_it(method, asked, page)
        if entry.visits < MAX_VISITS:
            entry.visits += 1
        self.hit()
        age = entry.age if isinstance(entry, AgedEntry) else None
        if age is None:
            return page, self.sender.hit(page, entry.expires - now, entry.lifetime, key), known
        return page, self.sender.hit(page, age.fresh_until - now, age.lifetime, key), known

    def holds(self, key: str) -> bool:
        """Whether local memory has a page that is fresh."""
        entry = self.shelf.table.get(key)
        return entry is not None and type(entry.value) is Page and entry.expires > monotonic()

    def passes(self, key: str) -> bool:
        """Whether an answer could not be stored a moment ago: then nobody waits for another's."""
        return bool(self._passing) and self._passing.get(key, 0.0) > monotonic()

    def pass_on(self, key: str) -> None:
        """An answer could not be stored."""
        if len(self._passing) >= _PASSING:
            self._passing.clear()
        self._passing[key] = monotonic() + _PASSING_FOR

    def page_of(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        of_request: list[tuple[bytes, bytes]] | None,
        tags: Any,
    ) -> Page | Unstorable:
        """The page that a response is, with the headers that it has as long as it is stored."""
        page = page_of(
            status,
            headers,
            body,
            of_request=of_request,
            statuses=self.options.statuses,
            vary_on=self.varies,
            max_body=self.http.max_body,
        )
        if isinstance(page, Unstorable):
            return page
        added = []
        if self.varies:
            added.append((b"vary", ", ".join(self.varies).encode("latin-1")))
        groups = cache_groups(tags) if self.http.cache_groups else b""
        if groups:
            added.append((b"cache-groups", groups))
        return Page(page.status, (*page.headers, *added), page.body, page.etag, whole=page.whole) if added else page

    def learn(self, outer: Exchanges, place: tuple[str, str], query: bytes, method: str, key: str) -> None:
        """What asks by these bytes asks for this page: another request that does need not be routed."""
        table = outer.aliases.table
        path, root_path = place
        if not self.before_routing or method != "GET" or (path, query) in table:
            return
        if len(path) + len(query) > _LONGEST_ALIAS:
            return
        names = names_in(query)
        if len(names) == len(set(names)) and self._queries.issuperset(names):
            outer.aliases.learn(path, query, Alias(self, key, root_path))

    def say_unstorable(self, why: Unstorable) -> None:
        name = self.function.policy.name
        warn_once(f"a response of {name} is not stored: {why.reason}", "unstorable", name, why.reason)


class Alias:
    """A page, or those of its variants."""

    __slots__ = ("_key", "_pages", "_rest", "_root_path")

    def __init__(self, pages: RoutePages, key: str, root_path: str) -> None:
        self._pages = pages
        self._root_path = root_path
        """Below which the path was routed: middlewares set it by what a request says."""
        self._key = None if pages.options.vary_on else key
        # What stands behind the method and the digest of what it varies on.
        self._rest = key[len(pages.prefix) :].split(" ", 2)[2] if pages.options.vary_on else ""

    def answer(self, scope: Scope, exchanges: Exchanges) -> tuple[Page, Headers, bool] | None:
        pages = self._pages
        owner = exchanges.owner
        if owner is None or owner.dependency_overrides or scope.get("root_path", "") != self._root_path:
            return None
        if pages.http is not pages.function.binding.http:
            return None
        key = self._key
        if key is None:
            key = f"{pages.prefix}GET {pages.variant(scope['headers'])} {self._rest}"
        return pages.serve(key, "GET", scope["headers"])


def _varies(route: EffectiveRoute, options: PageOptions) -> tuple[str, ...]:
    """The headers that a page depends on, for ``Vary``: those that the author names, and the endpoint's own parameters.

    Not those that identify visitors: what depends on them is private.
    """
    own = [str(getattr(p, "validation_alias", None) or p.alias).lower() for p in route.dependant.header_params]
    return tuple(dict.fromkeys((*options.vary_on, *(name for name in own if name not in ("authorization", "cookie")))))


def why_routed(
    route: EffectiveRoute, verdict: Verdict, options: PageOptions, app: FastAPI | None, *, innermost: bool = True
) -> list[str]:
    """Why pages of a route can't be answered before routing; nothing if they can."""
    reasons = []
    if verdict.private:
        reasons.append("visitors are told apart on the way to it")
    elif not (options.public or verdict.blind):
        reasons.append(
            "more than its path and query is looked at; public=True says that nothing else makes a difference"
        )
    if not verdict.addressed and not verdict.private:
        reasons.append("its key holds more than path, query and vary_on tell")
    if not route.plain:
        reasons.append("its route is mounted, or of a class of its own")
    if not innermost:
        reasons.append("another middleware stands inside of the cache's own")
    if app is None or has_own_ways(app):
        reasons.append("hosts decide where requests go")
    return reasons


def _page_policy(policy: CachePolicy) -> PagePolicy:
    """A function's options for pages. What is to be asked of its results is asked before they become one."""
    fields = {name: getattr(policy, name) for name in CachePolicy.__dataclass_fields__}
    expire = None if callable(policy.expire) else policy.expire
    fields |= {"condition": None, "expire": expire, "immutable": True, "serializer": None}
    return PagePolicy(**fields, inner=policy.serializer)


def wish_of(options: PageOptions, asked: list[tuple[bytes, bytes]]) -> str | None:
    """What a client wants of the cache, where the author lets it: ``"reload"``, ``"bypass"``, or nothing."""
    if not options.client_control:
        return None
    fields = [value for name, value in asked if name == b"cache-control"]
    said = directives(fields)
    if "no-store" in said:
        return "bypass"
    if "no-cache" in said or ("max-age" in said and seconds_of(said["max-age"]) == 0):
        return "reload"
    if not fields and any(name == b"pragma" and b"no-cache" in value.lower() for name, value in asked):
        return "reload"  # RFC 9111, section 5.4
    return None


def asked_in(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """What a request says to caches."""
    return [header for header in headers if header[0] in ASKED]
