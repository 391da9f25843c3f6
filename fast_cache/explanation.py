"""Everything that a person needs to understand one answer of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fast_cache.backends.store import Address, Store
from fast_cache.entry import MISSING, NEVER
from fast_cache.errors import BackendError
from fast_cache.freshness import LASTING
from fast_cache.outcome import Absent, Raised
from fast_cache.policy import CachePolicy
from fast_cache.ports import Port


@dataclass(frozen=True)
class Explanation:
    """What the cache knows of one call, at one moment. It holds no cached value.

    Attributes:
        key: the text key; ``None`` if the call has none.
        inputs: for each parameter its text in the key, or why it is not in it. What is secret is hashed.
        options: the options of the function that are not the default, durations in seconds.
        backend: ``"memory"``, ``"redis"`` or the name of another backend.
        answer: what a call would meet: ``"fresh"``, ``"due"`` (fresh, and refreshed behind the caller), ``"stale"``
            (expired, served and refreshed), ``"spare"`` (expired, served if the function fails or is late),
            ``"raised"`` (an exception that is stored), ``"absent"``, ``"uncached"`` (there is no key, or no backend
            yet) or ``"unavailable"`` (the backend does not answer).
        expires_in: for how many seconds the value is still fresh, negative if it is stale; ``None`` for ever, or if
            there is no value.
        load_time: how long the value took to compute, in seconds, where that is known.
        loading: whether it is being computed in this process, and
        waiting: how many callers wait for that.
        resting: whether the function failed a moment ago and is left in peace, or another process loads.
        lease: for how many seconds some process has the lease of the key (``lock="distributed"``), which it extends
            while it loads; ``None`` if nobody has it.
        hits: how often the value was served, where ``hits=`` says how often it may be; else ``None``.
        tags: those that ``tags=`` gives it.
    """

    key: str | None
    inputs: Mapping[str, str]
    options: Mapping[str, Any]
    backend: str
    answer: str
    expires_in: float | None = None
    load_time: float | None = None
    loading: bool = False
    waiting: int = 0
    resting: bool = field(default=False)
    lease: float | None = None
    hits: int | None = None
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{item.name}: {_shown(getattr(self, item.name))}" for item in fields(self)]
        return "\n".join(lines)


async def explain(
    port: Port,
    store: Store,
    policy: CachePolicy,
    address: Address | None,
    key: str | None,
    inputs: Mapping[str, str],
    tags: tuple[str, ...],
) -> Explanation:
    """Look at what a call would meet, and change nothing."""
    known: dict[str, Any] = {
        "key": key,
        "inputs": inputs,
        "options": _options(policy),
        "backend": store.label,
        "tags": tags,
    }
    if address is None or not store.caches:
        return Explanation(**known, answer="uncached")
    flights = store.flights
    known |= {
        "loading": flights.loads(address),
        "waiting": flights.waiting(address),
        "resting": store.rests(address),
    }
    try:
        found = await store.read(port, address, policy.terms(tags)._replace(soft=True, counts=False, looks=True))
        if policy.freshness.hits and found is not MISSING:
            known["hits"] = await store.hits(port, address)
        if policy.lock == "distributed":
            known["lease"] = await store.lease_left(port, address)
    except BackendError:
        return Explanation(**known, answer="unavailable")
    if found is MISSING:
        return Explanation(**known, answer="absent")
    freshness = policy.freshness
    met = found._replace(hits=known.get("hits", 0) + 1)  # what the next caller would make it
    answer = "raised" if type(found.value) is Raised else freshness.judge(met).value
    if found.fresh_for <= 0 and not freshness.soft:
        answer = "absent"  # kept for others, who serve what is stale
    known["expires_in"] = None if found.fresh_for == NEVER else found.fresh_for
    known["load_time"] = found.load or None
    return Explanation(**known, answer=answer)


def _options(policy: CachePolicy) -> dict[str, Any]:
    options: dict[str, Any] = {} if policy.expire is None else {"expire": policy.expire}
    for item in fields(policy.freshness):
        value = getattr(policy.freshness, item.name)
        if value != getattr(LASTING, item.name):
            options[item.name] = value
    errors = dict(policy.cache_errors)
    if Absent in errors:
        options["missing_expire"] = errors.pop(Absent)
    if errors:
        options["cache_errors"] = {kind.__name__: lifetime for kind, lifetime in errors.items()}
    if policy.lock != CachePolicy.lock:
        options["lock"] = policy.lock
    if policy.lock_timeout != CachePolicy.lock_timeout:
        options["lock_timeout"] = policy.lock_timeout
    if policy.serializer is not None:
        options["serializer"] = policy.serializer.name
    for name in ("condition", "namespace", "shared"):
        if getattr(policy, name):
            options[name] = getattr(policy, name)
    return options


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {item}" for name, item in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.3f} s" if isinstance(value, float) else str(value)
