"""What part a parameter of a cached function plays in its keys, and what its class says about that.

Classes of other libraries are recognised by (top-level package, class name) over the ancestors, without importing
them. A class with ``__cache_key__`` is keyed by it whatever it descends from. Handles lead to data but are not data:
a session, a client, a connection. A request is never left out unseen, because it carries the visitor's identity.
"""

from __future__ import annotations

import enum
from typing import Final
from weakref import WeakKeyDictionary

from fast_cache.keys.classes import ancestry, defines


class NotKeyed:
    """Leaves a parameter out of the key: ``db: Annotated[Session, NotKeyed]``.

    The author's word that the result does not depend on it. The class and an instance mean the same.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "NotKeyed"


class Role(enum.Enum):
    """What a parameter is to the key of a call."""

    KEYED = "keyed"
    """Its value is in the key."""
    HASHED = "hashed"
    """A digest of its value is in the key: it comes from a header, a cookie or a security scheme."""
    BUILT = "given to key_builder"
    """``key_builder`` gets it, and answers for what it makes of it."""
    NOT_KEYED = "left out by NotKeyed"
    """Left out, by the author's word."""
    OMITTED = "not in the key template"
    """Left out, because the ``key=`` template does not mention it."""
    HANDLE = "left out as a handle"
    """Left out, because it is a session, a client or a connection."""
    PER_REQUEST = "left out as made for each request"
    """Left out, because the framework makes it for this request: ``Response``, ``BackgroundTasks``."""
    REQUEST = "a request"
    """In the way: a request, or a handle that a dependency makes of one, carries a visitor's identity. A call with one
    has no key, unless the coverage rule found all that the handle was made of in the key."""


_REQUESTS: Final = frozenset({("starlette", "HTTPConnection")})  # what Request and WebSocket derive from
_PER_REQUEST: Final = frozenset({("starlette", "Response"), ("starlette", "BackgroundTasks")})
_HANDLES: Final = frozenset(
    (package, name)
    for package, names in {
        "sqlalchemy": "Session AsyncSession scoped_session async_scoped_session "
        "Connection AsyncConnection Engine AsyncEngine",
        "sqlmodel": "Session AsyncSession",
        "httpx": "Client AsyncClient",
        "requests": "Session",
        "aiohttp": "ClientSession",
        "redis": "Redis RedisCluster",
        "asyncpg": "Connection Pool PoolConnectionProxy",
        "psycopg": "Connection AsyncConnection",
        "psycopg_pool": "ConnectionPool AsyncConnectionPool",
        "psycopg2": "connection",
        "aiomysql": "Connection Pool",
        "pymongo": "MongoClient Database Collection AsyncMongoClient AsyncDatabase AsyncCollection",
        "motor": "AgnosticClient AgnosticDatabase AgnosticCollection "
        "AsyncIOMotorClient AsyncIOMotorDatabase AsyncIOMotorCollection",
        "sqlite3": "Connection",
        "aiosqlite": "Connection",
        "logging": "Logger LoggerAdapter",
    }.items()
    for name in names.split()
)

_SESSIONS: Final = frozenset(
    {
        *("Session", "AsyncSession", "scoped_session", "async_scoped_session"),
        *("Connection", "AsyncConnection", "PoolConnectionProxy", "connection"),
    }
)
"""Of the handles, what a request opens and closes; clients, pools and engines live as long as the application."""

_ENDING: Final = (
    frozenset((package, name) for package, name in _HANDLES if name in _SESSIONS and package != "requests")
    | _REQUESTS
    | _PER_REQUEST
    | {("starlette", "UploadFile"), ("_io", "_IOBase")}  # which all files derive from
)

_known: WeakKeyDictionary[type, Role] = WeakKeyDictionary()
_known_to_end: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def role_of_class(cls: type) -> Role:
    """Return the role of values of a class: ``KEYED`` unless it is recognised as something else."""
    role = _known.get(cls)
    if role is None:
        role = _known[cls] = _recognise(cls)
    return role


def _recognise(cls: type) -> Role:
    if defines(cls, "__cache_key__"):
        return Role.KEYED
    family = ancestry(cls)
    if family & _REQUESTS:
        return Role.REQUEST
    if family & _PER_REQUEST:
        return Role.PER_REQUEST
    return Role.HANDLE if family & _HANDLES else Role.KEYED


def ends_with_request(cls: type) -> bool:
    """Whether what has this class is usually gone when the request is over for which it was made.

    A ``__cache_key__`` says how it is keyed, and nothing about how long it lives.
    """
    ends = _known_to_end.get(cls)
    if ends is None:
        ends = _known_to_end[cls] = not ancestry(cls).isdisjoint(_ENDING)
    return ends
