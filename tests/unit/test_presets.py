"""The strategies of cashews, by their names there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI

from fast_cache import Cache
from fast_cache.errors import ConfigurationError
from fast_cache.freshness import Freshness
from fast_cache.policy import CachePolicy


def policy_of(decorator: Any) -> CachePolicy:
    def fn() -> int:
        return 1

    policy: CachePolicy = decorator(fn).invalidate.__self__.policy
    return policy


def test_early_is_a_refresh_ahead() -> None:
    policy = policy_of(Cache().early("10m", "7m"))
    assert (policy.expire, policy.freshness) == (600, Freshness(refresh_ahead=180))
    assert policy_of(Cache().early(100)).freshness.refresh_ahead == pytest.approx(67)


def test_soft_is_stale_if_error() -> None:
    policy = policy_of(Cache().soft(timedelta(minutes=10), "7m", exceptions=LookupError))
    assert (policy.expire, policy.freshness) == (420, Freshness(stale_if_error=180, errors=(LookupError,)))


def test_hit_counts() -> None:
    policy = policy_of(Cache().hit(60, cache_hits=10, update_after=5))
    assert (policy.expire, policy.freshness) == (60, Freshness(hits=10, refresh_after=5))


def test_locked_is_a_distributed_lock() -> None:
    policy = policy_of(Cache().locked(60, lock_timeout="5s"))
    assert (policy.expire, policy.lock, policy.lock_timeout) == (60, "distributed", 5)


@pytest.mark.parametrize("name", ["fail", "failover"])
def test_failover_asks_each_time_and_falls_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, now, loads = Cache(), [1000.0], list[int]()
    for module in ("fast_cache.backends.memory", "fast_cache.backends.store", "fast_cache.wrapper"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: now[0])
    cache.init_app(FastAPI())

    def load() -> int:
        loads.append(1)
        if len(loads) == 3:
            raise OSError
        if len(loads) == 4:
            raise LookupError
        return len(loads)

    cached = getattr(cache, name)("1h", exceptions=(OSError,), throttle=1)(load)

    def ask() -> int:
        now[0] += 2
        return int(cached())

    assert [ask(), ask(), ask()] == [1, 2, 2]
    with pytest.raises(LookupError):
        ask()
    assert ask() == 5


def test_other_options_may_be_added() -> None:
    policy = policy_of(Cache().early(60, 50, condition=bool, namespace="shop", jitter=0.5))
    assert policy.condition is bool
    assert policy.namespace == "shop"
    assert policy.freshness.jitter == 0.5


def test_contradictions_name_both() -> None:
    with pytest.raises(ConfigurationError, match=r"early_ttl \(60 s\) must be shorter than ttl \(60 s\)"):
        Cache().early(60, 60)
    with pytest.raises(ConfigurationError, match=r"soft_ttl .* ttl"):
        Cache().soft(60, "2m")
    with pytest.raises(ConfigurationError, match=r"refresh_after .* hits"):
        Cache().hit(60, 2, 5)
