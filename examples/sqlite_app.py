"""An application whose cache survives a restart: kept by the backend in sqlite_backend.py.

CACHE_FILE=cache.sqlite3 uvicorn examples.sqlite_app:app
"""

from __future__ import annotations

import os

from fastapi import FastAPI

from examples.sqlite_backend import SQLiteBackend
from fast_cache import cache

app = FastAPI(title="Primes")
cache.init_app(app, backend=SQLiteBackend(os.environ.get("CACHE_FILE", "cache.sqlite3")), default_expire="1d")

computed = 0
"""How often this process did the work itself."""


@app.get("/primes/{limit}")
@cache.cached(expire="1h")
def count_primes(limit: int) -> int:
    """Count the primes below ``limit``."""
    global computed
    computed += 1
    return sum(all(number % divisor for divisor in range(2, int(number**0.5) + 1)) for number in range(2, limit))


@app.get("/computed")
def read_computed() -> int:
    return computed
