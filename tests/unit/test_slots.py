"""Slots and text keys say the same: every entry of local memory is found by either, and no two calls share one."""

from __future__ import annotations

import asyncio
import datetime
import enum
import gc
import math
import string
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID, SafeUUID

import hypothesis.strategies as st
import pytest
from fastapi import FastAPI
from hypothesis import given, settings

from fast_cache import Cache, InMemoryBackend
from fast_cache.keys import KeyMaker, Slot, address_of
from fast_cache.keys.slots import MAX_INT, MAX_LENGTH, Shape

patient = settings(deadline=None)


@pytest.fixture
def backend() -> InMemoryBackend:
    return InMemoryBackend()


@pytest.fixture
def store(backend: InMemoryBackend) -> Cache:
    """A cache over ``backend``."""
    return cache_over(backend)


def cache_over(backend: InMemoryBackend) -> Cache:
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


def one(x):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def two(x, y):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def flagged(x: bool, y: int):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def of_kinds(a, /, b, c=3, *, d="d"):  # type: ignore[no-untyped-def]
    raise NotImplementedError


MAKERS = {fn.__name__: KeyMaker(fn, namespace="ns:%'", version="2,=") for fn in (one, two, flagged)}


def shape_of(maker: KeyMaker) -> Shape:
    assert maker.shape is not None
    return maker.shape


class Color(enum.IntEnum):
    RED = 1


class Name(enum.StrEnum):
    A = "1"


class Int(int):
    pass


class Str(str):
    __slots__ = ()


texts = st.text(alphabet="',=()[]%:#1 ab\\{}é\n\ud800") | st.text(st.characters(), max_size=150)
raw = (
    st.none()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([MAX_INT, MAX_INT - 1, -MAX_INT, -MAX_INT + 1, 10**600])
    | texts
    | st.binary(max_size=140)
    | st.uuids()
    | st.sampled_from(["1", "True", "None", "'1'", "%41", "A", "%", "%FF", "x=1", "1,y=1"])
)
values = (
    raw
    | st.booleans()
    | st.floats()
    | st.complex_numbers()
    | st.decimals()
    | st.dates()
    | st.tuples(raw)
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from([Color.RED, Name.A, Int(1), Str("1"), bytearray(b"1"), frozenset({1})])
)


@patient
@given(values)
def test_slot_and_text_of_one_argument_say_the_same(x: Any) -> None:
    check_round_trip(MAKERS["one"], (x,))


@patient
@given(values, values)
def test_slot_and_text_of_two_arguments_say_the_same(x: Any, y: Any) -> None:
    check_round_trip(MAKERS["two"], (x, y))


@patient
@given(values | st.booleans(), values)
def test_slot_and_text_of_a_flag_say_the_same(x: Any, y: Any) -> None:
    check_round_trip(MAKERS["flagged"], (x, y))


def check_round_trip(maker: KeyMaker, values: tuple[Any, ...]) -> None:
    shape, text = shape_of(maker), maker.compiled(*values)
    slot = shape.slot(values)
    if slot is None:
        assert maker.address(values, {}) == text
        assert address_of(text) == text, "what the wrapper keeps under text must be sought there"
        return
    assert shape.text(slot) == text
    found = address_of(text)
    assert type(found) is Slot
    assert found == slot
    assert exactly(found.key) == exactly(slot.key)
    assert exactly(maker.address(values, {}).key) == exactly(slot.key)  # type: ignore[union-attr]


def exactly(key: Any) -> Any:
    """A key with the types that equality does not look at."""
    return [(type(item), item) for item in key] if type(key) is tuple else (type(key), key)


@patient
@given(st.tuples(values, values), st.tuples(values, values))
def test_calls_that_share_a_slot_share_their_text(one_call: tuple[Any, Any], other_call: tuple[Any, Any]) -> None:
    maker = MAKERS["two"]
    one_slot, other_slot = (shape_of(maker).slot(call) for call in (one_call, other_call))
    if one_slot is not None and other_slot is not None:
        same_text = maker.compiled(*one_call) == maker.compiled(*other_call)
        assert (one_slot == other_slot) is same_text
        if same_text:
            assert hash(one_slot) == hash(other_slot)


