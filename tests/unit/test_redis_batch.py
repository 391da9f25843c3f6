"""Packets of several callers in one batch: each keeps its order, and gets its own replies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from fast_cache.backends.redis.batch import Batch, first_lacking
from fast_cache.backends.redis.resp import Command, ProtocolError, Reply

NAMES = st.sampled_from([b"a", b"b", b"c"])
COMMANDS = st.one_of(
    st.tuples(st.just("GET"), NAMES),
    st.tuples(st.just("SET"), NAMES, st.binary(max_size=3)),
    st.tuples(st.just("DEL"), NAMES),
)
PACKETS = st.lists(st.lists(COMMANDS, min_size=1, max_size=6), min_size=1, max_size=6)


def carried_out(commands: list[Any], data: dict[bytes, bytes]) -> list[Reply]:
    """What a server says to ``commands``."""
    replies: list[Reply] = []
    for name, *words in commands:
        match name:
            case "GET":
                replies.append(data.get(words[0]))
            case "MGET":
                replies.append([data.get(word) for word in words])
            case "SET":
                data[words[0]] = words[1]
                replies.append(b"OK")
            case "DEL":
                replies.append(int(data.pop(words[0], None) is not None))
    return replies


def batch_of(packets: list[Any], *, merges: bool = True) -> Batch:
    return Batch(packets, merges=merges)


@given(PACKETS, st.booleans())
def test_each_packet_gets_a_reply_to_each_of_its_commands(packets: list[list[Command]], merges: bool) -> None:
    data = {b"a": b"old"}
    before = dict(data)
    batch = batch_of(packets, merges=merges)
    replies = carried_out(batch.commands, data)
    batch.check(replies)
    answers = batch.shared_out(replies)
    assert list(map(len, answers)) == list(map(len, packets))
    # In a batch of its own each would say the same, were it not for the others: those come first, one after another,
    # and then all that was to be read behind them.
    heads = [packet[: len(packet) - trailing(packet)] for packet in packets]
    wanted = [carried_out(head, before) for head in heads]
    for packet, head, replies_to_head in zip(packets, heads, wanted, strict=True):
        replies_to_head += carried_out(packet[len(head) :], before)
    assert answers == wanted
    assert data == before


def trailing(packet: list[Command]) -> int:
    """How many reads there are at the end."""
    count = 0
    while count < len(packet) and packet[len(packet) - 1 - count][0] == "GET":
        count += 1
    return count


@given(PACKETS)
def test_nothing_is_asked_for_twice_and_nothing_else_is_moved(packets: list[list[Command]]) -> None:
    batch = batch_of(packets)
    reads = [command for packet in packets for command in packet[len(packet) - trailing(packet) :]]
    rest = [command for packet in packets for command in packet[: len(packet) - trailing(packet)]]
    assert batch.commands[: len(rest)] == rest
    assert batch.merged is bool(reads)
    assert batch.commands[len(rest) :] == ([("MGET", *dict.fromkeys(name for _, name in reads))] if reads else [])


def test_a_hundred_reads_of_one_namespace_ask_for_its_generation_once() -> None:
    packets = [[("GET", b"v%d" % number), ("GET", b"generation")] for number in range(100)]
    batch = batch_of(packets)
    ((name, *words),) = batch.commands
    assert name == "MGET"
    assert sorted(words, key=bytes) == sorted([b"generation", *(b"v%d" % number for number in range(100))])  # type: ignore[arg-type]
    assert batch.shared_out([[*words]])[7] == [b"v7", b"generation"]


def test_in_a_cluster_names_are_asked_for_one_by_one_and_once() -> None:
    batch = batch_of([[("GET", b"a")], [("DEL", b"c"), ("GET", b"b")], [("GET", b"a")]], merges=False)
    assert batch.commands == [("DEL", b"c"), ("GET", b"a"), ("GET", b"b")]
    assert not batch.refused([1, ResponseError("NOPERM"), None])
    assert batch.shared_out([1, b"1", b"2"]) == [[b"1"], [1, b"2"], [b"1"]]


def test_an_error_in_the_place_of_what_was_read_together_is_a_refusal() -> None:
    batch = batch_of([[("DEL", b"a"), ("GET", b"a")]])
    error = ResponseError("NOPERM this user has no permissions to run the 'mget' command")
    batch.check([1, error])
    assert batch.refused([1, error])
    assert not batch.refused([error, [None]])


def test_an_error_that_passes_is_everybodys_and_no_refusal() -> None:
    batch = batch_of([[("DEL", b"a"), ("GET", b"a")], [("GET", b"b"), ("GET", b"a")]])
    error = ResponseError("LOADING Redis is loading the dataset in memory")
    batch.check([1, error])
    assert not batch.refused([1, error])
    assert batch.shared_out([1, error]) == [[1, error], [error, error]]


@pytest.mark.parametrize("reply", [None, 1, b"ab", [], [None], [None] * 3])
def test_what_can_not_be_shared_out_is_a_protocol_error(reply: Reply) -> None:
    batch = batch_of([[("GET", b"a"), ("GET", b"b")]])
    with pytest.raises(ProtocolError):
        batch.check([reply])


def test_the_first_script_that_is_lacking_is_found() -> None:
    lacking = ResponseError("NOSCRIPT No matching script. Please use EVAL.")
    assert first_lacking([1, None, lacking, lacking]) == 2
    assert first_lacking([lacking]) == 0
    assert first_lacking([b"NOSCRIPT", ResponseError("ERR NOSCRIPT"), None, []]) is None
