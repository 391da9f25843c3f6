"""A backend of one's own: a SQLite file.

The ten methods are all that a backend needs; the decorator, single flight and fenced writes come with the package.
Threads share one connection under a lock, the asynchronous methods do the same work on a worker thread, and every
entry survives a restart of the process.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyio import to_thread

from fast_cache import CacheBackend
from fast_cache.durations import Duration, optional_seconds
from fast_cache.errors import BackendError, DecodeError
from fast_cache.serializers import codec_for

_TABLE = """
CREATE TABLE IF NOT EXISTS entries (
    namespace TEXT NOT NULL,
    key       TEXT NOT NULL,
    value     BLOB NOT NULL,
    encoded   INTEGER NOT NULL,
    expires   REAL,
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID
"""

_VALUES = codec_for()  # any value; what can't come back as it was is refused

_LIVE = "namespace = ? AND key = ? AND (expires IS NULL OR expires > ?)"

_RECLAIMED_PER_SET = 8
"""Expired rows deleted with each write: more than one, so that the file stops growing; few, so that none is slow."""


class SQLiteBackend(CacheBackend):
    """Keeps entries in a SQLite file.

    Args:
        path: the file, made where it does not exist.
        namespace: caches of several applications may share a file; :meth:`clear` empties this one's part.

    Expiry is by the wall clock, the only one that goes on while no process runs: entries live shorter or longer
    where somebody sets it.
    """

    def __init__(self, path: str | Path, *, namespace: str = "cache") -> None:
        self._path = path
        self._namespace = namespace
        self._lock = threading.Lock()
        self._open: sqlite3.Connection | None = None

    def get(self, key: str, default: Any = None) -> Any:
        with self._connection() as database:
            row = database.execute(
                f"SELECT value, encoded FROM entries WHERE {_LIVE}", (self._namespace, key, time.time())
            ).fetchone()
        if row is None:
            return default
        value, encoded = row
        if not encoded:
            return value
        try:
            return _VALUES.decode(value)
        except DecodeError:  # written by another version, or damaged: as good as absent
            return default

    def set(self, key: str, value: Any, expire: Duration | None = None) -> None:
        lifetime = optional_seconds(expire, option="expire")
        encoded = type(value) is not bytes
        stored = _VALUES.encode(value) if encoded else value
        now = time.time()
        expires = None if lifetime is None else now + lifetime
        with self._connection() as database:
            database.execute(
                "INSERT OR REPLACE INTO entries (namespace, key, value, encoded, expires) VALUES (?, ?, ?, ?, ?)",
                (self._namespace, key, stored, encoded, expires),
            )
            database.execute(
                "DELETE FROM entries WHERE (namespace, key) IN"
                " (SELECT namespace, key FROM entries WHERE expires <= ? LIMIT ?)",
                (now, _RECLAIMED_PER_SET),
            )

    def delete(self, key: str) -> bool:
        with self._connection() as database:
            deleted = database.execute(f"DELETE FROM entries WHERE {_LIVE}", (self._namespace, key, time.time()))
            return deleted.rowcount > 0

    def clear(self) -> None:
        with self._connection() as database:
            database.execute("DELETE FROM entries WHERE namespace = ?", (self._namespace,))

    def has(self, key: str) -> bool:
        with self._connection() as database:
            found = database.execute(f"SELECT 1 FROM entries WHERE {_LIVE}", (self._namespace, key, time.time()))
            return found.fetchone() is not None

    async def aget(self, key: str, default: Any = None) -> Any:
        return await to_thread.run_sync(self.get, key, default)

    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> None:
        await to_thread.run_sync(self.set, key, value, expire)

    async def adelete(self, key: str) -> bool:
        return await to_thread.run_sync(self.delete, key)

    async def aclear(self) -> None:
        await to_thread.run_sync(self.clear)

    async def ahas(self, key: str) -> bool:
        return await to_thread.run_sync(self.has, key)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone; the driver's errors leave as ours, with their cause."""
        with self._lock:
            try:
                if self._open is None:
                    self._open = self._connect()
                yield self._open
            except sqlite3.Error as error:
                raise BackendError("the SQLite cache file can't be used") from error

    def _connect(self) -> sqlite3.Connection:
        # Shared between threads, under the lock. Autocommit: each statement is right by itself.
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last entries, never the file
        connection.execute(_TABLE)
        connection.execute("CREATE INDEX IF NOT EXISTS by_expiry ON entries (expires) WHERE expires IS NOT NULL")
        return connection