@patient
@given(st.text(alphabet="xy=,'b%0123456789aAfFUID()TrueFalsN-:#é\ud800", max_size=40))
def test_any_text_has_an_address_and_one_that_is_read_is_written_the_same(tail: str) -> None:
    for maker in MAKERS.values():
        text = maker.prefix + tail
        address = address_of(text)
        if type(address) is Slot:
            assert shape_of(maker).text(address) == text
        else:
            assert address == text


SAME_LOOKING: list[Any] = [
    1,
    True,
    1.0,
    "1",
    b"1",
    1 + 0j,
    Decimal(1),
    Decimal("1.0"),
    Color.RED,
    Int(1),
    Str("1"),
    Name.A,
    (1,),
    (True,),
    0,
    False,
    0.0,
    -0.0,
    "",
    b"",
    None,
    "None",
    "True",
    "'1'",
    math.inf,
    "inf",
    UUID(int=1),
    UUID(int=1).hex,
    str(UUID(int=1)),
    UUID(int=1).bytes,
    MAX_INT,
    float(MAX_INT),
    datetime.date(2024, 1, 1),
    "a" * MAX_LENGTH,
    "a" * (MAX_LENGTH + 1),
]


@pytest.mark.parametrize("annotation", [None, int, str, bool, float, object, "int", "bool"])
def test_what_looks_the_same_is_kept_apart(store: Cache, annotation: Any) -> None:
    seen: list[Any] = []

    def fn(x):  # type: ignore[no-untyped-def]
        seen.append(x)
        return (type(x), repr(x))

    if annotation is not None:
        fn.__annotations__["x"] = annotation
    cached = store.cached(fn)
    for _ in range(2):
        for x in SAME_LOOKING:
            assert cached(x) == (type(x), repr(x))
    assert len(seen) == len(SAME_LOOKING)


def test_what_looks_the_same_is_kept_apart_beside_other_arguments(store: Cache) -> None:
    @store.cached
    def fn(x: Any, y: Any, *, z: Any = 1) -> Any:
        return [(type(value), repr(value)) for value in (x, y, z)]

    for _ in range(2):
        for x in SAME_LOOKING:
            said = (type(x), repr(x))
            assert fn(x, 1) == [said, (int, "1"), (int, "1")]
            assert fn(1, x) == [(int, "1"), said, (int, "1")]
            assert fn(1, 1, z=x) == [(int, "1"), (int, "1"), said]
    assert fn.stats().loads == 3 * len(SAME_LOOKING) - 2  # three times the call of nothing but ones


class Hostile:
    """Equal to everything, with everybody's hash."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(1)

    def __cache_key__(self) -> str:
        return self.name


class Explosive:
    """As an array is: no hash, and a comparison that is no answer."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value is ambiguous")

    def __cache_key__(self) -> str:
        return "explosive"


def test_objects_that_equal_everything_are_told_apart_by_their_keys(store: Cache) -> None:
    @store.cached
    def fn(x: Any) -> str:
        return getattr(x, "name", "plain")

    assert [fn(x) for x in (1, Hostile("a"), Hostile("b"), 1, Hostile("a"))] == ["plain", "a", "b", "plain", "a"]
    assert fn.stats().loads == 3


def test_neither_comparison_nor_hash_of_an_argument_is_asked_for(store: Cache) -> None:
    @store.cached
    def fn(x: Any, y: int = 1) -> str:
        return "result"

    assert [fn(Explosive()) for _ in range(2)] == ["result", "result"]
    assert fn.stats().hits == 1


def test_an_annotation_that_can_not_be_compared_does_no_harm(store: Cache) -> None:
    def fn(x):  # type: ignore[no-untyped-def]
        return x

    fn.__annotations__["x"] = Explosive()
    cached = store.cached(fn)
    assert [cached(1), cached(1)] == [1, 1]
    assert cached.stats().hits == 1


