"""Which entries stay in local memory, and how what is gone is reclaimed."""

from __future__ import annotations

from fast_cache.backends.eviction.s3fifo import S3FIFO, Cause

__all__ = ["S3FIFO", "Cause"]
