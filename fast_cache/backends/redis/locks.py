"""Locks in Redis, shared by the processes of a namespace.

The lock is a key with the holder's random name, the fencing token behind it, and a lifetime. It is taken, extended and
released by scripts that compare the name, so only its holder can, and to do it twice is harmless; a packet that takes
it late leaves a lock that ends by itself. The token is the server's time in microseconds, or one more than the last
token of the key if that is higher: it rises also where one of the two is lost, as long as the server's clock is not set
back by more than the time since. Whoever waits does so on the wake-up stream, as for a lease (see ``layout``).
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from fast_cache.backends.locks import Locks, Taken
from fast_cache.backends.redis.driver import refused
from fast_cache.backends.redis.fleet import LONGEST_WAIT
from fast_cache.backends.redis.layout import Layout, let_go
from fast_cache.backends.redis.link import Link
from fast_cache.backends.redis.resp import Command, Reply
from fast_cache.backends.redis.script import Script, Transaction, text
from fast_cache.errors import BackendError
from fast_cache.once import Health
from fast_cache.ports import Port

_LAST_MS: Final = 86_400_000
"""How long the last token of a key is kept, in milliseconds: beyond that the server's time is far ahead of it."""

_WAKE_MS: Final = 5000


async def _take(
    do: Transaction, lock: bytes, wake: bytes, last: bytes, holder: bytes, milliseconds: bytes, last_ms: bytes
) -> Reply:
    held, left, given, time = await do.look(("GET", lock), ("PTTL", lock), ("GET", last), ("TIME",))
    if isinstance(held, bytes) and left > 0:
        return held[16:] if held[:16] == holder else left
    number = int(time[0]) * 1_000_000 + int(time[1])
    if text(given).isdigit() and len(given) <= 16:
        number = max(number, int(given) + 1)
    token = b"%d" % number
    await do.change(
        ("SET", last, token, "PX", last_ms), ("SET", lock, holder + token, "PX", milliseconds), ("DEL", wake)
    )
    return token


_TAKE: Final = Script(
    """
local holder = redis.pcall('GET', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if type(holder) == 'string' and left > 0 then
    if string.sub(holder, 1, 16) == ARGV[1] then return string.sub(holder, 17) end
    return left
end
local time, last = redis.call('TIME'), redis.pcall('GET', KEYS[3])
local token = time[1] * 1000000 + time[2]
if type(last) == 'string' and #last <= 16 and string.find(last, '^%d+$') then
    token = math.max(token, tonumber(last) + 1)
end
token = string.format('%.0f', token)
redis.call('SET', KEYS[3], token, 'PX', ARGV[3])
redis.call('SET', KEYS[1], ARGV[1] .. token, 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
return token
""",
    _take,
)
# What has no lifetime, or is no text, is no lock.


async def _extend(do: Transaction, lock: bytes, holder: bytes, milliseconds: bytes) -> Reply:
    (held,) = await do.look(("GET", lock))
    if text(held)[:16] != holder:
        return 0
    (extended,) = await do.change(("PEXPIRE", lock, milliseconds))
    return extended


_EXTEND: Final = Script(
    """
local holder = redis.pcall('GET', KEYS[1])
if type(holder) ~= 'string' or string.sub(holder, 1, 16) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""",
    _extend,
)


async def _release(do: Transaction, lock: bytes, wake: bytes, holder: bytes, milliseconds: bytes) -> Reply:
    return await let_go(do, lock, wake, milliseconds, lambda held: text(held)[:16] == holder)


_RELEASE: Final = Script(
    """
local holder = redis.pcall('GET', KEYS[1])
if type(holder) ~= 'string' or string.sub(holder, 1, 16) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('XADD', KEYS[2], '*', 'released', 1)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
""",
    _release,
)


_LONGEST: Final = 86_400.0
"""Seconds after which a lock that could not be released is left to its lifetime."""


class RedisLocks(Locks):
    """The locks of one namespace."""

    def __init__(self, link: Link, layout: Layout, health: Health) -> None:
        self._link = link
        self._layout = layout
        self._health = health

    async def take(self, port: Port, key: str, holder: bytes, lifetime: float) -> Taken:
        command = ("EVAL", _TAKE, 3, *self._layout.lock_keys(key), holder, _milliseconds(lifetime), _LAST_MS)
        reply = await self._ask(port, command)
        return Taken(int(reply)) if isinstance(reply, bytes) else Taken(None, reply / 1000)

    async def wait(self, port: Port, key: str, within: float) -> None:
        _, wake, _ = self._layout.lock_keys(key)
        within = min(within, LONGEST_WAIT)
        command: Command = ("XREAD", "BLOCK", _milliseconds(within), "STREAMS", wake, "0-0")
        replies = await self._link.wait(port, [command], within)
        if replies is not None and isinstance(replies[0], Exception):
            await self._link.pause(port, within)  # forbidden, or something else lies there: look now and then

    async def extend(self, port: Port, key: str, holder: bytes, lifetime: float) -> bool:
        lock, _, _ = self._layout.lock_keys(key)
        return bool(await self._ask(port, ("EVAL", _EXTEND, 1, lock, holder, _milliseconds(lifetime))))

    async def release(self, port: Port, key: str, holder: bytes) -> bool:
        lock, wake, _ = self._layout.lock_keys(key)
        command: Command = ("EVAL", _RELEASE, 2, lock, wake, holder, _WAKE_MS)
        try:
            return bool(await self._ask(port, command))
        except BackendError:
            self._link.postpone(command, monotonic() + _LONGEST)
            raise

    async def _ask(self, port: Port, command: Command) -> Reply:
        try:
            (reply,) = await self._link.exchange(port, [command])
            if isinstance(reply, Exception):
                raise refused(reply)
        except BackendError as error:
            self._health.failed("lock", error)
            raise
        self._health.works("lock")
        return reply


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
