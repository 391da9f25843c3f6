"""What a server is owed, for how long it is remembered, and what another server is told again."""

from __future__ import annotations

import pytest

from fast_cache.backends.redis.invalidations import _REMEMBERED, _REPLAYED, Invalidations, Name, Owed
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.resp import Command

LONGEST = 1000.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def owing(clock: Clock, *names: Name, longest: float = LONGEST) -> Invalidations:
    made = Invalidations(longest, clock)
    for name in names:
        made.owe(name)
    return made


def deliver(invalidations: Invalidations) -> None:
    invalidations.delivered(invalidations.owed())


def test_nothing_is_owed_at_first(clock: Clock) -> None:
    invalidations = owing(clock)
    assert not invalidations.pending
    assert not invalidations.owed()
    invalidations.delivered(invalidations.owed())
    invalidations.repeat()
    assert not invalidations.pending


def test_each_key_is_owed_once_until_it_is_delivered(clock: Clock) -> None:
    invalidations = owing(clock, "a", b"tag", "a")
    owed = invalidations.owed()
    assert invalidations.pending
    assert owed
    assert sorted(owed.keys, key=str) == ["a", b"tag"]
    assert not owed.everything
    invalidations.delivered(owed)
    assert not invalidations.pending
    assert not invalidations.owed()


def test_what_came_to_be_owed_while_others_were_delivered_is_delivered_next(clock: Clock) -> None:
    invalidations = owing(clock, "a", "b")
    owed = invalidations.owed()
    invalidations.owe("a")  # again, after it was sent: its delivery does not count for this one
    invalidations.owe("c")
    invalidations.delivered(owed)
    assert invalidations.pending
    assert sorted(map(str, invalidations.owed().keys)) == ["a", "c"]


def test_everything_that_came_to_be_owed_again_meanwhile_is_delivered_again(clock: Clock) -> None:
    invalidations = owing(clock, None)
    owed = invalidations.owed()
    invalidations.owe(None)
    invalidations.delivered(owed)
    assert invalidations.owed().everything
    deliver(invalidations)
    assert not invalidations.pending


def test_an_older_delivery_that_ends_late_takes_nothing_away(clock: Clock) -> None:
    invalidations = owing(clock, "a")
    first = invalidations.owed()
    deliver(invalidations)
    invalidations.owe("a")
    invalidations.delivered(first)
    assert invalidations.owed().keys == ("a",)


def test_owing_everything_replaces_the_single_keys(clock: Clock) -> None:
    invalidations = owing(clock, "a", None)
    assert invalidations.owed().everything
    assert invalidations.owed().keys == ()
    invalidations.owe("b")
    assert invalidations.owed().keys == ("b",)
    assert invalidations.owed().everything


def test_past_the_bound_everything_is_owed_in_the_place_of_single_keys(clock: Clock) -> None:
    names = [str(number) for number in range(_REMEMBERED)]
    invalidations = owing(clock, *names)
    assert len(invalidations.owed().keys) == _REMEMBERED
    invalidations.owe(names[0])
    assert len(invalidations.owed().keys) == _REMEMBERED, "one that is there already takes no place"
    assert not invalidations.owed().everything
    invalidations.owe("one more")
    assert invalidations.owed().everything
    assert invalidations.owed().keys == ()
    deliver(invalidations)
    assert not invalidations.pending


def test_what_has_expired_by_itself_is_no_longer_owed(clock: Clock) -> None:
    invalidations = owing(clock, "a", longest=60)
    clock.now += 30
    invalidations.owe("b")
    clock.now += 29
    assert sorted(map(str, invalidations.owed().keys)) == ["a", "b"]
    clock.now += 1
    assert invalidations.owed().keys == ("b",)
    clock.now += 30
    assert not invalidations.owed()
    assert not invalidations.pending


def test_everything_expires_with_the_last_of_what_it_was_about(clock: Clock) -> None:
    invalidations = owing(clock, None, longest=60)
    clock.now += 30
    invalidations.owe(None)
    clock.now += 59
    assert invalidations.owed().everything
    clock.now += 1
    assert not invalidations.owed()
    assert not invalidations.pending


