"""All that knows ASGI and FastAPI; nothing outside this room does, but what brings the two together (``pages``).

How a request finds the cache: ``lifespan`` ties a cache to an application's life, ``endpoint`` lets a decorated
function see that it was called as the endpoint of a request, ``refuse`` turns away what can't be cached. Who may be
answered: ``routes`` finds the effective route of a request, ``coverage`` judges its dependency graph, ``identity``
gives the verdict and remembers it.

How a response is kept: ``exchange`` is the middleware that it goes by, ``page`` says which is stored and as which
bytes, ``passage`` lets a flow wait for it, ``replay`` makes a request again, ``aliases`` lead to it before routing. How
it is sent: ``sending`` puts its headers together, by the grammar in ``directives`` and ``conditional``. ``options``
are what authors say about all that.
"""
