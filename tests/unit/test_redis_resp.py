"""Commands to bytes and bytes to replies, however the network cuts them; and what is none of Redis's."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from fast_cache.backends.redis.resp import Command, Parser, ProtocolError, digest_of, pack

LINES = st.binary(max_size=20).filter(lambda line: b"\r\n" not in line and not line.endswith(b"\r"))
REPLIES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.binary(max_size=40)
    | st.binary(max_size=40).map(lambda data: data.replace(b"a", b"\r\n"))
    | st.builds(lambda line: ("status", line), LINES)
    | st.builds(lambda line: ("error", line), LINES),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def written(reply: Any) -> bytes:
    """What a server sends."""
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case ("status", line):
            return b"+%b\r\n" % line
        case ("error", line):
            return b"-%b\r\n" % line
        case _:
            return b"*%d\r\n%b" % (len(reply), b"".join(map(written, reply)))


def told(reply: Any) -> Any:
    """A reply as the parser gives it, in a form that can be compared."""
    match reply:
        case ("status", line):
            return line
        case ("error", line):
            return ("error", line.decode("utf-8", "replace"))
        case ResponseError():
            return ("error", str(reply))
        case list():
            return [told(item) for item in reply]
        case _:
            return reply


def fed(pieces: list[bytes]) -> Parser:
    parser = Parser()
    for piece in pieces:
        parser.feed(piece)
    return parser


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(borders) if end > start]


@given(st.lists(REPLIES, max_size=6), st.lists(st.integers(0, 10**6), max_size=12))
def test_any_cut_of_any_replies_gives_the_same(replies: list[Any], places: list[int]) -> None:
    data = b"".join(map(written, replies))
    parser = fed(cut(data, places))
    assert not parser.begun
    assert parser.count == len(replies)
    assert parser.size == len(data)
    assert parser.errs is has_error(replies)
    assert [told(reply) for reply in parser.take()] == [told(reply) for reply in replies]
    assert parser.count == 0


def has_error(reply: Any) -> bool:
    return isinstance(reply, list) and any(
        has_error(item) or (type(item) is tuple and item[0] == "error") for item in reply
    )


@given(st.lists(REPLIES, min_size=1, max_size=4))
def test_replies_byte_by_byte_are_complete_with_the_last_byte_and_not_before(replies: list[Any]) -> None:
    data = b"".join(map(written, replies))
    parser = Parser()
    for index in range(len(data) - 1):
        parser.feed(data[index : index + 1])
        assert parser.count < len(replies)
    parser.feed(data[-1:])
    assert parser.count == len(replies)
    assert not parser.begun


@given(
    st.lists(
        st.binary(max_size=30) | st.sampled_from([b"*", b"$", b":", b"+", b"-", b"\r\n", b"1", b"-1"]), max_size=20
    )
)
def test_rubbish_is_a_protocol_error_and_nothing_else(pieces: list[bytes]) -> None:
    parser = Parser()
    try:
        for piece in pieces:
            parser.feed(piece)
            if not parser.begun:
                parser.take()
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        *(b"!\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b",1\r\n", b"#t\r\n", b"~1\r\n", b"\r\n", b"\0\r\n"),
        *(b"$x\r\n", b"$\r\n", b"$-2\r\n", b"$1.5\r\n", b":\r\n", b":one\r\n", b"*\r\n", b"*x\r\n"),
        *(b"$3\r\nabcde\r\n", b"$3\r\nab\r\n:1\r\n", b"$0\r\nab"),
        b":" + b"1" * 5000 + b"\r\n",
        b"+" + b"x" * 70_000,
    ],
)
def test_what_redis_never_says_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Parser().feed(data)


def test_what_resp3_says_to_those_who_track_changes_is_understood() -> None:
    parser = Parser()
    parser.feed(
        b"%1\r\n$5\r\nproto\r\n:3\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n"
    )
    assert parser.take() == [[b"proto", 3], [b"invalidate", [b"k"]], [b"invalidate", None]]


def test_what_is_complete_can_be_had_while_more_is_under_way() -> None:
    parser = Parser()
    parser.feed(b":1\r\n*2\r\n:2\r\n")
    assert parser.drain() == [1]
    parser.feed(b":3\r\n:4\r\n")
    assert parser.drain() == [[2, 3], 4]
    assert parser.drain() == []


def test_the_depth_of_a_reply_takes_no_stack() -> None:
    parser = Parser()
    parser.feed(b"*1\r\n" * 100_000 + b":7\r\n")
    (reply,) = parser.take()
    for _ in range(100_000):
        (reply,) = reply
    assert reply == 7


def test_a_null_array_is_nothing_and_an_empty_one_is_empty() -> None:
    parser = fed([b"*-1\r\n*0\r\n*2\r\n*0\r\n*-1\r\n$0\r\n\r\n"])
    assert parser.take() == [None, [], [[], None], b""]


def test_a_large_text_in_many_pieces_is_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = Parser._parse

    def parse(self: Parser, data: bytes) -> int:
        looked.append(len(data))
        return real(self, data)

    monkeypatch.setattr(Parser, "_parse", parse)
    text = b"x" * 1_000_000
    data = written(text)
    parser = fed([data[at : at + 1000] for at in range(0, len(data), 1000)])
    assert parser.take() == [text]
    assert looked == [1000, len(data)], "the first piece says how much is lacking, and then all is read at once"


def test_many_replies_in_many_pieces_are_looked_at_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = Parser._parse

    def parse(self: Parser, data: bytes) -> int:
        looked.append(len(data))
        return real(self, data)

    monkeypatch.setattr(Parser, "_parse", parse)
    replies = [[b"y" * 10, number] for number in range(5000)]
    data = b"*%d\r\n" % len(replies) + b"".join(map(written, replies))
    parser = fed([data[at : at + 777] for at in range(0, len(data), 777)])
    assert parser.take() == [replies]
    assert sum(looked) < len(data) * 1.1, "what was read is not read again, though its array goes on"


def test_what_is_said_of_replies_begins_anew_with_the_next() -> None:
    parser = fed([b"-ERR no\r\n"])
    parser.take()
    assert (parser.errs, parser.size) == (True, 9)
    parser.feed(b":1\r\n")
    assert (parser.errs, parser.size) == (False, 4)
    assert parser.take() == [1]


WORDS = st.text(max_size=10) | st.binary(max_size=10) | st.integers(-(2**63), 2**63)


@given(st.lists(st.tuples(st.sampled_from(["GET", "SET"]), WORDS, WORDS), max_size=5))
def test_commands_are_sent_as_arrays_of_texts(commands: list[Command]) -> None:
    parser = fed([data] if (data := pack(commands)) else [])
    wanted = [[word if isinstance(word, bytes) else str(word).encode() for word in command] for command in commands]
    assert parser.take() == wanted


def test_scripts_go_by_their_digests_unless_their_text_is_asked_for() -> None:
    script = "return 1"
    digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()
    commands: list[Command] = [("EVAL", script, 1, b"k", 5)]
    assert digest_of(script) == digest
    assert fed([pack(commands)]).take() == [[b"EVALSHA", digest, b"1", b"k", b"5"]]
    assert fed([pack(commands, scripts=True)]).take() == [[b"EVAL", script.encode(), b"1", b"k", b"5"]]