def test_owing_a_key_again_renews_its_time_and_repeating_it_does_not_shorten_it(clock: Clock) -> None:
    invalidations = owing(clock, longest=20)
    invalidations.confirm("a")
    clock.now += 15
    invalidations.owe("a")
    invalidations.repeat()  # of the older one
    clock.now += 19
    assert invalidations.owed().keys == ("a",)


def test_another_server_is_told_what_was_confirmed_of_late(clock: Clock) -> None:
    invalidations = owing(clock, "owed")
    deliver(invalidations)
    for name in ("early", "late", b"tag"):
        invalidations.confirm(name)
    clock.now += _REPLAYED - 1
    invalidations.confirm("late")
    clock.now += 1
    assert not invalidations.pending
    invalidations.repeat()
    assert invalidations.owed().keys == ("late",)
    deliver(invalidations)
    invalidations.repeat()
    assert invalidations.owed().keys == ("late",), "and a third one, what the second confirmed"


def test_delivered_invalidations_count_as_confirmed(clock: Clock) -> None:
    invalidations = owing(clock, "a", None)
    deliver(invalidations)
    invalidations.owe("b")
    deliver(invalidations)
    invalidations.repeat()
    assert invalidations.owed().everything
    assert invalidations.owed().keys == ("b",)


def test_another_server_is_told_what_was_on_its_way_too(clock: Clock) -> None:
    invalidations = owing(clock)
    invalidations.begin("a")
    assert not invalidations.pending
    invalidations.repeat()  # before the confirmation of the one that is no more is noted
    assert invalidations.owed().keys == ("a",)


def test_while_the_server_is_away_time_stands_still(clock: Clock) -> None:
    """A failover may take longer than what was confirmed is remembered."""
    invalidations = owing(clock)
    invalidations.confirm("old")
    clock.now += _REPLAYED
    invalidations.confirm("a")
    clock.now += 1
    invalidations.away()
    clock.now += 10 * _REPLAYED
    invalidations.begin("meanwhile")
    assert invalidations.unsafe()
    invalidations.repeat()
    assert invalidations.owed().keys == ("a", "meanwhile")


def test_when_the_server_is_back_and_the_same_time_goes_on(clock: Clock) -> None:
    invalidations = owing(clock)
    invalidations.confirm("a")
    invalidations.away()
    clock.now += _REPLAYED
    assert invalidations.unsafe()
    invalidations.back()
    assert not invalidations.unsafe()
    invalidations.repeat()
    assert not invalidations.pending


def test_what_could_yet_be_lost_is_unsafe(clock: Clock) -> None:
    invalidations = owing(clock)
    assert not invalidations.unsafe()
    invalidations.owe("a")
    clock.now += 2 * _REPLAYED
    assert invalidations.unsafe(), "as long as it is owed"
    deliver(invalidations)
    clock.now += _REPLAYED - 1
    assert invalidations.unsafe()
    clock.now += 1
    assert not invalidations.unsafe()


def test_what_replicas_lack_is_told_again_however_old_it_is(clock: Clock) -> None:
    invalidations = Invalidations(LONGEST, clock, replicate=True)
    for name in (None, "a", b"tag"):
        invalidations.confirm(name)
    clock.now += 10 * _REPLAYED
    assert not invalidations.pending, "the server has been told"
    assert invalidations.unsafe()
    invalidations.repeat()
    owed = invalidations.owed()
    assert owed.everything
    assert owed.keys == ("a", b"tag")
    assert not invalidations.told()
    invalidations.delivered(owed)
    assert not invalidations.pending
    assert invalidations.told().everything, "and that one's replicas are asked"


