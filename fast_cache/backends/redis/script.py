"""What the server does in one step: by a script, or where it allows none, by plain commands in a transaction.

A transaction watches what it looks at, decides here, and changes something only if nothing of that has changed since;
else it is done anew (Redis documentation, "Transactions", optimistic locking). It takes two round trips over a
connection that nobody else uses meanwhile. What it decides is what the script decides, of the same words.

MULTI travels with the look, and no change is sent before the server has agreed to it: one that refused it would carry
out the changes one by one, whatever has become of what was looked at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self

from fast_cache.backends.redis.deadlines import Deadline
from fast_cache.backends.redis.resp import Command, Reply, spelt
from redis.exceptions import ResponseError

_LAPS: Final = 64
"""How often a transaction is done anew after somebody else got in between; each time somebody else was done."""

Talk = Callable[[Sequence[Command], bool], Awaitable[list[Reply]]]
"""Sends commands over a connection that nobody else uses, and returns the replies; raises :class:`Anew` if they go on
with something, which is the flag, and that connection is gone."""

Procedure = Callable[..., Awaitable[Reply]]
"""Does in a transaction what a script does: it is given that, then the names and the arguments of the script."""


class Script(str):
    """A script in Lua, with the procedure that does the same; wherever a script is sent, it is its text."""

    __slots__ = ("_text", "plain")
    _text: str
    plain: Procedure

    def __new__(cls, text: str, plain: Procedure) -> Self:
        script = super().__new__(cls, text)
        script._text = text
        script.plain = plain
        return script

    def __str__(self) -> str:
        return self._text  # else it would be copied each time that it is sent


class Anew(Exception):
    """Something has changed, or the connection is gone: what was looked at decides nothing any more."""


class Refused(Exception):
    """The server refuses to do this, with an error."""

    def __init__(self, reply: Exception) -> None:
        super().__init__(reply)
        self.reply = reply


class Told:
    """What others are told of a change, in the step that it is made in, if it is; and what the server answered."""

    def __init__(self, commands: Sequence[Command] = ()) -> None:
        self.commands = list(commands)
        self.replies: list[Reply] = [0] * len(commands)

    def refuse(self, reply: Reply) -> None:
        """The server does not allow it, and nothing that it is part of."""
        self.commands, self.replies = [], [reply] * len(self.commands)


class Transaction:
    """Looks once, and changes something once, or not at all.

    Args:
        asking: the names are on their way to the node of a Cluster that is asked.
        told: what others are told of the change.
    """

    def __init__(self, talk: Talk, *, asking: bool = False, told: Told | None = None) -> None:
        self._talk = talk
        self._asking = asking
        self._told = Told() if told is None else told
        self._begun = False

    async def before(self, *commands: Command) -> None:
        """Change something first, which others may undo before the rest is carried out.

        Raises:
            Refused: the server does not allow it.
        """
        replies = await self._talk(commands, False)
        for reply in replies:
            if isinstance(reply, Exception):
                raise Refused(reply)

    async def look(self, *commands: Command) -> list[Reply]:
        """Read, and watch what is read. A reply is an error if something of another type lies there.

        Raises:
            Refused: the server does not allow it.
        """
        names = dict.fromkeys(command[1] for command in commands if len(command) > 1)
        packet: list[Command] = [("WATCH", *names), *commands, ("MULTI",)]
        if self._asking:  # which holds for one command, and then for the whole of the transaction
            packet = [each for command in packet for each in (("ASKING",), command)]
        replies = await self._talk(packet, False)
        if self._asking:
            replies = replies[1::2]
        self._begun = not isinstance(replies[-1], Exception)
        for reply in replies:
            if isinstance(reply, Exception) and not _wrong_type(reply):
                raise Refused(reply)
        return replies[1:-1]

    async def change(self, *commands: Command) -> list[Reply]:
        """Carry out all of ``commands``, if nothing that was looked at has changed.

        Raises:
            Anew: something has.
            Refused: the server does not allow it.
        """
        self._begun = False
        told = self._told
        *queued, replies = await self._talk([*commands, *told.commands, ("EXEC",)], True)
        if replies is None:
            raise Anew
        if refusals := [reply for reply in queued[len(commands) :] if isinstance(reply, Exception)]:
            told.refuse(refusals[0])
            raise Anew
        # If one is refused before they are carried out, none is.
        for reply in (*queued, *(replies if isinstance(replies, list) else [replies])):
            if isinstance(reply, Exception):
                raise Refused(reply)
        if told.commands:
            told.replies = replies[len(commands) :]
        return list(replies[: len(commands)])

    async def end(self) -> None:
        """Leave the connection to the next one, if nothing was to be changed."""
        if self._begun:
            self._begun = False
            await self._talk([("DISCARD",)], True)


async def carry_out(talk: Talk, command: Command, *, asking: bool = False, told: Told | None = None) -> Reply:
    """The reply to a command that would run a :class:`Script`, without it. What it changes, others are ``told``."""
    script = command[1]
    assert isinstance(script, Script)
    for _ in range(_LAPS):
        transaction = Transaction(talk, asking=asking, told=told)
        try:
            try:
                words = [word if type(word) in (bytes, Deadline) else spelt(word) for word in command[3:]]
                return await script.plain(transaction, *words)
            finally:
                await transaction.end()
        except Refused as refusal:
            return refusal.reply
        except Anew:
            pass
    return ResponseError("TRYAGAIN others change this all the time")


def text(reply: Reply) -> bytes:
    """What lies there, if it is text; else nothing does, as far as a script cares."""
    return reply if isinstance(reply, bytes) else b""


def _wrong_type(error: Any) -> bool:
    return str(error).startswith("WRONGTYPE")
