"""The published home of :class:`CacheBackend`; it lives in :mod:`fast_cache.backends.base`."""

from __future__ import annotations

from fast_cache.backends.base import CacheBackend

__all__ = ["CacheBackend"]
