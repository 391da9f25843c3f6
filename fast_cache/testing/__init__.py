"""What tests of applications and of backends need of this package; nothing here is for use in production.

``contract`` is the suite that a backend must pass, and the flavours that its tests are written over; it needs pytest.
``leaks`` asserts that nobody is answered from the cache with what was meant for somebody else; what it asks is derived
in ``urls`` and asked by ``asking``, without a client or a server.
"""

from __future__ import annotations

from fast_cache.testing.asking import Identity
from fast_cache.testing.contract import (
    PATIENCE,
    BackendContract,
    Blocking,
    Caller,
    CallsContract,
    EngineContract,
    Flavour,
    Gate,
    MethodsContract,
    Store,
    Suspending,
    in_both_flavours,
    only_suspending,
)
from fast_cache.testing.leaks import Replayed, aassert_no_leak, assert_no_leak

__all__ = [
    "PATIENCE",
    "BackendContract",
    "Blocking",
    "Caller",
    "CallsContract",
    "EngineContract",
    "Flavour",
    "Gate",
    "Identity",
    "MethodsContract",
    "Replayed",
    "Store",
    "Suspending",
    "aassert_no_leak",
    "assert_no_leak",
    "in_both_flavours",
    "only_suspending",
]
