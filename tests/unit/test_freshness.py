"""The options that concern age: which are refused and why, and what the others decide."""

from __future__ import annotations

import asyncio
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fast_cache import Cache
from fast_cache.entry import NEVER
from fast_cache.errors import ConfigurationError, InvalidTypeError, LoadTimeout
from fast_cache.freshness import LASTING, Found, Freshness, FreshnessOptions, Life, Verdict
from fast_cache.outcome import Outcome
from fast_cache.policy import CachePolicy, Keeping
from fast_cache.single_flight import Mark
from tests.support.ids import shown

Take = Callable[..., object]


def _decorate(**options: Any) -> object:
    """Give the options, and no function yet."""
    return Cache().cached(**options)


def _load(**options: Any) -> object:
    return Cache().get_or_set("key", _unreachable, **options)


def _aload(**options: Any) -> object:
    return asyncio.run(Cache().aget_or_set("key", _unreachable, **options))


def _unreachable() -> int:
    pytest.fail("the options are wrong, and the function was called")


@pytest.fixture(params=[_decorate, _load, _aload], ids=["cached", "get_or_set", "aget_or_set"])
def take(request: pytest.FixtureRequest) -> Take:
    chosen: Take = request.param
    return chosen


def of(*, expire: Any = 100.0, **options: Any) -> Freshness:
    """The options of a function whose results live that long."""
    return CachePolicy.of(expire=expire, condition=None, author_keyed=False, freshness=options).freshness


# Options that contradict each other


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"stale_while_revalidate": 5}, ("stale_while_revalidate", "expire")),
        ({"stale_if_error": "5m"}, ("stale_if_error", "expire")),
        ({"refresh_ahead": 5}, ("refresh_ahead", "expire")),
        ({"refresh_ahead": 0.5}, ("refresh_ahead", "expire")),
        ({"early": 1.0}, ("early", "expire")),
        ({"jitter": 0.1}, ("jitter", "expire")),
        ({"hits": 3, "jitter": 0.1}, ("jitter", "expire")),
        ({"stale_while_revalidate": 0}, ("stale_while_revalidate", "expire")),
        ({"expire": 60, "refresh_ahead": 60}, ("refresh_ahead (60 s)", "expire (60 s)")),
        ({"expire": 60, "refresh_ahead": 61}, ("refresh_ahead (61 s)", "expire (60 s)")),
        ({"expire": "1m", "refresh_ahead": 60.0}, ("refresh_ahead (60 s)", "expire (60 s)")),
        ({"expire": "1m", "refresh_ahead": timedelta(minutes=1)}, ("refresh_ahead (60 s)", "expire (60 s)")),
        ({"expire": timedelta(seconds=59), "refresh_ahead": "1m"}, ("refresh_ahead (60 s)", "expire (59 s)")),
        ({"expire": 1, "refresh_ahead": 1}, ("refresh_ahead (1 s)", "expire (1 s)")),
        ({"expire": 1, "refresh_ahead": 1.0}, ("refresh_ahead (1 s)", "expire (1 s)")),
        ({"expire": 0.25, "refresh_ahead": "500ms"}, ("refresh_ahead (0.5 s)", "expire (0.25 s)")),
        ({"expire": 60, "errors": OSError}, ("errors", "stale_if_error")),
        ({"expire": 60, "errors": ()}, ("errors", "stale_if_error")),
        ({"expire": 60, "throttle": 5}, ("throttle", "stale_if_error")),
        ({"expire": 60, "stale_while_revalidate": 5, "errors": OSError}, ("errors", "stale_if_error")),
        ({"timeout": 5}, ("timeout", "stale_if_error", "stale_while_revalidate", "hard_timeout")),
        ({"expire": 60, "timeout": 5}, ("timeout", "stale_if_error", "stale_while_revalidate")),
        ({"expire": 60, "hits": 3, "timeout": 5}, ("timeout", "stale_if_error")),
        ({"timeout": 1, "hard_timeout": 5}, ("timeout", "stale_if_error")),
        ({"expire": 60, "stale_if_error": 5, "timeout": 2, "hard_timeout": 2}, ("timeout (2 s)", "hard_timeout (2 s)")),
        ({"expire": 60, "stale_if_error": 5, "timeout": "3s", "hard_timeout": timedelta(seconds=2)},
         ("timeout (3 s)", "hard_timeout (2 s)")),
        ({"refresh_after": 2}, ("refresh_after", "hits")),
        ({"expire": 60, "refresh_after": 2}, ("refresh_after", "hits")),
        ({"hits": 2, "refresh_after": 2}, ("refresh_after (2)", "hits (2)")),
        ({"hits": 2, "refresh_after": 3}, ("refresh_after (3)", "hits (2)")),
        ({"hits": 1, "refresh_after": 1}, ("refresh_after (1)", "hits (1)")),
    ],
)  # fmt: skip
def test_options_that_contradict_each_other_are_refused(
    take: Take, options: dict[str, Any], names: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        take(**options)
    assert not isinstance(caught.value, InvalidTypeError), "nothing is wrong with the types"
    for name in names:
        assert name in str(caught.value)


def test_a_bad_option_is_refused_before_a_function_is_there() -> None:
    with pytest.raises(ConfigurationError):
        Cache().cached(refresh_after=3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict.fromkeys(FreshnessOptions.__annotations__),
        {"expire": 60, "stale_while_revalidate": 1},
        {"expire": 60, "stale_if_error": "1d", "errors": (OSError, LookupError), "throttle": "500ms"},
        {"expire": 60, "stale_if_error": 1, "errors": None, "throttle": None},
        {"expire": 60, "refresh_ahead": 59},
        {"expire": "1m", "refresh_ahead": timedelta(seconds=59)},
        {"expire": 0.5, "refresh_ahead": 0.75},
        {"expire": 0.5, "refresh_ahead": 0.999},
        {"expire": 60, "early": 1},
        {"expire": 60, "jitter": 1},
        {"hits": 1},
        {"hits": 2, "refresh_after": 1},
        {"hard_timeout": 5},
        {"expire": 60, "stale_while_revalidate": 1, "timeout": 4.9, "hard_timeout": 5},
        {"expire": lambda value: 5, "stale_if_error": 5, "refresh_ahead": 60, "early": 1.0, "jitter": 0.1},
    ],
)
def test_options_that_agree_are_taken(options: dict[str, Any]) -> None:
    assert callable(Cache().cached(**options))
    assert Cache().get_or_set("key", lambda: 1, **options) == 1


