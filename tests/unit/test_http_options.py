"""What an author may say about pages, and what is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from fast_cache import Cache, ConfigurationError, HTTPOptions, InvalidTypeError
from fast_cache.http.options import PageOptions


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"public": 1}, "public must be True or False"),
        ({"client_control": "yes"}, "client_control must be True or False"),
        ({"vary_on": "Accept Language"}, "vary_on='accept language'"),
        ({"vary_on": "*"}, "would make of each request one of its own"),
        ({"vary_on": [b"Accept"]}, "vary_on must be header names, not bytes"),
        ({"vary_on": "Cookie"}, "an entry for each visitor"),
        ({"vary_on": ["Authorization"]}, "an entry for each visitor"),
        ({"methods": ()}, "methods is empty"),
        ({"methods": "HEAD"}, "answers to HEAD are not cached"),
        ({"methods": 1}, "methods must be HTTP methods"),
        ({"statuses": ()}, "statuses is empty"),
        ({"statuses": "200"}, "statuses must be numbers"),
        ({"statuses": 304}, "statuses=304"),
        ({"statuses": [99]}, "statuses=99"),
        ({"cache_control": 60}, "cache_control must be text"),
        ({"cache_control": "max-age=1\r\nSet-Cookie: a=b"}, "no header can hold"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_decoration(given: dict[str, Any], says: str) -> None:
    cache = Cache()
    with pytest.raises(ConfigurationError) as refusal:

        @cache.cached(**given)
        def read() -> None: ...

    assert says.lower() in str(refusal.value).lower()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cache_status": 3}, "cache_status must be text"),
        ({"cache_status_key": "no"}, "cache_status_key must be True or False"),
        ({"cache_groups": 1}, "cache_groups must be True or False"),
        ({"cache_status": ""}, "cache_status must be printable ASCII text"),
        ({"cache_status": "caché"}, "cache_status must be printable ASCII text"),
        ({"max_body": 0}, "max_body must be at least 1"),
        ({"max_body": 1.5}, "max_body must be an int"),
        ({"max_variants": True}, "max_variants must be an int"),
    ],
)
def test_options_of_an_application_are_checked(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        HTTPOptions(**given)


def test_init_app_takes_nothing_else_for_them() -> None:
    with pytest.raises(InvalidTypeError, match=r"http must be HTTPOptions"):
        Cache().init_app(FastAPI(), http={"cache_status": None})  # type: ignore[arg-type]


def test_names_are_compared_as_http_does() -> None:
    options = PageOptions.of(vary_on=["Accept", "accept", "X-Kind"], methods=["get", "Post"], cache_control=" private ")
    assert options.vary_on == ("accept", "x-kind")
    assert options.methods == {"GET", "POST"}
    assert options.cache_control == b"private"
