"""What lies under the name of a tag: its token, and behind it former ones, whose entries are stale."""

from __future__ import annotations

from fast_cache.backends.redis.layout import TOKEN_LENGTH
from fast_cache.backends.redis.resp import Reply


def current(reply: Reply) -> Reply:
    """The token, without the former ones behind it; whatever else it is."""
    return reply[:TOKEN_LENGTH] if isinstance(reply, bytes) and len(reply) % TOKEN_LENGTH == 0 else reply


def former(reply: Reply) -> list[bytes]:
    """The former tokens."""
    if not isinstance(reply, bytes) or len(reply) % TOKEN_LENGTH:
        return []
    return [reply[at : at + TOKEN_LENGTH] for at in range(TOKEN_LENGTH, len(reply), TOKEN_LENGTH)]
