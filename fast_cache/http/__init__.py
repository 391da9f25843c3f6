"""All that knows ASGI and FastAPI; nothing outside this room does.

``lifespan`` ties a cache to an application's life. ``endpoint`` lets a decorated function see that it was called as
the endpoint of a request, ``refuse`` turns away what can't be cached. ``routes`` finds the effective route of a
request, ``coverage`` judges its dependency graph, ``identity`` gives the verdict and remembers it. Endpoints are
cached as the values they return; the exchange that caches whole responses, and its headers, belong beside these.
"""