def test_what_replicas_have_is_remembered_like_anything_that_was_confirmed(clock: Clock) -> None:
    """There may be others, which have not."""
    invalidations = Invalidations(LONGEST, clock, replicate=True)
    invalidations.confirm("a")
    told = invalidations.told()
    assert not invalidations.all_replicated(told.upto)
    invalidations.confirm("b")
    invalidations.replicated(told)
    assert invalidations.all_replicated(told.upto)
    assert not invalidations.all_replicated(invalidations.last_told)
    assert invalidations.told().keys == ("b",)
    invalidations.replicated(invalidations.told())
    invalidations.repeat()
    assert invalidations.owed().keys == ("a", "b")


def test_a_name_that_is_told_again_waits_for_its_last_time(clock: Clock) -> None:
    invalidations = Invalidations(LONGEST, clock, replicate=True)
    for name in ("a", "b", "a"):
        invalidations.confirm(name)
    assert invalidations.all_replicated(1)
    assert not invalidations.all_replicated(2)
    invalidations.confirm(None)
    assert invalidations.all_replicated(3)
    assert not invalidations.all_replicated(4)


def test_what_has_expired_by_itself_is_not_waited_for(clock: Clock) -> None:
    invalidations = Invalidations(LONGEST, clock, replicate=True)
    invalidations.confirm("a")
    clock.now += LONGEST
    assert not invalidations.told()


def test_clearing_that_was_confirmed_is_repeated_too(clock: Clock) -> None:
    invalidations = owing(clock)
    invalidations.confirm(None)
    invalidations.repeat()
    assert invalidations.owed().everything


def test_the_memory_of_what_was_confirmed_is_bounded(clock: Clock) -> None:
    invalidations = owing(clock)
    for number in range(_REMEMBERED + 1):
        invalidations.confirm(str(number))
    assert len(invalidations._confirmed) == 1
    invalidations.repeat()
    assert invalidations.owed().everything
    assert invalidations.owed().keys == ()


def test_what_was_confirmed_long_ago_takes_no_room(clock: Clock) -> None:
    invalidations = owing(clock)
    for number in range(100):
        invalidations.confirm(str(number))
    clock.now += _REPLAYED - 1
    invalidations.confirm("0")
    clock.now += 1
    invalidations.confirm("new")
    assert list(invalidations._confirmed) == ["0", "new"]


def test_a_child_owes_what_its_parent_owed(clock: Clock) -> None:
    invalidations = owing(clock, "a")
    with invalidations._lock:  # as a thread of the parent might hold it at that moment
        invalidations.forked()
        assert invalidations.owed().keys == ("a",)


def test_the_commands_delete_keys_and_forget_tags_or_clear() -> None:
    layout = Layout("ns", 1000)
    clock = Clock()
    first, commands = owing(clock, "a", b"\1" * 8).owed().packets(layout)
    commands = [*first, *commands]
    assert [command[0] for command in commands] == ["DEL", "DEL", "DEL", "DEL"]
    assert commands[1] == ("DEL", layout.tag_key(b"\1" * 8))
    assert commands[2:] == layout.delete("a")
    everything, more = owing(clock, None, "a").owed().packets(layout)
    everything = [*everything, *more]
    named: list[Command] = [("DEL", b"ns:g:"), ("DEL", b"ns:q:")]
    assert [command[:2] for command in everything[:2]] == named, "values by their generation, and tags by their epoch"
    assert everything[2:] == layout.delete("a")


def test_what_may_be_lacking_is_listed_and_stays_as_it_is(clock: Clock) -> None:
    invalidations = Invalidations(LONGEST, clock, replicate=True)
    invalidations.confirm("long ago")
    invalidations.replicated(invalidations.told())
    invalidations.confirm("not replicated")
    clock.now += _REPLAYED
    invalidations.confirm("of late")
    invalidations.replicated(Owed(("of late",), upto=invalidations.last_told))
    invalidations.owe(b"owed")
    for _ in range(2):
        lacking = invalidations.of_late()
        assert set(lacking.keys) == {b"owed", "not replicated", "of late"}
        assert not lacking.everything
    invalidations.confirm(None)
    assert invalidations.of_late().everything
    clock.now += _REPLAYED
    invalidations.replicated(invalidations.told())
    assert invalidations.of_late().keys == (b"owed",)
