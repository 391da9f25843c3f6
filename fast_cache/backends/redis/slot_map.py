"""Which node of a Redis Cluster serves which slot, as one node told it; and where it sends those who asked wrongly.

Nothing here does I/O. A reply is read as it comes over RESP2, in bytes. A node is known by its id, which it keeps for
life; its address may change. An address that a node leaves open means the host that was asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from fast_cache.backends.redis.driver import Address, Reply, is_redirect, refused
from fast_cache.errors import BackendError, BackendUnavailable
from redis.crc import key_slot

SLOTS: Final = 16384

Remap = Callable[[Address], Address]

_REDIRECT: Final = re.compile(r"(?:(?:MOVED|ASK) )?(\d+) (\S*):(\d+)")


class Node(NamedTuple):
    """A master or a replica."""

    id: str
    address: Address


class Redirect(NamedTuple):
    """Where a node sends whoever asked it for a key of another one's."""

    slot: int
    address: Address
    ask: bool
    """For this one command, to be sent behind ASKING: the slot is on its way. Otherwise the slot has moved for good."""


class SlotMap:
    """Immutable. Two are equal if the same nodes serve the same slots at the same addresses.

    Args:
        ranges: first slot, last slot, master and replicas.
    """

    __slots__ = ("_nodes", "_served")

    def __init__(self, ranges: Iterable[tuple[int, int, Node, tuple[Node, ...]]]) -> None:
        served: list[Node | None] = [None] * SLOTS
        nodes: dict[Node, None] = {}
        replicas: dict[Node, None] = {}
        for first, last, master, others in ranges:
            served[first : last + 1] = [master] * (last + 1 - first)
            nodes[master] = None
            replicas |= dict.fromkeys(others)
        self._served = served
        self._nodes = tuple(nodes | replicas)

    @classmethod
    def read(cls, reply: Reply, asked: Address, remap: Remap | None = None) -> SlotMap:
        """From the reply to CLUSTER SLOTS by the node at ``asked``.

        Args:
            remap: what to make of the addresses that it names, where they can't be reached from here.

        Raises:
            BackendUnavailable: it serves no slots, or what it says is not understood; with a ``setting`` where it is
                no node of a Cluster, or forbids to ask.
        """
        if isinstance(reply, Exception):
            error = refused(reply)
            raise BackendUnavailable(str(error), setting=error.setting) from reply
        try:
            slots = cls(_range(entry, asked, remap) for entry in reply)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise BackendUnavailable("a node of the Cluster describes it in a way that is not understood") from error
        if not slots.addresses:
            raise BackendUnavailable("a node of the Cluster knows none that serves a slot")
        return slots

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Of all nodes: first those that serve slots, then the replicas."""
        return tuple(dict.fromkeys(node.address for node in self._nodes))

    @property
    def masters(self) -> tuple[Address, ...]:
        """Of those that serve slots."""
        return tuple(dict.fromkeys(node.address for node in self._served if node is not None))

    @property
    def complete(self) -> bool:
        """Whether every slot is served."""
        return None not in self._served

    def serving(self, slot: int) -> Address | None:
        """Where commands for keys of ``slot`` go; ``None`` if nobody serves it."""
        node = self._served[slot]
        return None if node is None else node.address

    def owner(self, slot: int) -> str | None:
        """The id of the node that serves ``slot``."""
        node = self._served[slot]
        return None if node is None else node.id

    @property
    def owners(self) -> set[str | None]:
        """The ids of the nodes that serve slots."""
        return {node.id for node in self._served if node is not None}

    def changed_owners(self, other: SlotMap) -> set[int]:
        """The slots that another node serves there than here, or nobody in one of both."""
        if self._served == other._served:
            return set()
        return {slot for slot in range(SLOTS) if self.owner(slot) != other.owner(slot)}

    def moved(self, redirect: Redirect) -> SlotMap:
        """The same with what a MOVED says. A node at an address that was not known has no id yet: ``""``."""
        known = next((node for node in self._nodes if node.address == redirect.address), Node("", redirect.address))
        changed = SlotMap(())
        changed._served = list(self._served)
        changed._served[redirect.slot] = known
        changed._nodes = tuple(dict.fromkeys((*self._nodes, known)))
        return changed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlotMap) and self._served == other._served

    __hash__ = None  # type: ignore[assignment]  # too large to be hashed, and of no use as a key

    def __repr__(self) -> str:
        return f"<SlotMap of {len(self.masters)} masters>"


def slot_of(key: bytes) -> int:
    """The slot of a key: that of what stands between its first braces, if anything does."""
    slot: int = key_slot(key)
    return slot


def redirect_of(reply: Reply, asked: Address, remap: Remap | None = None) -> Redirect | None:
    """Where the node at ``asked`` sends us; ``None`` if ``reply`` is anything else.

    Raises:
        BackendError: it is a redirection that can't be followed.
    """
    if not isinstance(reply, Exception) or not is_redirect(reply):
        return None
    text = str(reply)
    parsed = _REDIRECT.fullmatch(text)
    if parsed is None or int(parsed[1]) >= SLOTS:
        raise BackendError("a node of the Cluster redirects in a way that is not understood") from reply
    # The driver's MovedError is an AskError too.
    ask = text.startswith("ASK ") or (type(reply).__name__ == "AskError" and not text.startswith("MOVED "))
    return Redirect(int(parsed[1]), _address(parsed[2], int(parsed[3]), asked, remap), ask)


def _range(entry: Any, asked: Address, remap: Remap | None) -> tuple[int, int, Node, tuple[Node, ...]]:
    first, last, *nodes = entry
    if not 0 <= first <= last < SLOTS:
        raise ValueError("no such slots")
    master, *replicas = [_node(node, asked, remap) for node in nodes]
    return first, last, master, tuple(replicas)


def _node(told: Any, asked: Address, remap: Remap | None) -> Node:
    host, port, name, *more = told
    metadata = more[0] if more else []
    known = dict(zip(metadata[::2], metadata[1::2], strict=False))
    host = _text(host)
    if host == "?":  # a name is preferred, and there is none
        host = _text(known.get(b"ip"))
    return Node(_text(name), _address(host, int(port), asked, remap))


def _address(host: str, port: int, asked: Address, remap: Remap | None) -> Address:
    if host in ("", "?"):
        return asked[0], port  # we reached it there: nothing to remap
    return (host, port) if remap is None else remap((host, port))


def _text(told: Any) -> str:
    return told.decode() if isinstance(told, bytes) else (told or "")
