"""A Redis with a proxy before it, for one test to break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.faults import Ground


@pytest.fixture
def ground() -> Iterator[Ground]:
    with Ground() as made:
        yield made