def test_a_flag_takes_flags_and_keeps_them_from_numbers(store: Cache, backend: InMemoryBackend) -> None:
    @store.cached
    def fn(x: bool, y: int = 0) -> str:
        return f"{x!r} {y!r}"

    def asked() -> list[str]:
        return [fn(x) for x in (True, 1, 1.0, False, 0, None)]  # type: ignore[arg-type]

    assert asked() == asked() == ["True 0", "1 0", "1.0 0", "False 0", "0 0", "None 0"]
    assert fn(True, True) == "True True"
    assert type(address_of(fn.key(True))) is Slot
    assert type(address_of(fn.key(1))) is str  # type: ignore[arg-type]
    assert type(address_of(fn.key(None))) is Slot  # type: ignore[arg-type]
    assert backend.get(fn.key(True)) == "True 0"
    assert backend.get(fn.key(1)) == "1 0"  # type: ignore[arg-type]


def test_uuids_that_are_equal_are_one_call(store: Cache) -> None:
    @store.cached
    def fn(x: UUID) -> str:
        return x.hex

    fn(UUID(int=5))
    fn(UUID(int=5, is_safe=SafeUUID.safe))
    assert fn.stats().loads == 1


@pytest.mark.parametrize(
    ("value", "lies_in_a_slot"),
    [
        ("a" * MAX_LENGTH, True),
        ("a" * (MAX_LENGTH + 1), False),
        ("é" * MAX_LENGTH, True),
        ("%" * 60, True),
        ("%" * MAX_LENGTH, False),  # three characters each in the text, which is digested
        (b"a" * 90, True),
        (b"a" * MAX_LENGTH, False),
        (MAX_INT - 1, True),
        (MAX_INT, False),
        (-MAX_INT + 1, True),
        (-MAX_INT, False),
    ],
    ids=lambda value: f"{value!r:.12}" if not isinstance(value, bool) else str(value),
)
def test_what_is_long_falls_back_to_text(
    store: Cache, backend: InMemoryBackend, value: Any, lies_in_a_slot: bool
) -> None:
    @store.cached
    def fn(x: Any) -> Any:
        return (x, "result")

    for _ in range(2):
        assert fn(value) == (value, "result")
    assert fn.stats().loads == 1
    assert (type(address_of(fn.key(value))) is Slot) is lies_in_a_slot
    assert backend.get(fn.key(value)) == (value, "result")
    assert fn.invalidate(value)
    assert not backend.has(fn.key(value))


def test_many_short_arguments_that_are_long_together_fall_back_to_text(store: Cache, backend: InMemoryBackend) -> None:
    @store.cached
    def fn(a: str, b: str, c: str) -> str:
        return a + b + c

    arguments = ("a" * 100, "b" * 100, "c" * 100)
    assert [fn(*arguments) for _ in range(2)] == ["".join(arguments)] * 2
    assert fn.stats().loads == 1
    assert fn.key(*arguments).rpartition(":")[2].startswith("#")
    assert backend.get(fn.key(*arguments)) == "".join(arguments)


CALLS: list[Any] = [1, -5, 0, "a", "", "it's", "%41", "é\n\ud800", "b'00'", b"", b"\x00'", None, UUID(int=7), True, 1.5]


@pytest.mark.parametrize("x", CALLS, ids=repr)
def test_the_ten_methods_reach_exactly_the_entry_of_the_function(
    store: Cache, backend: InMemoryBackend, x: Any
) -> None:
    @store.cached
    def fn(x: Any) -> Any:
        return ("computed", x)

    others = [other for other in CALLS if other is not x]
    for other in others:
        fn(other)
    fn(x)
    key = fn.key(x)
    if "\ud800" in str(x):
        assert "\ud800" not in key
    assert backend.get(key) == ("computed", x)
    assert asyncio.run(backend.aget(key)) == ("computed", x)
    assert backend.has(key)
    backend.set(key, "set by hand")
    assert fn(x) == "set by hand"
    assert backend.delete(key) is True
    assert not backend.has(key)
    assert backend.get(key, "nothing") == "nothing"
    assert backend.delete(key) is False
    assert fn(x) == ("computed", x)
    assert [fn(other) for other in others] == [("computed", other) for other in others]
    assert fn.stats().loads == len(CALLS) + 1


