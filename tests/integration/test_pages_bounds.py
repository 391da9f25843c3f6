"""What is remembered of paths, queries, endpoints and routes is bounded, and what was forgotten is answered as before.

The limits are low here, and each test asks for more than they allow.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest
from fastapi import Depends

from fast_cache.http.exchange import BOUND, Exchanges
from fast_cache.testing import PATIENCE
from tests.support.pages import KINDS, Site, site

BOTH = pytest.mark.parametrize("kind", KINDS)

LIMIT: Final = 8


def suspending(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 4 * PATIENCE))

    return run


def exchanges(made: Site) -> Exchanges:
    found: Exchanges = getattr(made.app.state, BOUND)
    return found


async def most_of(table: Callable[[], Any], made: Site, expected: dict[str, Any], *told: str) -> int:
    """Ask for all that is ``expected``, each twice in a row, and all again: the answers have to be right, and those in
    a row have to be ``told`` of.

    Returns how large the table was at most.
    """
    most = 0
    for first in (True, False):
        for url, value in expected.items():
            for one in told if first else told[-1:]:
                answer = await made.get(url)
                assert (answer.json(), answer.cached) == (value, one), url
                most = max(most, len(table()))
    return most


MADE_AND_HIT: Final = ("fwd=uri-miss; stored", "hit")
UNCACHED: Final = ("", "")


@BOTH
@suspending
async def test_paths_and_queries_that_are_answered_before_routing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fast_cache.http.aliases.MOST_ALIASES", LIMIT)
    async with site(kind) as made:

        @made.page("/{number}", expire=60)
        def read(number: int, more: int = 0) -> int:
            return number + more

        urls = {f"/{number}": number for number in range(LIMIT)}
        urls |= {f"/{number}?more={more}": number + more for number in range(LIMIT) for more in (100, 200)}
        assert await most_of(lambda: exchanges(made).aliases.table, made, urls, *MADE_AND_HIT) == LIMIT


@BOTH
@suspending
async def test_paths_to_what_is_not_cached(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fast_cache.http.exchange._PLAIN", LIMIT)
    async with site(kind) as made:

        def plain(number: int) -> int:
            return -number

        made.app.get("/plain/{number}")(made.flavoured(plain))

        @made.page("/{word}/{number}", expire=60)  # they match its path as well
        def read(word: str, number: int) -> int:
            return number

        urls = {f"/plain/{number}": -number for number in range(3 * LIMIT)}
        assert await most_of(lambda: exchanges(made)._plain, made, urls, *UNCACHED) == LIMIT
        assert await most_of(list, made, {"/cached/1": 1}, *MADE_AND_HIT) == 0


@BOTH
@suspending
async def test_endpoints_that_are_not_cached(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fast_cache.http.exchange._PLAIN", LIMIT)
    async with site(kind) as made:
        for number in range(3 * LIMIT):

            def plain(number: int = number) -> int:
                return -number

            made.app.get(f"/plain/{number}")(made.flavoured(plain))

        @made.page("/{word}/{number}", expire=60)
        def read(word: str, number: int) -> int:
            return number

        urls = {f"/plain/{number}": -number for number in range(3 * LIMIT)}
        assert await most_of(lambda: exchanges(made)._uncached, made, urls, *UNCACHED) == LIMIT
        assert await most_of(list, made, {"/cached/1": 1}, *MADE_AND_HIT) == 0


async def nobody() -> None:
    """What keeps an endpoint from being answered before routing."""


@BOTH
@suspending
async def test_paths_of_one_route(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fast_cache.pages.endpoint._PATHS", LIMIT)
    async with site(kind) as made:

        @made.page("/{number}", expire=60, shared=True, route={"dependencies": [Depends(nobody)]})
        def read(number: int) -> int:
            return number

        (function,) = made.cache._binding.functions

        def paths() -> Any:
            (known,) = function.pages._known.values()
            return known._at

        urls = {f"/{number}": number for number in range(3 * LIMIT)}
        assert await most_of(paths, made, urls, *MADE_AND_HIT) == LIMIT


@BOTH
@suspending
async def test_routes_of_one_endpoint(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fast_cache.pages.endpoint._ROUTES", LIMIT)
    async with site(kind) as made:

        @made.page("/{number}", expire=60, shared=True, route={"dependencies": [Depends(nobody)]})
        def read(number: int) -> int:
            return number

        for place in range(3 * LIMIT):
            made.app.get(f"/{place}/{{number}}", dependencies=[Depends(nobody)])(read)
        (function,) = made.cache._binding.functions
        urls = {f"/{place}/{place}": place for place in range(3 * LIMIT)}
        most = await most_of(lambda: function.pages._known, made, urls, *MADE_AND_HIT)
        assert most == LIMIT
