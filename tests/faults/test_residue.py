"""A master dies with what it had not passed on: what is lost, who is served it, and what is left. See ``residue``."""

from __future__ import annotations

import pytest

from tests.faults.residue import KILLED, QUICK, WAITS, Case, Residue, measured, table


def found_in(case: Case) -> Residue:
    residue = measured(case)
    assert residue.failed == []
    assert residue.acknowledged
    assert residue.reads > residue.stale
    return residue


def test_what_was_lost_with_a_master_is_told_again_by_those_who_live() -> None:
    residue = found_in(QUICK)
    assert residue.lost > len(residue.revived) > 0
    assert residue.left == set()


def test_what_was_told_by_a_process_that_dies_too_is_left() -> None:
    residue = found_in(KILLED)
    assert residue.left
    assert residue.left <= residue.revived
    assert residue.left <= residue.dead


def test_what_replicas_acknowledged_is_not_lost_whoever_dies() -> None:
    residue = found_in(WAITS)
    assert residue.unacknowledged, "the replicas were cut off"
    assert (residue.lost, residue.revived, residue.left, residue.stale) == (0, set(), set(), 0)


def test_the_table_says_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Residue(acknowledged=1200, lost=3, revived={1, 2}, reads=5000, stale=2, lasted=0.0123, left={2})
    monkeypatch.setattr("tests.faults.residue.measured", lambda case: found)
    (row,) = table([QUICK]).rows
    assert row == [QUICK.title, "1,200", "3", "2", "2 of 5,000", "12 ms", "1"]
    found.failed.append("a call")
    with pytest.raises(AssertionError, match="a call"):
        table([QUICK])
