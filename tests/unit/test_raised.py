"""Exceptions that are kept in the place of values: raised anew for each caller, and written as bytes."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastapi
import orjson
import pytest
import starlette.exceptions
from hypothesis import given
from hypothesis import strategies as st

from fast_cache.errors import DecodeError, EncodeError, LoadTimeout, UnkeyableError
from fast_cache.outcome import Raised
from fast_cache.serializers import RaisingCodec, TaggedCodec, codec_for
from fast_cache.serializers.base import Codec
from fast_cache.serializers.faithful import same
from tests.support.ids import shown


class Plain(Exception):
    pass


class Derived(Plain):
    pass


class FurtherDerived(Derived):
    pass


class KeywordOnly(Exception):
    """Its constructor takes other arguments than it has as ``args``."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class More(Exception):
    def __init__(self, message: str, code: int, *, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class Fewer(Exception):
    """Hands more on than it takes."""

    def __init__(self, code: int) -> None:
        super().__init__("refused", code, ("see", "there"))


class Silent(Exception):
    """Hands nothing on."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__()
        self.message = message
        self.code = code


class Changed(Exception):
    """Its attributes change after it was made."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.state = "new"


def changed() -> Changed:
    error = Changed("message")
    error.state = "used"
    error.extra = [1, ("two", 3.0)]  # type: ignore[attr-defined]
    return error


def with_notes() -> Exception:
    error = LookupError("key")
    error.add_note("first")
    error.add_note("second")
    return error


def caught(code: Callable[[], object]) -> Exception:
    try:
        code()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


SAMPLES: dict[str, Callable[[], Exception]] = {
    "empty": ValueError,
    "one argument": lambda: ValueError("text"),
    "several arguments": lambda: ValueError("text", 5, None, (1, 2), b"bytes", {"a": [1]}),
    "own class": lambda: Plain("text"),
    "derived": lambda: FurtherDerived("text", Decimal("1.50"), datetime(2020, 1, 2, tzinfo=UTC)),
    "keyword only": lambda: KeywordOnly(code=5),
    "more": lambda: More("text", 5, hint="hint"),
    "fewer": lambda: Fewer(5),
    "silent": lambda: Silent("text", code=7),
    "changed": changed,
    "notes": with_notes,
    "KeyError": lambda: caught(lambda: dict[str, int]()["key"]),
    "KeyError of a tuple": lambda: KeyError((1, "a")),
    "ZeroDivisionError": lambda: caught(lambda: 1 / 0),
    "OSError": lambda: OSError(5, "input/output"),
    "FileNotFoundError": lambda: FileNotFoundError(2, "no such file"),
    "OSError with text alone": lambda: OSError("broken"),
    "TimeoutError": TimeoutError,
    "UnicodeDecodeError": lambda: caught(lambda: b"ab\xff".decode()),
    "UnicodeEncodeError": lambda: caught(lambda: "ä".encode("ascii")),
    "StopIteration": lambda: StopIteration(5),
    "JSONDecodeError": lambda: caught(lambda: json.loads("{")),
    "CalledProcessError": lambda: subprocess.CalledProcessError(1, ["ls", "-l"], "out", "err"),
    "LoadTimeout": lambda: LoadTimeout("f did not return within 5 s"),
    "UnkeyableError": lambda: UnkeyableError("no key", path="user.id"),
    "starlette": lambda: starlette.exceptions.HTTPException(404, "gone"),
    "starlette by name": lambda: starlette.exceptions.HTTPException(status_code=404, headers={"Retry-After": "5"}),
    "fastapi": lambda: fastapi.HTTPException(404, "gone", {"A": "b"}),
    "fastapi by name": lambda: fastapi.HTTPException(status_code=409, detail={"loc": ["body", 0], "at": (1, 2)}),
}


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> Exception:
    return SAMPLES[request.param]()


def assert_alike(one: BaseException, other: BaseException) -> None:
    assert type(one) is type(other)
    assert one is not other
    assert same(list(one.args), list(other.args))
    assert same(vars(one), vars(other))
    assert str(one) == str(other)
    assert repr(one) == repr(other)
    if isinstance(one, OSError) and isinstance(other, OSError):
        assert (one.errno, one.strerror) == (other.errno, other.strerror)
    if isinstance(one, UnicodeError):
        assert all(getattr(one, name) == getattr(other, name) for name in ("encoding", "object", "start", "end"))


# In memory


def test_each_caller_gets_an_exception_alike(sample: Exception) -> None:
    kept = Raised(sample)
    assert_alike(kept.error, sample)
    first, second = kept.anew(), kept.anew()
    assert_alike(first, sample)
    assert_alike(second, sample)
    assert_alike(first, second)
    assert_alike(first, kept.error)


def entangled() -> Exception:
    """An exception with a traceback, a context and a cause."""

    def fail() -> None:
        secret = bytearray(5)
        try:
            raise ValueError(secret)
        except ValueError as cause:
            raise Plain("text") from cause

    return caught(fail)


def assert_free(error: BaseException) -> None:
    assert error.__traceback__ is None
    assert error.__cause__ is None
    assert error.__context__ is None


def test_what_is_kept_refers_to_no_frames_and_no_other_exceptions() -> None:
    kept = Raised(entangled())
    assert_free(kept.error)
    assert_free(kept.anew())


def test_nor_if_the_exception_copies_itself_with_all_of_that() -> None:
    class Whole(Exception):
        def __copy__(self) -> Whole:
            made = Whole(*self.args).with_traceback(self.__traceback__)
            made.__cause__, made.__context__ = self.__cause__, self.__context__
            return made

    def fail() -> None:
        raise Whole("text") from OSError()

    kept = Raised(caught(fail))
    assert_free(kept.error)
    assert_free(kept.anew())


@pytest.mark.parametrize("make", [lambda: KeywordOnly(code=1), lambda: Plain("text")], ids=["odd", "plain"])
def test_what_callers_do_to_theirs_is_their_own(make: Callable[[], Exception]) -> None:
    kept = Raised(make())

    def use(error: Exception) -> None:
        with pytest.raises(type(error)):
            raise error from OSError("cause")
        assert error.__traceback__ is not None
        error.args = ("changed",)
        error.extra = 5  # type: ignore[attr-defined]

    mine = kept.anew()
    use(mine)
    assert_free(kept.error)
    theirs = kept.anew()
    assert_free(theirs)
    assert_alike(theirs, make())


def test_raising_it_often_does_not_lengthen_its_traceback() -> None:
    kept = Raised(Plain("text"))

    def again() -> None:
        raise kept.anew()

    assert {len(traceback.extract_tb(caught(again).__traceback__)) for _ in range(5)} == {2}


def test_the_original_stays_as_it_was_raised() -> None:
    error = entangled()
    frames, cause, context = error.__traceback__, error.__cause__, error.__context__
    Raised(error).anew()
    assert frames is not None
    assert cause is not None
    assert error.__traceback__ is frames
    assert error.__cause__ is cause
    assert error.__context__ is context


# As bytes

CODEC = RaisingCodec(TaggedCodec(), [Exception])


def round_trip(error: Exception, codec: RaisingCodec = CODEC) -> Exception:
    decoded = codec.decode(codec.encode(Raised(error)))
    assert type(decoded) is Raised
    return decoded.error


def test_an_exception_comes_back_as_it_was(sample: Exception) -> None:
    assert_alike(round_trip(sample), sample)


def test_an_exception_comes_back_by_its_own_declaration(sample: Exception) -> None:
    assert_alike(round_trip(sample, RaisingCodec(codec_for(int), [type(sample)])), sample)


def test_what_comes_back_refers_to_no_frames() -> None:
    assert_free(round_trip(entangled()))


@pytest.mark.parametrize("error", [Derived("text"), FurtherDerived("text")])
def test_derived_exceptions_are_declared_with_their_base(error: Exception) -> None:
    assert_alike(round_trip(error, RaisingCodec(TaggedCodec(), [Plain])), error)
    assert_alike(round_trip(error, RaisingCodec(TaggedCodec(), [OSError, Plain])), error)


def test_a_class_that_came_later_is_found() -> None:
    codec = RaisingCodec(TaggedCodec(), [Plain])

    class Later(Derived):
        pass

    assert_alike(round_trip(Later("text"), codec), Later("text"))


def test_a_class_that_derives_twice_is_found() -> None:
    class Both(Derived, LookupError):
        pass

    assert_alike(round_trip(Both("text"), RaisingCodec(TaggedCodec(), [LookupError])), Both("text"))


@pytest.mark.parametrize("error", [Plain("text"), LookupError(), Exception()])
def test_what_is_not_declared_is_refused_in_both_directions(error: Exception) -> None:
    narrow = RaisingCodec(TaggedCodec(), [Derived, OSError])
    with pytest.raises(EncodeError):
        narrow.encode(Raised(error))
    with pytest.raises(DecodeError, match="does not declare"):
        narrow.decode(CODEC.encode(Raised(error)))


def test_two_classes_of_one_name() -> None:
    def make() -> type[Plain]:
        class Twin(Plain):
            pass

        return Twin

    twins = [make(), make()]
    refusals = []
    for twin in twins:
        try:
            error = round_trip(twin("text"))
        except EncodeError as refusal:
            refusals.append(str(refusal))
        else:
            assert type(error) is twin, "never the other one"
    assert refusals
    assert all("two exceptions are named" in refusal for refusal in refusals)


@pytest.mark.parametrize(
    "error",
    [
        Plain(object()),
        Plain("text", [{"deep": object()}]),
        Plain(ValueError("an exception")),
        Plain(open),
        Plain(type("Text", (str,), {})("a subclass")),
        ExceptionGroup("several", [ValueError()]),
    ],
    ids=lambda error: shown(error)[:30],
)
def test_arguments_that_would_not_come_back_are_refused(error: Exception) -> None:
    with pytest.raises(EncodeError):
        CODEC.encode(Raised(error))


def test_attributes_that_would_not_come_back_are_refused() -> None:
    error = Plain("text")
    error.request = object()  # type: ignore[attr-defined]
    with pytest.raises(EncodeError):
        CODEC.encode(Raised(error))


def test_a_refusal_does_not_quote_the_exception() -> None:
    error = Plain("hunter2", object())
    with pytest.raises(EncodeError) as refused:
        CODEC.encode(Raised(error))
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


# Values beside exceptions

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_values_are_those_of_the_inner_codec(value: Any) -> None:
    inner = TaggedCodec()
    try:
        expected = inner.encode(value)
    except EncodeError:
        with pytest.raises(EncodeError):
            CODEC.encode(value)
        return
    payload = CODEC.encode(value)
    assert payload[1:] == expected
    assert not CODEC.is_exception(payload)
    assert same(CODEC.decode(payload), inner.decode(expected))


def test_which_payloads_are_exceptions() -> None:
    assert CODEC.is_exception(CODEC.encode(Raised(Plain())))
    assert not CODEC.is_exception(CODEC.encode("e"))
    assert not CODEC.is_exception(b"")


class Noting(Codec):
    """Says under which context it was asked."""

    def __init__(self) -> None:
        super().__init__("noting")
        self.contexts: list[bytes] = []

    def encode(self, value: Any, context: bytes = b"") -> bytes:
        self.contexts.append(context)
        return b"x"

    def decode(self, payload: bytes, context: bytes = b"") -> Any:
        self.contexts.append(context)
        return payload


def test_the_inner_codec_gets_payload_and_context() -> None:
    inner = Noting()
    codec = RaisingCodec(inner, [Plain])
    assert codec.decode(codec.encode(5, b"one"), b"two") == b"x"
    assert inner.contexts == [b"one", b"two"]


def test_the_format_is_another_one_for_each_inner_codec() -> None:
    codecs = [TaggedCodec(), codec_for(int), codec_for(list[str])]
    fingerprints = {RaisingCodec(inner, [Plain]).fingerprint for inner in codecs}
    assert len(fingerprints | {inner.fingerprint for inner in codecs}) == 6
    again = RaisingCodec(TaggedCodec(), [Derived]).fingerprint
    assert again == RaisingCodec(TaggedCodec(), [Plain]).fingerprint, "a type may be added without losing the values"


def test_an_exception_that_is_returned_is_a_value() -> None:
    """Only what was raised is raised."""
    with pytest.raises(EncodeError):
        CODEC.encode(ValueError("returned"))


# Bytes from elsewhere

DECLARED = (Plain, LookupError, KeywordOnly, fastapi.HTTPException)
NARROW = RaisingCodec(TaggedCodec(), DECLARED)
NAMES = st.sampled_from(
    [
        f"{__name__}.Plain", f"{__name__}.Derived", f"{__name__}.KeywordOnly", "builtins.KeyError",
        "fastapi.exceptions.HTTPException", "builtins.SystemExit", "builtins.ValueError", "os.system", "builtins.eval",
        "builtins.object", "subprocess.Popen", "", ".", "$",
    ]
)  # fmt: skip
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5) | NAMES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3)
            | st.sampled_from(["$tuple", "$dict", "$model", "$bytes", "args", "__class__", "__notes__", "__dict__"]),
            inner,
            max_size=2,
        )
    ),
    max_leaves=10,
)