@pytest.mark.parametrize("name", ["bogus", "expires", "lifetime", "stale", "beta", "refresh_ahead_part", "soft"])
def test_an_unknown_option_is_refused(take: Take, name: str) -> None:
    with pytest.raises(InvalidTypeError, match=f"no option {name}=") as caught:
        take(expire=60, **{name: None})
    for known in FreshnessOptions.__annotations__:
        assert known in str(caught.value), "the message says which there are"


# Values that no option can have

DURATIONS: dict[str, dict[str, Any]] = {
    "expire": {},
    "stale_while_revalidate": {"expire": 60},
    "stale_if_error": {"expire": 60},
    "throttle": {"expire": 60, "stale_if_error": 60},
    "refresh_ahead": {"expire": 60},
    "timeout": {"expire": 60, "stale_if_error": 60},
    "hard_timeout": {},
}
COUNTS: dict[str, dict[str, Any]] = {"hits": {}, "refresh_after": {"hits": 5}}
NUMBERS: dict[str, float] = {"early": 100, "jitter": 1}

SENSELESS = [0, 0.0, -0.0, -1, -0.5, math.nan, math.inf, -math.inf, 10**400, 1e300]


@pytest.mark.parametrize("option", DURATIONS)
@pytest.mark.parametrize(
    "value",
    [*SENSELESS, timedelta(0), timedelta(seconds=-1), timedelta.max, "", " ", "soon", "-5s", "0s", "5 parsecs", "nan"],
    ids=lambda value: repr(value)[:20],
)
def test_a_duration_that_is_none(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        Cache().cached(**DURATIONS[option], **{option: value})


@pytest.mark.parametrize("option", DURATIONS)
@pytest.mark.parametrize("value", [True, False, [], {}, (5,), b"5s", 5j, object(), OSError()], ids=shown)
def test_a_duration_of_another_type(take: Take, option: str, value: Any) -> None:
    with pytest.raises(InvalidTypeError, match=option):
        take(**DURATIONS[option], **{option: value})


@pytest.mark.parametrize("option", COUNTS)
@pytest.mark.parametrize("value", [0, -1, -(10**400)], ids=lambda value: repr(value)[:20])
def test_a_count_below_one(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} must be at least 1"):
        Cache().cached(**COUNTS[option], **{option: value})


@pytest.mark.parametrize("option", COUNTS)
@pytest.mark.parametrize("value", [True, False, 1.0, math.nan, math.inf, "3", b"3", [3], timedelta(3)], ids=repr)
def test_a_count_of_another_type(take: Take, option: str, value: Any) -> None:
    with pytest.raises(InvalidTypeError, match=option):
        take(**COUNTS[option], **{option: value})


@pytest.mark.parametrize("option", NUMBERS)
@pytest.mark.parametrize("value", SENSELESS, ids=lambda value: repr(value)[:20])
def test_a_number_out_of_range(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} must be above 0 and at most {NUMBERS[option]}"):
        Cache().cached(expire=60, **{option: value})


@pytest.mark.parametrize("option", NUMBERS)
def test_a_number_at_the_end_of_its_range(option: str) -> None:
    most = NUMBERS[option]
    assert getattr(of(**{option: most}), option) == most
    with pytest.raises(ConfigurationError):
        of(**{option: math.nextafter(most, math.inf)})


@pytest.mark.parametrize("option", NUMBERS)
@pytest.mark.parametrize("value", [True, False, "1", b"1", [1], 1j, timedelta(seconds=1)], ids=repr)
def test_a_number_of_another_type(take: Take, option: str, value: Any) -> None:
    with pytest.raises(InvalidTypeError, match=option):
        take(expire=60, **{option: value})


@pytest.mark.parametrize(
    "errors",
    [
        KeyboardInterrupt, BaseException, SystemExit, asyncio.CancelledError, int, type, (), [], "OSError",
        [OSError, KeyboardInterrupt], (OSError, "LookupError"), [OSError()], [None], [[OSError]], {"a": OSError},
    ],
    ids=repr,
)  # fmt: skip
def test_errors_that_are_no_exception_types(errors: Any) -> None:
    with pytest.raises(InvalidTypeError, match="errors must be an exception type"):
        Cache().cached(expire=60, stale_if_error=60, errors=errors)


@pytest.mark.parametrize(
    ("errors", "types"),
    [
        (None, (Exception,)),
        (OSError, (OSError,)),
        ([OSError, LookupError], (OSError, LookupError)),
        ({LoadTimeout}, (LoadTimeout,)),
        (iter([OSError, KeyError]), (OSError, KeyError)),
        ((ExceptionGroup,), (ExceptionGroup,)),
    ],
)
def test_errors_are_a_type_or_several(errors: Any, types: tuple[type[Exception], ...]) -> None:
    assert of(stale_if_error=60, errors=errors).errors == types


@pytest.mark.parametrize(
    "given",
    [
        {}, [], [OSError], [(OSError, 5)], OSError, 5, True, "OSError", b"", {"OSError": 5}, {None: 5}, {OSError(): 5},
        {KeyboardInterrupt: 5}, {BaseException: 5}, {int: 5}, {OSError: 5, SystemExit: 5}, {OSError: True},
        {OSError: None}, {OSError: [5]}, {(OSError, LookupError): 5},
    ],
    ids=repr,
)  # fmt: skip
def test_cache_errors_that_are_no_types_with_lifetimes(take: Take, given: Any) -> None:
    with pytest.raises(InvalidTypeError, match="cache_errors"):
        take(expire=60, cache_errors=given)


@pytest.mark.parametrize("lifetime", [*SENSELESS, "soon", "", timedelta(0)], ids=lambda value: repr(value)[:20])
def test_cache_errors_with_a_lifetime_that_is_none(lifetime: Any) -> None:
    with pytest.raises(ConfigurationError, match="cache_errors"):
        Cache().cached(cache_errors={OSError: lifetime})


def test_cache_errors_are_asked_for_subclasses_too() -> None:
    policy = CachePolicy.of(
        expire=None, condition=None, author_keyed=False, cache_errors={KeyError: "5m", OSError: timedelta(seconds=7)}
    )
    assert policy.cache_errors == ((KeyError, 300.0), (OSError, 7.0))
    assert policy.keeping_error(FileNotFoundError(), None) is Keeping.STORE
    assert policy.keeping_error(LookupError(), None) is Keeping.SHARE
    assert policy.life(Outcome(error=FileNotFoundError(), seconds=2), Mark(), (), {}, 60) == Life(7, due=0, load=2)
    assert policy.life(Outcome(error=LookupError()), Mark(), (), {}, 60) is None


async def _coroutine(value: object) -> int:
    return 5


@pytest.mark.parametrize("expire", [_coroutine, True, [60], {}, b"60", object(), 5j], ids=lambda value: type(value))
def test_expire_is_a_duration_or_a_plain_function(take: Take, expire: Any) -> None:
    with pytest.raises(InvalidTypeError, match="expire must be"):
        take(expire=expire)


# The options as they are kept


def test_without_options_nothing_is_soft() -> None:
    assert of(expire=None) == of(expire=60) == LASTING
    assert not LASTING.soft
    assert not LASTING.impatient
    assert LASTING.stale == 0


def test_durations_are_kept_in_seconds() -> None:
    kept = of(
        expire="1h",
        stale_while_revalidate="1m",
        stale_if_error=timedelta(minutes=2),
        throttle="250ms",
        refresh_ahead="1m30s",
        timeout=1,
        hard_timeout="2s",
    )
    assert kept == Freshness(
        stale_while_revalidate=60, stale_if_error=120, throttle=0.25, refresh_ahead=90, timeout=1, hard_timeout=2
    )
    assert kept.stale == 120


@pytest.mark.parametrize(
    ("given", "part", "ahead"),
    [(0.2, 0.2, 0.0), (0.999, 0.999, 0.0), (1, 0.0, 1.0), (1.0, 0.0, 1.0), (1.5, 0.0, 1.5), ("0.5", 0.0, 0.5),
     (timedelta(milliseconds=500), 0.0, 0.5)],
)  # fmt: skip
def test_only_a_float_below_one_is_a_part_of_the_lifetime(given: Any, part: float, ahead: float) -> None:
    kept = of(expire=60, refresh_ahead=given)
    assert (kept.refresh_ahead_part, kept.refresh_ahead) == (part, ahead)


@pytest.mark.parametrize(
    ("options", "soft", "impatient"),
    [
        ({"stale_while_revalidate": 1}, True, False),
        ({"stale_if_error": 1}, True, False),
        ({"refresh_ahead": 1}, True, False),
        ({"refresh_ahead": 0.5}, True, False),
        ({"early": 1}, True, False),
        ({"hits": 1}, True, False),
        ({"jitter": 0.5}, False, False),
        ({"hard_timeout": 1}, False, True),
        ({"stale_if_error": 1, "timeout": 1}, True, True),
    ],
)
def test_which_options_concern_readers_and_waiters(options: dict[str, Any], soft: bool, impatient: bool) -> None:
    assert (of(**options).soft, of(**options).impatient) == (soft, impatient)


# How long a result is good for


@pytest.mark.parametrize(
    ("options", "lifetime", "load", "expected"),
    [
        ({}, None, 2.0, Life(load=2.0)),
        ({}, 60.0, 2.0, Life(60.0, load=2.0)),
        ({"stale_while_revalidate": 5}, 60.0, 2.0, Life(60.0, 5.0, 60.0, 2.0)),
        ({"stale_if_error": 7}, 60.0, 2.0, Life(60.0, 7.0, 60.0, 2.0)),
        ({"stale_while_revalidate": 9, "stale_if_error": 7}, 60.0, 2.0, Life(60.0, 9.0, 60.0, 2.0)),
        ({"stale_if_error": 7}, None, 2.0, Life(load=2.0)),
        ({"refresh_ahead": 20}, 60.0, 2.0, Life(60.0, 0.0, 40.0, 2.0)),
        ({"refresh_ahead": 0.25}, 60.0, 2.0, Life(60.0, 0.0, 45.0, 2.0)),
        ({"refresh_ahead": 60}, 60.0, 2.0, Life(60.0, 0.0, 60.0, 2.0)),
        ({"refresh_ahead": 90}, 60.0, 2.0, Life(60.0, 0.0, 60.0, 2.0)),
        ({"early": 1}, 60.0, 2.0, Life(60.0, 0.0, 40.0, 2.0)),
        ({"early": 0.5}, 60.0, 2.0, Life(60.0, 0.0, 50.0, 2.0)),
        ({"early": 1}, 60.0, 0.0, Life(60.0, 0.0, 60.0, 0.0)),
        ({"early": 1}, 60.0, 6.0, Life(60.0, 0.0, 0.0, 6.0)),
        ({"early": 1}, 60.0, 7.0, Life(60.0, 0.0, 0.0, 7.0)),
        ({"early": 1, "refresh_ahead": 10}, 60.0, 2.0, Life(60.0, 0.0, 40.0, 2.0)),
        ({"early": 1, "refresh_ahead": 30}, 60.0, 2.0, Life(60.0, 0.0, 30.0, 2.0)),
        ({"hits": 3}, None, 2.0, Life(None, 0.0, math.inf, 2.0, counted=True)),
        ({"hits": 3}, 60.0, 2.0, Life(60.0, 0.0, 60.0, 2.0, counted=True)),
        ({"hits": 3, "stale_if_error": 5}, 60.0, 2.0, Life(60.0, 5.0, 60.0, 2.0, counted=True)),
        ({"hits": 3, "stale_if_error": 5}, None, 2.0, Life(None, 0.0, math.inf, 2.0, counted=True)),
    ],
)
def test_how_long_a_result_is_good_for(
    options: dict[str, Any], lifetime: float | None, load: float, expected: Life
) -> None:
    assert of(expire=lambda value: 1, **options).life(lifetime, load) == expected


def test_a_life_without_soft_options_has_nothing_to_decide() -> None:
    assert of(jitter=0.5).life(60, 2).due is None
    assert of(hard_timeout=5).life(60, 2).due is None
    assert LASTING.life(60, 2).due is None
    assert LASTING.life(None, 2).due is None


def test_a_life_is_kept_for_its_stale_window_too() -> None:
    assert Life(60.0, 5.0).kept == 65.0
    assert Life(60.0).kept == 60.0
    assert Life(None).kept is None


class Drawn(random.Random):
    """Draws one number again and again."""

    def __init__(self, number: float) -> None:
        super().__init__(0)
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.fixture
def draw() -> Iterator[Callable[[random.Random], None]]:
    """Makes a generator the one that lots are drawn with."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda generator: patch.setattr("fast_cache.freshness.random", generator)


LAST = 1.0 - 2.0**-53
"""The largest number that ``random()`` can return."""

DRAWS = st.floats(0.0, LAST) | st.sampled_from([0.0, LAST])
TIMES = st.floats(0.001, 1e9)
PARTS = st.floats(0.0, 1.0, exclude_min=True)


@given(drawn=DRAWS, lifetime=TIMES, jitter=PARTS, stale=st.none() | TIMES, load=st.floats(0.0, 1e6))
def test_jitter_only_shortens_and_never_by_more(
    drawn: float, lifetime: float, jitter: float, stale: float | None, load: float
) -> None:
    freshness = of(expire=lambda value: 1, jitter=jitter, stale_if_error=stale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fast_cache.freshness.random", Drawn(drawn))
        life = freshness.life(lifetime, load)
    assert life.fresh is not None
    assert (1.0 - jitter) * lifetime <= life.fresh <= lifetime
    assert life.kept == life.fresh + (stale or 0.0), "what is stale is not shortened"


def test_jitter_reaches_both_of_its_ends(draw: Callable[[random.Random], None]) -> None:
    freshness = of(jitter=0.25)
    draw(Drawn(0.0))
    assert freshness.life(100, 0).fresh == 75.0
    draw(Drawn(LAST))
    assert freshness.life(100, 0).fresh == pytest.approx(100.0)


def test_jitter_is_spread_evenly(draw: Callable[[random.Random], None]) -> None:
    draw(random.Random(8))
    freshness = of(jitter=0.5)
    lives = [freshness.life(100, 0).fresh or 0.0 for _ in range(4000)]
    tenths = [sum(50 + 5 * n <= life < 55 + 5 * n for life in lives) for n in range(10)]
    assert sum(tenths) == 4000
    assert all(320 < count < 480 for count in tenths), "400 each, and four standard deviations"


def test_jitter_leaves_alone_what_never_expires() -> None:
    assert of(expire=lambda value: None, jitter=0.5).life(None, 1).fresh is None


def test_a_part_refers_to_the_shortened_lifetime(draw: Callable[[random.Random], None]) -> None:
    draw(Drawn(0.0))
    assert of(jitter=0.5, refresh_ahead=0.2).life(100, 0) == Life(50.0, 0.0, 40.0)


@given(
    drawn=st.floats(0.0, 1.0 - math.exp(-9.99)),
    lifetime=st.floats(0.01, 1e7),
    load=st.floats(0.0, 1e6),
    early=st.none() | st.floats(0.01, 100),
    ahead=st.none() | st.floats(0.01, 0.99) | st.floats(1.0, 1e7),
    while_revalidating=st.none() | TIMES,
    passed=st.floats(0.0, 0.99),
)
def test_before_it_is_due_there_is_nothing_to_decide(
    drawn: float,
    lifetime: float,
    load: float,
    early: float | None,
    ahead: float | None,
    while_revalidating: float | None,
    passed: float,
) -> None:
    freshness = of(expire=lambda value: 1, early=early, refresh_ahead=ahead, stale_while_revalidate=while_revalidating)
    life = freshness.life(lifetime, load)
    assert life.fresh == lifetime
    if life.due is None:
        assert not freshness.soft
        return
    assert 0.0 <= life.due <= lifetime
    assume(life.due > lifetime * 1e-6)  # else the numbers run out of digits
    found = Found("value", lifetime - life.due * passed, lifetime, load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fast_cache.freshness.random", Drawn(drawn))
        assert freshness.judge(found) is Verdict.FRESH


# The lifetime of one result


def life_of(value: object, *, default: float | None = 900, mark: Mark | None = None, **options: Any) -> Life | None:
    own = {name: options.pop(name) for name in ("expire", "cache_errors") if name in options}
    policy = CachePolicy.of(name="f", condition=None, author_keyed=False, **own, freshness=options)
    return policy.life(Outcome(value, seconds=2), mark or Mark(), (1,), {"b": 2}, default)


def test_a_function_says_how_long_each_result_is_good_for() -> None:
    asked = []

    def expire(value: int, a: int, b: int) -> int:
        asked.append((value, a, b))
        return value * 10

    assert life_of(6, expire=expire) == Life(60.0, load=2)
    assert asked == [(6, 1, 2)]


@pytest.mark.parametrize(
    ("said", "fresh"), [(5, 5.0), (0.5, 0.5), ("5m", 300.0), (timedelta(minutes=1), 60.0), ("0.5", 0.5)]
)
def test_a_function_may_say_it_in_every_way(said: Any, fresh: float) -> None:
    life = life_of("value", expire=lambda value, *args, **kwargs: said, stale_if_error=30)
    assert life == Life(fresh, 30.0, fresh, 2)


@pytest.mark.parametrize("said", [0, 0.0, -1, -0.5, timedelta(0), timedelta(days=-1), -math.inf, False])
def test_a_lifetime_of_nothing_stores_nothing(said: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert life_of("value", expire=lambda value, *args, **kwargs: said, stale_if_error=30) is None
    assert not caplog.records, "it is not a mistake"


@pytest.mark.parametrize("said", [math.nan, math.inf, "soon", "", b"5", [5], True, object(), "-5s"], ids=shown)
def test_a_lifetime_that_is_none_stores_nothing(
    said: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())
    assert life_of("value", expire=lambda value, *args, **kwargs: said) is None
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.startswith("expire of f raised ")
    assert "soon" not in warning, "what it returned may be private"


def test_what_the_function_itself_says_comes_first() -> None:
    mark = Mark()
    mark.expire = 7.0
    assert life_of("value", mark=mark, expire=60, stale_if_error=30) == Life(7.0, 30.0, 7.0, 2)
    mark.skipped = True
    assert life_of("value", mark=mark, expire=60) is None


def test_the_caches_lifetime_is_for_those_that_name_none() -> None:
    assert life_of("value", expire=None) == Life(900.0, load=2)
    assert life_of("value", expire=60) == Life(60.0, load=2)
    assert life_of("value", expire=None, default=None) == Life(None, load=2)


# What to do with a value that was found


def found(fresh_for: float, *, lifetime: float = 100.0, load: float = 0.0, hits: int = 0) -> Found:
    return Found("value", fresh_for, lifetime, load, hits)


TINY = 1e-9


@pytest.mark.parametrize(
    ("options", "seen", "verdict"),
    [
        ({}, found(NEVER, lifetime=NEVER), Verdict.FRESH),
        ({}, found(TINY), Verdict.FRESH),
        ({}, found(0.0), Verdict.SPARE),
        ({}, found(-1), Verdict.SPARE),
        ({"stale_while_revalidate": 10}, found(50), Verdict.FRESH),
        ({"stale_while_revalidate": 10}, found(TINY), Verdict.FRESH),
        ({"stale_while_revalidate": 10}, found(0.0), Verdict.STALE),
        ({"stale_while_revalidate": 10}, found(-9.999), Verdict.STALE),
        ({"stale_while_revalidate": 10}, found(-10.0), Verdict.SPARE),
        ({"stale_while_revalidate": 10}, found(-10.001), Verdict.SPARE),
        ({"stale_if_error": 10}, found(TINY), Verdict.FRESH),
        ({"stale_if_error": 10}, found(0.0), Verdict.SPARE),
        ({"stale_if_error": 10}, found(-5), Verdict.SPARE),
        ({"stale_while_revalidate": 10, "stale_if_error": 20}, found(-5), Verdict.STALE),
        ({"stale_while_revalidate": 10, "stale_if_error": 20}, found(-15), Verdict.SPARE),
        ({"refresh_ahead": 30}, found(30.001), Verdict.FRESH),
        ({"refresh_ahead": 30}, found(30.0), Verdict.DUE),
        ({"refresh_ahead": 30}, found(TINY), Verdict.DUE),
        ({"refresh_ahead": 30}, found(0.0), Verdict.SPARE),
        ({"refresh_ahead": 30, "stale_while_revalidate": 5}, found(-1), Verdict.STALE),
        ({"refresh_ahead": 0.25}, found(25.001), Verdict.FRESH),
        ({"refresh_ahead": 0.25}, found(25.0), Verdict.DUE),
        ({"refresh_ahead": 0.25}, found(25.0, lifetime=99.0), Verdict.FRESH),
        ({"refresh_ahead": 30}, found(NEVER, lifetime=NEVER), Verdict.FRESH),
        ({"hits": 3}, found(50, hits=1), Verdict.FRESH),
        ({"hits": 3}, found(50, hits=3), Verdict.FRESH),
        ({"hits": 3}, found(50, hits=4), Verdict.SPARE),
        ({"hits": 3}, found(0.0, hits=1), Verdict.SPARE),
        ({"hits": 3}, found(NEVER, lifetime=NEVER, hits=3), Verdict.FRESH),
        ({"hits": 3}, found(NEVER, lifetime=NEVER, hits=4), Verdict.SPARE),
        ({"hits": 3, "stale_while_revalidate": 10}, found(-1, hits=3), Verdict.STALE),
        ({"hits": 3, "stale_while_revalidate": 10}, found(-1, hits=4), Verdict.SPARE),
        ({"hits": 3, "refresh_ahead": 30}, found(20, hits=4), Verdict.SPARE),
        ({"hits": 3, "refresh_ahead": 30}, found(20, hits=1), Verdict.DUE),
        ({"hits": 3, "refresh_after": 2}, found(50, hits=2), Verdict.FRESH),
        ({"hits": 3, "refresh_after": 2}, found(50, hits=3), Verdict.DUE),
        ({"hits": 3, "refresh_after": 2}, found(50, hits=4), Verdict.SPARE),
        ({"hits": 3, "refresh_after": 2}, found(0.0, hits=3), Verdict.SPARE),
        ({"hits": 3, "refresh_after": 2}, found(NEVER, lifetime=NEVER, hits=3), Verdict.DUE),
        ({"early": 1}, found(50), Verdict.FRESH),  # a load that takes no time is never early
        ({"early": 1}, found(0.0, load=5), Verdict.SPARE),
        ({"early": 100}, found(NEVER, lifetime=NEVER, load=5), Verdict.FRESH),
    ],
)
def test_what_to_do_with_a_value(options: dict[str, Any], seen: Found, verdict: Verdict) -> None:
    assert of(**options).judge(seen) is verdict


@given(drawn=DRAWS, load=st.floats(0.001, 1e6), early=st.floats(0.01, 100))
def test_the_lot_is_that_of_xfetch(drawn: float, load: float, early: float) -> None:
    """Recompute if ``now - delta * beta * log(rand()) >= expiry``: as early as that, and not a moment earlier."""
    gap = -math.log(1.0 - drawn) * early * load
    freshness = of(early=early)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fast_cache.freshness.random", Drawn(drawn))
        just_out = math.nextafter(gap, math.inf) if gap else TINY
        assert freshness.judge(found(just_out, lifetime=1e12, load=load)) is Verdict.FRESH
        if gap > 0:
            assert freshness.judge(found(gap, lifetime=1e12, load=load)) is Verdict.DUE
            assert freshness.judge(found(gap / 2, lifetime=1e12, load=load)) is Verdict.DUE


@pytest.mark.parametrize("early", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("loads_left", [0.1, 1.0, 2.5])
def test_early_refreshes_are_as_likely_as_the_paper_says(
    draw: Callable[[random.Random], None], early: float, loads_left: float
) -> None:
    draw(random.Random(2015))
    freshness, times = of(early=early), 5000
    seen = found(loads_left * 4.0, load=4.0)
    due = sum(freshness.judge(seen) is Verdict.DUE for _ in range(times))
    likely = math.exp(-loads_left / early)
    deviation = math.sqrt(times * likely * (1 - likely))
    assert abs(due - times * likely) < 4 * deviation


# What is better than an error, and how long to wait


@pytest.mark.parametrize(
    ("options", "error", "fresh_for", "forgiven"),
    [
        ({}, LookupError(), 0.0, False),
        ({}, LookupError(), -1.0, False),
        ({"stale_while_revalidate": 10}, LookupError(), -1.0, False),
        ({"stale_if_error": 10}, LookupError(), 5.0, True),
        ({"stale_if_error": 10}, LookupError(), 0.0, True),
        ({"stale_if_error": 10}, LookupError(), -9.999, True),
        ({"stale_if_error": 10}, LookupError(), -10.0, False),
        ({"stale_if_error": 10}, LookupError(), -10.001, False),
        ({"stale_if_error": 10, "stale_while_revalidate": 20}, LookupError(), -15.0, False),
        ({"stale_if_error": 20, "stale_while_revalidate": 10}, LookupError(), -15.0, True),
        ({"stale_if_error": 10}, LoadTimeout("late"), -1.0, True),
        ({"stale_if_error": 10, "errors": OSError}, LookupError(), -1.0, False),
        ({"stale_if_error": 10, "errors": LookupError}, KeyError("key"), -1.0, True),
        ({"stale_if_error": 10, "errors": KeyError}, LookupError(), -1.0, False),
        ({"stale_if_error": 10, "errors": (OSError, KeyError)}, KeyError("key"), -1.0, True),
        ({"stale_if_error": 10, "errors": (OSError, KeyError)}, KeyError("key"), -11.0, False),
        ({"stale_if_error": 10, "errors": OSError}, LoadTimeout("late"), -1.0, True),
    ],
)
def test_which_errors_are_forgiven(options: dict[str, Any], error: Exception, fresh_for: float, forgiven: bool) -> None:
    assert of(**options).forgives(error, found(fresh_for)) is forgiven


def test_an_error_that_is_forgiven_does_not_replace_what_is_served_for_it() -> None:
    policy = CachePolicy.of(
        expire=60,
        condition=None,
        author_keyed=False,
        freshness={"stale_if_error": 10, "errors": OSError},
        cache_errors={OSError: 5, LookupError: 5},
    )
    assert policy.keeping_error(OSError(), found(-1)) is Keeping.SHARE
    assert policy.keeping_error(OSError(), found(-11)) is Keeping.STORE
    assert policy.keeping_error(OSError(), None) is Keeping.STORE
    assert policy.keeping_error(LookupError(), found(-1)) is Keeping.STORE


@pytest.mark.parametrize(
    ("timeout", "hard_timeout", "with_spare", "without"),
    [(None, None, None, None), (1.0, None, 1.0, None), (None, 5.0, 5.0, 5.0), (1.0, 5.0, 1.0, 5.0)],
)
def test_how_long_to_wait(
    timeout: float | None, hard_timeout: float | None, with_spare: float | None, without: float | None
) -> None:
    freshness = of(stale_if_error=10, timeout=timeout, hard_timeout=hard_timeout)
    assert freshness.patience(found(-1)) == with_spare
    assert freshness.patience(None) == without
