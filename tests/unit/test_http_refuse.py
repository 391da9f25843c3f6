"""What is turned away at decoration, and what is not."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from fast_cache.errors import ConfigurationError
from fast_cache.http.refuse import refuse_generators


def numbers(upto: int) -> Iterator[int]:
    yield from range(upto)


async def anumbers(upto: int) -> AsyncIterator[int]:
    for number in range(upto):
        yield number


class Stream:
    def __call__(self) -> Iterator[int]:
        yield 1

    def method(self) -> Iterator[int]:
        yield 1

    @staticmethod
    def static() -> Iterator[int]:
        yield 1

    @classmethod
    def of_class(cls) -> Iterator[int]:
        yield 1


class AsyncStream:
    async def __call__(self) -> AsyncIterator[int]:
        yield 1


class Table:
    def __call__(self) -> list[int]:
        return [1]


def _listed(fn: Callable[..., Iterator[int]]) -> Callable[..., list[int]]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> list[int]:
        return list(fn(*args))

    return wrapper


@pytest.mark.parametrize(
    "function",
    [
        numbers,
        anumbers,
        functools.partial(numbers, 3),
        functools.partial(functools.partial(anumbers, 3)),
        Stream(),
        AsyncStream(),
        functools.partial(Stream()),
        Stream().method,
        functools.partial(Stream().method),
        Stream.static,
        Stream.__dict__["static"],
        Stream.__dict__["of_class"],
        contextlib.contextmanager(numbers),
        contextlib.asynccontextmanager(anumbers),
    ],
)
def test_what_yields_is_refused_with_a_way_out(function: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"can be read only once.*return a list"):
        refuse_generators(function)


def test_the_message_names_the_function_and_its_kind() -> None:
    with pytest.raises(ConfigurationError, match=r"^anumbers is an async generator function"):
        refuse_generators(functools.partial(anumbers, 3))
    with pytest.raises(ConfigurationError, match=r"^Stream is a generator function"):
        refuse_generators(Stream())


async def _fetch() -> int:
    return 1


@pytest.mark.parametrize(
    "function",
    [len, _fetch, Table(), Table().__call__, Table, functools.partial(len), _listed(numbers), lambda: iter([1])],
)
def test_what_returns_is_accepted(function: Any) -> None:
    refuse_generators(function)
