"""The example shop answers as its OpenAPI document says, from its endpoints and from the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import schemathesis
from fastapi import Depends
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

import fast_cache
from fast_cache import Cache, CacheBackend

own_cache = Cache()

with pytest.MonkeyPatch.context() as patch:
    # The one of the package is for other tests, and so is a Redis that somebody has named.
    patch.setattr(fast_cache, "cache", own_cache)
    patch.setattr(fast_cache, "CacheDep", Annotated[CacheBackend, Depends(own_cache.aget_cache)])
    patch.delenv("REDIS_URL", raising=False)
    from examples.shop import ITEMS, app

schema = schemathesis.openapi.from_asgi("/openapi.json", app)

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


@pytest.fixture(autouse=True)
def as_it_opened() -> Iterator[None]:
    items = dict(ITEMS)
    own_cache.clear()
    yield
    ITEMS.clear()
    ITEMS.update(items)


@schema.parametrize()
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_shop_answers_as_it_says(case: Any) -> None:
    first, second = (case.call_and_validate(checks=CHECKS) for _ in range(2))
    assert second.status_code == first.status_code
    if any("hit" in status for status in second.headers.get("cache-status", ())):
        assert second.content == first.content