def assert_harmless(payload: bytes) -> None:
    """It is an exception of a declared type, or a DecodeError, and no other exception."""
    try:
        decoded = NARROW.decode(payload)
    except DecodeError:
        return
    assert type(decoded) is Raised
    assert isinstance(decoded.error, DECLARED)
    assert_free(decoded.error)


@given(st.binary(max_size=60), st.sampled_from([b"", b"e", b"e$", b"e[", b'e$[[],["']))
def test_any_bytes_are_read_or_refused(data: bytes, start: bytes) -> None:
    payload = start + data
    if payload[:1] != b"v":
        assert_harmless(payload)


@given(st.binary(max_size=60))
def test_bytes_of_values_are_the_inner_codecs_business(data: bytes) -> None:
    try:
        expected = TaggedCodec().decode(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            NARROW.decode(b"v" + data)
    else:
        assert same(NARROW.decode(b"v" + data), expected)


@given(st.tuples(NAMES | TREES, TREES, TREES) | TREES, st.booleans())
def test_any_tree_is_read_or_refused(tree: Any, tagged: bool) -> None:
    assert_harmless(b"e" + (b"$" + orjson.dumps([[], tree]) if tagged else orjson.dumps(tree)))


@given(st.data())
def test_damaged_bytes_are_read_or_refused(data: st.DataObject) -> None:
    payload = bytearray(CODEC.encode(Raised(Derived("text", (1, b"2"), {"a": None}))))
    position = data.draw(st.integers(1, len(payload) - 1))
    if data.draw(st.booleans()):
        payload[position] = data.draw(st.integers(0, 255))
    else:
        del payload[position:]
    assert_harmless(bytes(payload))


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"x", b"V1", b"E[]", b"\x00", b"e", b"enull", b"e[]", b"e{}", b'e["a"]', b'e["a",[],{},1]', b"e5",
        b'e["builtins.KeyError",5,{}]', b'e["builtins.KeyError",[],5]', b'e["builtins.KeyError",null,null]',
        b'e[["builtins.KeyError"],[],{}]', b'e[null,[],{}]', b'e["builtins.KeyError",[],{}', b"e" + b"[" * 5000,
        b'x["builtins.KeyError",[],{}]',
        b'e$[["nowhere:Class#00"],["builtins.KeyError",{"$tuple":[{"$model":[0,{}]}]},{}]]',
    ],
    ids=lambda payload: payload[:40].decode("latin-1") or "nothing",
)  # fmt: skip
def test_malformed_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        NARROW.decode(payload)


