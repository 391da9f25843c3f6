"""Methods are found without a text key too: on a shelf for each class, by what ``__cache_key__`` returns."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from fastapi import FastAPI
from hypothesis import given, settings

from fast_cache import Cache, InMemoryBackend
from fast_cache.keys import KeyMaker, Slot, address_of

patient = settings(deadline=None)


@pytest.fixture
def backend() -> InMemoryBackend:
    return InMemoryBackend()


@pytest.fixture
def store(backend: InMemoryBackend) -> Cache:
    """A cache over ``backend``."""
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


class Keyed:
    """Is in a key as whatever it is told to be."""

    def __init__(self, key: Any) -> None:
        self.given = key

    def __cache_key__(self) -> Any:
        return self.given


class Derived(Keyed):
    pass


def method(self, x, y=0):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def alone(self):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def of_class(cls, x):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def of_class_alone(cls):  # type: ignore[no-untyped-def]
    raise NotImplementedError


METHOD = KeyMaker(method, namespace="ns:%'", version="2,=", kind="method")
ALONE = KeyMaker(alone, kind="method")
OF_CLASS = KeyMaker(of_class, kind="classmethod")
OF_CLASS_ALONE = KeyMaker(of_class_alone, kind="classmethod")

texts = st.text(alphabet="',=()[]!%:#1 ab\\{}é\n\ud800") | st.text(st.characters(), max_size=150)
raw = st.none() | st.integers() | texts | st.binary(max_size=140) | st.uuids()
values = raw | st.booleans() | st.floats() | st.tuples(raw) | st.lists(st.integers(), max_size=2)


def exactly(address: Any) -> Any:
    """An address with the types that equality does not look at."""
    if type(address) is not Slot:
        return address
    key = address.key if type(address.key) is tuple else (address.key,)
    return address.shelf, [(type(item), item) for item in key]


def check_round_trip(maker: KeyMaker, *args: Any) -> None:
    text = maker.compiled(*args)
    address = maker.address(args, {})
    assert exactly(address_of(text)) == exactly(address)


@patient
@given(st.sampled_from([Keyed, Derived]), values, values, values)
def test_the_address_of_a_method_and_that_of_its_text_are_one(cls: type[Keyed], key: Any, x: Any, y: Any) -> None:
    check_round_trip(METHOD, cls(key), x, y)
    check_round_trip(ALONE, cls(key))


@patient
@given(st.sampled_from([Keyed, Derived, int]), values)
def test_the_address_of_a_classmethod_and_that_of_its_text_are_one(cls: type, x: Any) -> None:
    check_round_trip(OF_CLASS, cls, x)
    check_round_trip(OF_CLASS_ALONE, cls)


@patient
@given(*[st.tuples(st.sampled_from([Keyed, Derived]), values, values)] * 2)
def test_calls_have_one_slot_if_and_only_if_they_have_one_text(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    calls = [(cls(key), x) for cls, key, x in (one, other)]
    addresses = [exactly(METHOD.address(call, {})) for call in calls]
    keys = [METHOD.compiled(*call) for call in calls]
    assert (addresses[0] == addresses[1]) is (keys[0] == keys[1])


def test_simple_calls_have_slots() -> None:
    assert type(METHOD.address((Keyed("a"), 1), {})) is Slot
    assert type(ALONE.address((Keyed(7),), {})) is Slot
    assert type(OF_CLASS.address((Keyed, 1), {})) is Slot
    assert type(OF_CLASS_ALONE.address((Keyed,), {})) is Slot


def make_shop(store: Cache) -> tuple[type[Any], list[Any]]:
    ran: list[Any] = []

    class Shop(Keyed):
        @store.cached
        def price(self, number: Any = 0) -> Any:
            ran.append((type(self).__name__, self.given, number))
            return ran[-1]

        @store.cached
        @classmethod
        def rate(cls, number: Any = 0) -> Any:
            ran.append((cls.__name__, number))
            return ran[-1]

    return Shop, ran


SAME_LOOKING: list[Any] = [
    1,
    True,
    1.0,
    "1",
    b"1",
    (1,),
    (True,),
    None,
    "None",
    0.0,
    -0.0,
    "",
    b"",
    "a" * 128,
    "a" * 129,
]


def test_what_looks_the_same_is_kept_apart(store: Cache) -> None:
    shop_type, ran = make_shop(store)
    for _ in range(2):
        for key in SAME_LOOKING:
            for number in SAME_LOOKING:
                assert repr(shop_type(key).price(number)) == repr(("Shop", key, number))
    assert len(ran) == len(SAME_LOOKING) ** 2


def test_a_hit_makes_no_text(store: Cache) -> None:
    shop_type, ran = make_shop(store)
    shop = shop_type("main")
    shop.price(1)

    asked: list[str] = []

    class Spy(shop_type):  # type: ignore[valid-type, misc]
        def __cache_key__(self) -> str:
            asked.append("key")
            return "main"

    spy = Spy("main")
    spy.price(1)
    asked.clear()
    assert spy.price(1) == ("Spy", "main", 1)
    assert asked == ["key"], "the text would have asked once more"
    assert len(ran) == 2
    assert shop_type.price.stats().hits == 1


def test_an_entry_is_found_and_removed_by_its_text_key(store: Cache, backend: InMemoryBackend) -> None:
    shop_type, ran = make_shop(store)
    shop = shop_type("main")
    assert shop.price(1) == backend.get(shop.price.key(1))
    assert backend.delete(shop.price.key(1)) is True
    shop.price(1)
    assert len(ran) == 2
    backend.set(shop.price.key(1), "by hand")
    assert shop.price(1) == "by hand"
    assert shop.price.invalidate(1) is True
    assert backend.has(shop.price.key(1)) is False
    shop.price(1)
    assert len(ran) == 3


def test_classes_do_not_share_entries_and_instances_of_one_key_do(store: Cache) -> None:
    shop_type, ran = make_shop(store)

    class Kiosk(shop_type):  # type: ignore[valid-type, misc]
        pass

    for _ in range(2):
        assert [cls("main").price(1)[0] for cls in (shop_type, Kiosk, shop_type)] == ["Shop", "Kiosk", "Shop"]
    assert len(ran) == 2
    Kiosk("main").price.invalidate(1)
    shop_type("main").price(1)
    assert len(ran) == 2


def test_classes_of_one_name_share_entries_as_their_text_says(store: Cache) -> None:
    class Base(Keyed):
        @store.cached
        def price(self) -> str:
            ran.append(self)
            return "price"

    def make() -> type[Base]:
        class Shop(Base):
            pass

        return Shop

    ran: list[Any] = []
    one, other = make()("main"), make()("main")
    assert one.price.key() == other.price.key()
    one.price()
    other.price()
    assert len(ran) == 1
    other.price.invalidate()
    one.price()
    assert len(ran) == 2


def test_a_key_that_changes_is_followed(store: Cache) -> None:
    shop_type, _ = make_shop(store)
    shop = shop_type("main")
    for name in ("main", "other", "main"):
        shop.given = name
        assert shop.price() == ("Shop", name, 0)
    assert shop_type.price.stats().loads == 2


@pytest.mark.parametrize("key", [property(lambda self: self.given), "main"])
def test_a_key_that_is_no_method_has_text_keys(store: Cache, backend: InMemoryBackend, key: Any) -> None:
    shop_type, ran = make_shop(store)
    shop = type("Kiosk", (shop_type,), {"__cache_key__": key})("main")
    for _ in range(2):
        assert shop.price(1) == ("Kiosk", "main", 1)
    assert len(ran) == 1
    assert type(address_of(shop.price.key(1))) is str
    assert shop.price.invalidate(1) is True


@pytest.mark.parametrize("key", [lambda: "b", "b"])
def test_a_key_of_an_instance_comes_before_that_of_its_class(store: Cache, key: Any) -> None:
    shop_type, ran = make_shop(store)
    own, other = shop_type("a"), shop_type("b")
    own.__cache_key__ = key
    assert own.price.key(1) == other.price.key(1)
    for shop in (other, own, own, other):
        shop.price(1)
    assert len(ran) == 1
    assert own.price.invalidate(1) is True
    other.price(1)
    assert len(ran) == 2


def test_a_key_that_raises_leaves_the_call_uncached(store: Cache, caplog: pytest.LogCaptureFixture) -> None:
    shop_type, ran = make_shop(store)
    shop_type("main").price(1)

    class Broken(shop_type):  # type: ignore[valid-type, misc]
        broken = False

        def __cache_key__(self) -> Any:
            if self.broken:
                raise ValueError("private")
            return None

    shop = Broken("main")
    shop.price(1)
    shop.broken = True
    assert [shop.price(1), shop.price(1)] == [("Broken", "main", 1)] * 2
    assert len(ran) == 4
    assert [record.message for record in caplog.records if "private" in record.message] == []


def test_a_class_that_is_gone_is_forgotten(store: Cache, backend: InMemoryBackend) -> None:
    shop_type, _ = make_shop(store)
    shelves = shop_type.price._operations.shelves.table
    shop_type("main").price(1)
    known = len(shelves)
    passing = [type("Passing", (shop_type,), {}) for _ in range(20)]
    for kind in passing:
        kind("main").price(1)
    assert len(shelves) == known + 20
    del kind
    del passing
    gc.collect()
    assert len(shelves) == known


def test_another_backend_is_another_memory(store: Cache, backend: InMemoryBackend) -> None:
    shop_type, ran = make_shop(store)
    shop = shop_type("main")
    other = InMemoryBackend()
    for backend_in_turn in (backend, other, backend, other):
        store.init_app(FastAPI(), backend_in_turn)
        assert [shop.price(1), shop.price(1), shop_type.rate(1)] == [("Shop", "main", 1)] * 2 + [("Shop", 1)]
    assert len(ran) == 4


def test_a_shelf_of_a_store_that_is_no_longer_bound_is_not_learnt(store: Cache, backend: InMemoryBackend) -> None:
    """A call looked up its store; ``init_app`` binds another one; the call goes on."""
    shop_type, _ = make_shop(store)
    operations = shop_type.price._operations
    binding = operations.binding
    old = binding.store
    store.init_app(FastAPI(), InMemoryBackend())
    binding.shelve(operations, shop_type, "a name", old)
    assert operations.shelves.table == {}


class Rates:
    """Can be imported, so its calls have slots."""


class MoreRates(Rates):
    """So can this."""


def test_an_importable_class_has_slots_for_its_classmethods(store: Cache, backend: InMemoryBackend) -> None:
    def rate(cls: type[Rates], number: int) -> tuple[str, int]:
        ran.append(cls.__name__)
        return cls.__name__, number

    ran: list[str] = []
    made: Any = store.cached
    rates: Any = Rates
    more: Any = MoreRates
    rates.rate = made(classmethod(rate))
    try:
        for _ in range(2):
            assert [kind.rate(1)[0] for kind in (rates, more, rates)] == ["Rates", "MoreRates", "Rates"]
        assert ran == ["Rates", "MoreRates"]
        assert type(address_of(rates.rate.key(1))) is Slot
        assert backend.get(rates.rate.key(1)) == ("Rates", 1)
        assert rates.rate.invalidate(1) is True
        assert backend.has(more.rate.key(1)) is True
    finally:
        del rates.rate


# What a bound method is to others


def test_a_call_that_does_not_fit_says_so_as_the_method_would(store: Cache) -> None:
    shop_type, _ = make_shop(store)
    with pytest.raises(TypeError, match=r"Shop\.price\(\) got an unexpected keyword argument 'nonsense'"):
        shop_type("main").price(nonsense=1)
    with pytest.raises(TypeError, match=r"Shop\.price\(\) takes from 1 to 2 positional arguments but 3 were given"):
        shop_type("main").price(1, 2)


def test_a_method_whose_first_parameter_is_a_star_is_bound_all_the_same(store: Cache) -> None:
    class Shop(Keyed):
        def price(*args: Any) -> int:
            return len(args)

    Shop.price = store.cached(Shop.price)  # type: ignore[method-assign]
    Shop.price.__set_name__(Shop, "price")  # type: ignore[attr-defined]
    assert Shop("main").price(1, 2) == 3


def test_a_parameter_may_have_any_name(store: Cache) -> None:
    class Shop(Keyed):
        @store.cached
        def price(self, _0: int, _1: int, table: int, type: int) -> Any:
            return _0, _1, table, type

    assert [Shop("main").price(1, 2, 3, type=4) for _ in range(2)] == [(1, 2, 3, 4)] * 2
    assert Shop.price.stats().hits == 1


def test_what_wraps_a_bound_method_has_its_signature(store: Cache) -> None:
    shop_type, _ = make_shop(store)
    shop = shop_type("main")

    @functools.wraps(shop.price)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return shop.price(*args, **kwargs)

    assert list(inspect.signature(shop.price).parameters) == ["number"]
    assert list(inspect.signature(wrapper).parameters) == ["number"]
    assert "__signature__" not in vars(wrapper)


@pytest.mark.parametrize("suspends", [False, True])
def test_a_bound_method_stays_sync_or_async(store: Cache, suspends: bool) -> None:
    if suspends:

        class Shop(Keyed):
            @store.cached
            async def price(self) -> int:
                return 1
    else:

        class Shop(Keyed):  # type: ignore[no-redef]
            @store.cached
            def price(self) -> int:
                return 1

    bound: Callable[..., Any] = Shop("main").price
    assert inspect.iscoroutinefunction(type(bound).__call__) is suspends
