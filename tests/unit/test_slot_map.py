"""Who serves which slot of a Cluster, as nodes tell it."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import AskError, MovedError, NoPermissionError, ResponseError

from fast_cache.backends.redis.slot_map import SLOTS, Redirect, SlotMap, redirect_of, slot_of
from fast_cache.errors import BackendError, BackendUnavailable

ASKED = ("10.0.0.9", 7000)


def node(host: bytes | None, port: int, name: bytes, *more: Any) -> list[Any]:
    return [host, port, name, *more]


A, B, C = (node(b"10.0.0.1", 7001, b"aaa"), node(b"10.0.0.2", 7002, b"bbb"), node(b"10.0.0.3", 7003, b"ccc"))
WHOLE = [[0, 8000, A, C], [8001, 16383, B]]


def read(reply: Any) -> SlotMap:
    return SlotMap.read(reply, ASKED)


@pytest.mark.parametrize(
    ("key", "slot"),
    [(b"123456789", 12739), (b"{user}:1", 5474), (b"user", 5474), (b"{}x", 10595), (b"a{b}{c}", 3300), (b"b", 3300)],
)
def test_the_slot_of_a_key_is_that_of_what_its_braces_hold(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_every_slot_has_the_address_and_the_id_of_its_master() -> None:
    slots = read(WHOLE)
    assert slots.serving(0) == slots.serving(8000) == ("10.0.0.1", 7001)
    assert slots.serving(8001) == slots.serving(16383) == ("10.0.0.2", 7002)
    assert (slots.owner(8000), slots.owner(8001)) == ("aaa", "bbb")
    assert slots.masters == (("10.0.0.1", 7001), ("10.0.0.2", 7002))
    assert slots.addresses == (*slots.masters, ("10.0.0.3", 7003))
    assert slots.complete


def test_a_slot_that_nobody_serves_is_known_as_such() -> None:
    slots = read([[0, 8000, A]])
    assert (slots.serving(8001), slots.owner(8001), slots.complete) == (None, None, False)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (node(b"", 7001, b"x"), "10.0.0.9"),
        (node(None, 7001, b"x"), "10.0.0.9"),
        (node(None, 7001, b"x", []), "10.0.0.9"),
        (node(b"?", 7001, b"x", []), "10.0.0.9"),
        (node(b"?", 7001, b"x", [b"ip", b"10.0.0.5"]), "10.0.0.5"),
        (node(b"node.example.org", 7001, b"x", [b"ip", b"10.0.0.5"]), "node.example.org"),
        (node(b"10.0.0.5", 7001, b"x", [b"hostname", b"node.example.org"]), "10.0.0.5"),
        (node(b"::1", 7001, b"x"), "::1"),
    ],
)
def test_a_host_that_is_left_open_is_the_one_that_was_asked(told: list[Any], expected: str) -> None:
    assert read([[0, 16383, told]]).serving(0) == (expected, 7001)


def test_addresses_are_remapped_but_not_the_one_that_was_asked() -> None:
    slots = SlotMap.read([[0, 0, A], [1, 1, node(b"", 7005, b"x")]], ASKED, lambda told: ("outside", told[1] + 1))
    assert (slots.serving(0), slots.serving(1)) == (("outside", 7002), ("10.0.0.9", 7005))


def test_two_maps_tell_which_slots_changed_their_owners() -> None:
    before = read(WHOLE)
    failed_over = read([[0, 8000, C], [8001, 16383, B]])
    assert before.changed_owners(read(WHOLE)) == set()
    assert before.changed_owners(failed_over) == set(range(8001))
    assert before.changed_owners(read([[0, 7999, A], [8000, 16383, B]])) == {8000}
    assert before.changed_owners(read([[0, 8000, A, C], [8001, 16382, B]])) == {16383}
    assert before == read(WHOLE) != failed_over


def test_a_node_that_moved_house_still_is_the_owner() -> None:
    before, after = read(WHOLE), read([[0, 8000, node(b"10.0.0.8", 7001, b"aaa"), C], [8001, 16383, B]])
    assert before.changed_owners(after) == set()
    assert before != after


def test_a_redirection_is_worked_into_a_new_map() -> None:
    before = read(WHOLE)
    after = before.moved(Redirect(5, ("10.0.0.2", 7002), ask=False))
    assert (after.serving(5), after.owner(5), after.serving(4)) == (("10.0.0.2", 7002), "bbb", ("10.0.0.1", 7001))
    assert before.serving(5) == ("10.0.0.1", 7001)
    assert before.changed_owners(after) == {5}
    unheard = before.moved(Redirect(5, ("10.0.0.4", 7004), ask=False))
    assert before.changed_owners(unheard) == {5}
    assert ("10.0.0.4", 7004) in unheard.addresses


@pytest.mark.parametrize(
    "reply",
    [
        None,
        b"OK",
        5,
        [[0]],
        [[0, 1]],
        [[1, 0, A]],
        [[0, SLOTS, A]],
        [[-1, 5, A]],
        [[0, 5, [b"host"]]],
        [[0, 5, [b"\xff", 7001, b"x"]]],
        [[b"0", b"5", A]],
        [],
    ],
)
def test_a_reply_that_is_no_map_is_an_outage(reply: Any) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        read(reply)
    assert caught.value.setting is None


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (ResponseError("This instance has cluster support disabled"), "redis://host:port"),
        (NoPermissionError("this user has no permissions to run the 'cluster|slots' command"), "CLUSTER|SLOTS"),
    ],
)
def test_a_server_that_is_no_node_or_forbids_to_ask_puts_the_blame_on_the_setting(reply: Exception, said: str) -> None:
    with pytest.raises(BackendUnavailable, match=r"^redis_url: ") as caught:
        read(reply)
    assert caught.value.setting == "redis_url"
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (MovedError("3999 127.0.0.1:6381"), Redirect(3999, ("127.0.0.1", 6381), ask=False)),
        (AskError("3999 127.0.0.1:6381"), Redirect(3999, ("127.0.0.1", 6381), ask=True)),
        (ResponseError("MOVED 3999 127.0.0.1:6381"), Redirect(3999, ("127.0.0.1", 6381), ask=False)),
        (ResponseError("ASK 3999 127.0.0.1:6381"), Redirect(3999, ("127.0.0.1", 6381), ask=True)),
        (MovedError("3999 :6381"), Redirect(3999, ("10.0.0.9", 6381), ask=False)),
        (MovedError("3999 ?:6381"), Redirect(3999, ("10.0.0.9", 6381), ask=False)),
        (MovedError("3999 ::1:6381"), Redirect(3999, ("::1", 6381), ask=False)),
        (MovedError("3999 node.example.org:6381"), Redirect(3999, ("node.example.org", 6381), ask=False)),
        (ResponseError("wrong type"), None),
        (b"MOVED 3999 127.0.0.1:6381", None),
        (None, None),
    ],
)
def test_redirections_are_read(reply: Any, expected: Redirect | None) -> None:
    assert redirect_of(reply, ASKED) == expected


@pytest.mark.parametrize("text", ["MOVED x y", "MOVED 1 host", "MOVED 16384 host:1", "ASK "])
def test_a_redirection_that_leads_nowhere_is_an_error(text: str) -> None:
    with pytest.raises(BackendError, match="not understood"):
        redirect_of(ResponseError(text), ASKED)