@pytest.mark.parametrize(
    "name", ["builtins.SystemExit", "builtins.ValueError", "builtins.Exception", "os.system", "builtins.eval", "Plain"]
)
def test_bytes_can_name_nothing_that_is_not_declared(name: str) -> None:
    with pytest.raises(DecodeError, match="does not declare"):
        NARROW.decode(b"e" + orjson.dumps([name, ["true"], {}]))


def test_a_name_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "never_imported_by_a_name"
    (tmp_path / f"{module}.py").write_text("class Own(Exception):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    payload = b"e" + orjson.dumps([f"{module}.Own", [], {}])
    with pytest.raises(DecodeError):
        CODEC.decode(payload)
    with pytest.raises(DecodeError):
        CODEC.decode(b"e$" + orjson.dumps([[f"{module}:Own#00"], ["builtins.KeyError", [{"$model": [0, {}]}], {}]]))
    assert module not in sys.modules


def test_constructors_of_users_are_not_run() -> None:
    class Strict(Exception):
        def __new__(cls, code: int) -> Strict:
            if not isinstance(code, int):
                raise RuntimeError(f"not {code}")
            return super().__new__(cls, code)

    codec = RaisingCodec(TaggedCodec(), [Strict])
    assert_alike(round_trip(Strict(5), codec), Strict(5))
    payload = b"e" + orjson.dumps([f"{__name__}.{Strict.__qualname__}", ["five"], {}])
    assert codec.decode(payload).error.args == ("five",)
