"""`integrity=True`: a changed function, or a changed class that it returns, has keys of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fast_cache import Cache
from fast_cache.errors import ConfigurationError

ROOT = Path(__file__).parents[2]


def key_of(source: str, **options: Any) -> str:
    """The key of ``fn(1)`` in a module of this source."""
    space: dict[str, Any] = {"__name__": "a_module"}
    future, source = ("", source) if not source.startswith("from __future__") else source.split("\n", 1)
    head = f"{future}\nimport dataclasses, msgspec\nfrom pydantic import BaseModel\n"
    exec(compile(head + source, "a module", "exec", dont_inherit=True), space)
    fn: Callable[..., Any] = space["fn"]
    cached: Any = Cache().cached(integrity=True, **options)(fn)
    key: str = cached.key(1)
    return key


PLAIN = "def fn(x):\n    return x + 1\n"


def test_the_same_code_has_the_same_key() -> None:
    moved = "\n\n\n" + PLAIN.replace("x + 1", "x + 1  # a remark")
    assert key_of(PLAIN) == key_of(PLAIN) == key_of(moved)


@pytest.mark.parametrize(
    "changed",
    [
        "def fn(x):\n    return x + 2\n",
        "def fn(x):\n    return x - 1\n",
        "def fn(x):\n    return abs(x) + 1\n",
        "def fn(x):\n    return (lambda: x + 1)()\n",
        "def fn(x) -> int:\n    return x + 1\n",
        "async def fn(x):\n    return x + 1\n",
    ],
)
def test_other_code_has_another_key(changed: str) -> None:
    assert key_of(PLAIN) != key_of(changed)


@pytest.mark.parametrize("base", ["BaseModel", "msgspec.Struct", "dataclass"])
def test_another_field_or_type_has_another_key(base: str) -> None:
    head = "@dataclasses.dataclass\nclass Item:" if base == "dataclass" else f"class Item({base}):"

    def source(fields: str) -> str:
        return f"{head}\n    {fields}\n\ndef fn(x: int) -> list[Item]:\n    ...\n"

    keys = {fields: key_of(source(fields)) for fields in ("a: int", "a: str", "a: int; b: int", "b: int")}
    assert len(set(keys.values())) == 4
    assert key_of(source("a: int")) == keys["a: int"]


def test_a_field_of_a_field_counts() -> None:
    source = "class Part(BaseModel):\n    {}\nclass Item(BaseModel):\n    part: Part\ndef fn(x: int) -> Item: ...\n"
    assert key_of(source.format("a: int")) != key_of(source.format("a: str"))


def test_the_version_still_counts() -> None:
    assert len({key_of(PLAIN), key_of(PLAIN, version=2), key_of(PLAIN, version="2b")}) == 3


def test_a_type_that_has_no_schema_counts_by_its_name() -> None:
    source = "class {0}:\n    pass\ndef fn(x: int) -> {0}: ...\n"
    assert key_of(source.format("One")) == key_of(source.format("One"))
    assert key_of(source.format("One")) != key_of(source.format("Two"))


def test_a_type_that_is_not_defined_yet_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="defined above it"):
        key_of("from __future__ import annotations\ndef fn(x: int) -> Later: ...\n")


def test_another_process_has_the_same_key() -> None:
    program = "from tests.unit.test_integrity import PLAIN, key_of; print(key_of(PLAIN))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert keys == {key_of(PLAIN)}
