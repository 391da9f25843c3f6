"""A decorated function as the endpoint of requests: what it answers is kept as a page.

A request comes in through the wrapper, after its dependencies (``endpoint``). A page at hand (``route``) is returned as
a response. Else the flow runs, as it does for every call, and the load that it waits for is the rest of the request
(``visit``, by :mod:`fast_cache.http.passage`).
"""

from __future__ import annotations

from fast_cache.pages.endpoint import NO_ENDPOINT, EndpointPages, say_uncached
from fast_cache.pages.route import EndpointOptions, RoutePages, why_routed

__all__ = ["NO_ENDPOINT", "EndpointOptions", "EndpointPages", "RoutePages", "say_uncached", "why_routed"]
