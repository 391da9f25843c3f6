"""The libraries that the scenarios compare with: imported when a contender is made, left out where they are missing.

A contender is made by a function, which imports what it needs. Whatever goes wrong there is the peer's affair: it is
left out, with the reason, and the scenario goes on. None of them is needed to run the scenarios.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any, TypeVar

T = TypeVar("T")

DISTRIBUTIONS = (
    *("aiocache", "async-cache", "async-lru", "cachebox", "cachetools", "cashews", "dogpile.cache", "fastapi-cache2"),
    *("redis", "theine"),
)


def library(name: str) -> Any:
    """Import a peer: its types are not ours to check."""
    return importlib.import_module(name)


def made(makers: Iterable[Callable[[], T]]) -> tuple[list[T], list[str]]:
    """Make every contender that can be made; for each of the others, a sentence that says why not."""
    present: list[T] = []
    absent: list[str] = []
    for make in makers:
        try:
            present.append(make())
        except ModuleNotFoundError as error:
            absent.append(f"Left out: {error.name} is not installed.")
        except Exception as error:
            absent.append(f"Left out: {type(error).__name__}: {error}.")
    return present, absent


def versions() -> list[str]:
    """Python, the peers that are installed, and the driver that all have for Redis, with their versions."""
    found = [f"{platform.python_implementation()} {platform.python_version()}"]
    for name in DISTRIBUTIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return found
