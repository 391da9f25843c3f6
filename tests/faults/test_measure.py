"""What is measured of faults is what requests met: while they lasted, and at the return."""

from __future__ import annotations

from tests.faults.measure import Figures


def test_each_wait_belongs_to_the_fault_or_to_the_return() -> None:
    figures = Figures()
    before, met, within, longer = (9.0, 0.5), (9.0, 2.0), (11.0, 0.1), (19.9, 4.0)
    at_return, after = (20.0, 3.0), (30.0, 1.0)
    figures.take([before, met, within, longer, at_return, after], began=10.0, ended=20.0, normal=30.0)
    assert figures.waits == [2.0, 0.1, 4.0]
    assert figures.later == [3.0]
    assert [figures.percentile(which) for which in (50, 99, 100)] == [2.0, 4.0, 4.0]
