"""Local memory before a store that processes share, as one backend."""

from __future__ import annotations

from fast_cache.backends.layered.backend import LayeredBackend

__all__ = ["LayeredBackend"]