def test_an_entry_set_by_hand_is_found_by_the_function_with_its_lifetime(
    store: Cache, backend: InMemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    @store.cached
    def fn(x: int) -> str:
        return "computed"

    backend.set(fn.key(1), None, expire=60)
    assert fn(1) is None
    later = __import__("time").monotonic() + 61
    monkeypatch.setattr("fast_cache.backends.memory.monotonic", lambda: later)
    assert not backend.has(fn.key(1))


@pytest.mark.parametrize(
    "spelling",
    ["x=01", "x=+1", "x=-0", "x= 1", "x=1 ", "x=1,", "x=1,x=1", "x=1,y=2", "y=1", "x=", "1", "", "X=1", "x=0x1",
     "x=1.0", "x=True", "x=\u0661", "x=1:", "x=(1)"],
)  # fmt: skip
def test_a_spelling_of_a_number_that_is_not_written_so_is_another_key(
    store: Cache, backend: InMemoryBackend, spelling: str
) -> None:
    check_is_another_key(store, backend, spelling, 0 if "0" in spelling[:4] and "01" not in spelling else 1)


@pytest.mark.parametrize(
    ("spelling", "argument"),
    [
        ("x='%61'", "a"),
        ("x='é'", "e\u0301"),
        ("x='%C3%A9'", "é"),
        ("x='%0a'", "\n"),
        ("x='a", "a"),
        ("x=a'", "a"),
        ('x="a"', "a"),
        ("x='\n'", "\n"),
        ("x=b'0A'", b"\n"),
        ("x=b'0 a'", b"\n"),
        ("x=UUID(0000000000000000000000000000000A)", UUID(int=10)),
        ("x=UUID(00000000-0000-0000-0000-00000000000a)", UUID(int=10)),
    ],
)
def test_a_spelling_that_is_not_written_so_is_another_key(
    store: Cache, backend: InMemoryBackend, spelling: str, argument: Any
) -> None:
    check_is_another_key(store, backend, spelling, argument)


def check_is_another_key(store: Cache, backend: InMemoryBackend, spelling: str, argument: Any) -> None:
    @store.cached
    def fn(x: Any) -> Any:
        return "computed"

    fn(argument)
    prefix = fn.key("").removesuffix("x=''")
    key = prefix + spelling
    assert key != fn.key(argument)
    assert backend.get(key, "nothing") == "nothing"
    assert not backend.has(key)
    assert backend.delete(key) is False
    backend.set(key, "another")
    assert backend.get(key) == "another"
    assert fn(argument) == "computed"
    assert fn.stats().loads == 1


@pytest.mark.parametrize("spelling", ["x='%FF'", "x='%C3'", "x='%ED%A0'", "x=b'a'", "x=b'000'", "x='%80abc'"])
def test_a_key_that_no_value_could_have_made_is_a_key_like_any_other(
    store: Cache, backend: InMemoryBackend, spelling: str
) -> None:
    @store.cached
    def fn(x: Any) -> Any:
        return "computed"

    key = fn.key("").removesuffix("x=''") + spelling
    assert backend.get(key, "nothing") == "nothing"
    assert not backend.has(key)
    backend.set(key, "mine")
    assert backend.get(key) == "mine"
    assert backend.delete(key) is True


@pytest.mark.parametrize("options", [{}, {"namespace": "n"}, {"namespace": "a:b:c"}, {"version": "7:8"}, {"version": 2},
                                     {"namespace": "x.y", "version": "v"}], ids=str)  # fmt: skip
def test_namespaces_and_versions_have_entries_of_their_own(
    store: Cache, backend: InMemoryBackend, options: dict[str, Any]
) -> None:
    def fn(x: int) -> str:
        return "computed"

    own = store.cached(**options)(fn)
    other = store.cached(namespace="other", version="other")(fn)
    assert type(address_of(own.key(1))) is Slot
    own(1)
    assert backend.get(other.key(1)) is None
    other(1)
    backend.set(own.key(1), "by hand")
    assert (own(1), other(1)) == ("by hand", "computed")
    assert backend.delete(own.key(1))
    assert (own.stats().loads, other.stats().loads) == (1, 1)
    assert (own(1), own.stats().loads) == ("computed", 2)


def test_positional_only_keyword_only_and_defaults_make_one_slot(store: Cache, backend: InMemoryBackend) -> None:
    @store.cached
    def fn(a: int, /, b: int, c: int = 3, *, d: str = "d") -> str:
        return f"{a}{b}{c}{d}"

    for result in (fn(1, 2), fn(1, b=2), fn(1, 2, 3), fn(1, c=3, b=2), fn(1, 2, d="d"), fn(1, d="d", c=3, b=2)):
        assert result == "123d"
    assert fn.stats().loads == 1
    key = fn.key(1, 2)
    assert key.endswith(":a=1,b=2,c=3,d='d'")
    address = address_of(key)
    assert type(address) is Slot
    assert address.key == (1, 2, 3, "d")
    assert backend.delete(key)
    assert fn(2, 1) == "213d"
    assert fn.stats().loads == 2


def test_a_function_without_parameters_has_a_slot(store: Cache, backend: InMemoryBackend) -> None:
    @store.cached
    def fn() -> str:
        return "computed"

    @store.cached
    def other() -> str:
        return "another" + ""

    assert [fn(), fn(), other(), other()] == ["computed", "computed", "another", "another"]
    assert (fn.stats().loads, other.stats().loads) == (1, 1)
    assert address_of(fn.key()) == Slot(fn.key(), ())
    assert backend.get(fn.key()) == "computed"
    assert backend.delete(fn.key())
    assert not backend.has(fn.key())
    assert backend.has(other.key())


def variadic(*args: Any) -> Any:
    return args


def keywords(**kwargs: Any) -> Any:
    return sorted(kwargs.items())


def mixed(x: Any, *args: Any, y: Any = 0, **kwargs: Any) -> Any:
    return (x, args, y, sorted(kwargs.items()))


@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (variadic, (), {}),
        (variadic, (1, "a"), {}),
        (keywords, (), {"a": 1}),
        (mixed, (1,), {}),
        (mixed, (1, 2), {"y": 3, "z": 4}),
    ],
)
def test_functions_with_stars_work_by_text(
    store: Cache, backend: InMemoryBackend, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    cached = store.cached(fn)
    results = [cached(*args, **kwargs) for _ in range(2)]
    assert results == [fn(*args, **kwargs)] * 2
    assert cached.stats().loads == 1
    key = cached.key(*args, **kwargs)
    assert address_of(key) == key
    assert backend.get(key) == results[0]
    assert backend.delete(key)
    cached(*args, **kwargs)
    assert cached.stats().loads == 2


def test_unhashable_arguments_work_by_text(store: Cache, backend: InMemoryBackend) -> None:
    @store.cached
    def fn(x: Any, y: int = 1) -> Any:
        return ("computed", x)

    calls: list[Any] = [[], [1], [True], {}, {"a": [1]}, {1: 2}, {1, 2}, (1, [2]), bytearray(b"a")]
    for _ in range(2):
        assert [fn(x) for x in calls] == [("computed", x) for x in calls]
    assert fn.stats().loads == len(calls)
    for x in calls:
        assert backend.get(fn.key(x)) == ("computed", x)
        assert backend.delete(fn.key(x))
        assert not fn.invalidate(x)


def test_simple_and_other_arguments_of_one_function_are_reached_alike(store: Cache, backend: InMemoryBackend) -> None:
    @store.cached
    def fn(x: Any, y: Any) -> Any:
        return (x, y)

    for x, y in ((1, 2), (1, [2]), (1.0, 2), (1, "2")):
        assert fn(x, y) == (x, y)
        assert backend.get(fn.key(x, y)) == (x, y)
    backend.clear()
    assert not any(backend.has(fn.key(x, y)) for x, y in ((1, 2), (1, [2]), (1.0, 2), (1, "2")))


def test_keys_of_nobody_in_particular_are_texts() -> None:
    for text in ("k", "a:b", "a:b:c", ":", "::", ":::", "a.b:1:x=1", "user:1", MAKERS["one"].prefix[:-1]):
        assert address_of(text) == text


def test_the_entries_of_two_backends_are_apart() -> None:
    backends = [InMemoryBackend(), InMemoryBackend()]
    caches = [cache_over(backend) for backend in backends]

    def fn(x: int) -> int:
        return x

    first, second = (cache.cached(fn) for cache in caches)
    first(1)
    assert backends[0].has(first.key(1))
    assert not backends[1].has(first.key(1))
    second(1)
    assert backends[0].delete(second.key(1))
    assert backends[1].has(second.key(1))


def test_a_copying_backend_finds_slots_by_text_too() -> None:
    backend = InMemoryBackend(copy=True)

    @cache_over(backend).cached
    def fn(x: int) -> list[int]:
        return [x]

    first, second = fn(1), fn(1)
    assert first == second == backend.get(fn.key(1)) == [1]
    assert first is not second
    assert fn.stats().loads == 1
    assert backend.delete(fn.key(1))
    assert not backend.has(fn.key(1))


class TestFunctionsOfOneName:
    """Handlers of one name, as copied endpoints and the ``_`` of ``singledispatch`` are: their texts are apart."""

    def test_parameters_of_other_names_are_other_calls(self, store: Cache) -> None:
        def item(item_id: int) -> str:
            return f"item {item_id}"

        def user(user_id: int) -> str:
            return f"user {user_id}"

        for fn in (item, user):
            fn.__qualname__ = "read"
        items, users = store.cached(item), store.cached(user)
        assert items.key(1) != users.key(1)
        assert items(1) == "item 1"
        assert users(1) == "user 1"

    def test_parameters_in_another_order_are_other_calls(self, store: Cache) -> None:
        def minus(a: int, b: int) -> str:
            return f"{a} - {b}"

        def under(b: int, a: int) -> str:
            return f"{b} under {a}"

        for fn in (minus, under):
            fn.__qualname__ = "read"
        first, second = store.cached(minus), store.cached(under)
        assert first.key(1, 2) != second.key(1, 2)
        assert first(1, 2) == "1 - 2"
        assert second(1, 2) == "1 under 2"

    def test_a_flag_and_a_number_are_other_calls(self, store: Cache) -> None:
        def of_flag(x: bool) -> str:
            return f"flag {x}"

        def of_number(x: int) -> str:
            return f"number {x}"

        for fn in (of_flag, of_number):
            fn.__qualname__ = "_"
        flag, number = store.cached(of_flag), store.cached(of_number)
        assert flag.key(True) != number.key(1)
        assert flag(True) == "flag True"
        assert number(1) == "number 1"

    def test_the_entries_of_both_are_reached_by_their_keys(self, store: Cache, backend: InMemoryBackend) -> None:
        def item(item_id: int) -> str:
            return f"item {item_id}"

        def user(user_id: int) -> str:
            return f"user {user_id}"

        for fn in (item, user):
            fn.__qualname__ = "read"
        items, users = store.cached(item), store.cached(user)
        items(1)
        users(2)
        assert backend.get(items.key(1)) == "item 1"
        assert backend.get(users.key(2)) == "user 2"
        assert backend.delete(items.key(1))
        assert backend.delete(users.key(2))

    def test_entries_are_reached_after_another_decoration_of_the_function_is_gone(
        self, store: Cache, backend: InMemoryBackend
    ) -> None:
        def fn(x: int) -> str:
            return "computed"

        staying, going = store.cached(fn), store.cached(fn)
        staying(1)
        key = staying.key(1)
        del going
        gc.collect()
        assert backend.get(key) == "computed"
        assert backend.delete(key) is True
        staying(1)
        assert staying.stats().loads == 2


def test_what_was_set_before_the_function_was_decorated_is_had_get_and_deleted_alike(
    store: Cache, backend: InMemoryBackend
) -> None:
    def fn(x: int) -> str:
        return "computed"

    key = KeyMaker(fn).compiled(1)
    gc.collect()
    backend.set(key, "before")
    cached = store.cached(fn)
    assert cached.key(1) == key
    assert backend.get(key) == "before"
    assert backend.has(key) is True
    assert backend.delete(key) is True
    assert backend.get(key) is None


def test_the_alphabet_survives_the_way_there_and_back() -> None:
    maker = MAKERS["one"]
    for char in [*string.printable, *map(chr, range(0x80, 0x250)), "\u2028", "\ud800", "\U0001f600"]:
        check_round_trip(maker, (char,))
