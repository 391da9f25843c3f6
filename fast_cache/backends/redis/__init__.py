"""The Redis backend. Importing this package imports the driver; ``fast_cache`` itself does so only when asked."""

from __future__ import annotations

from fast_cache.backends.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
