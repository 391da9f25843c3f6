"""Attacks on what calls hold and on stored exceptions: sessions that are closed meanwhile, errors that are shared."""

from __future__ import annotations

import contextlib
import gc
import io
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, UploadFile
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from typing_extensions import TypeAliasType

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, NotKeyed, RedisBackend
from fast_cache.errors import DecodeError, EncodeError
from fast_cache.http.endpoint import takes_dependencies
from fast_cache.keys import KeyMaker
from fast_cache.outcome import Raised, members_of
from fast_cache.serializers import RaisingCodec, codec_for
from fast_cache.serializers.tagged import TaggedCodec

LONG = 60


# What a call holds


class Repository:
    def __init__(self, session: object) -> None:
        self.session = session

    def __cache_key__(self) -> str:
        return "repository"

    def read(self, number: int) -> int:
        return number


class Cyclic:
    def __init__(self) -> None:
        self.me = self

    def __cache_key__(self) -> str:
        return "cyclic"


class Proxy:
    """As those of werkzeug: it can't be asked for anything outside its request."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError


def outlives(held: object) -> bool:
    def load(argument: object) -> None: ...

    return KeyMaker(load).outlives_request((held,), {})


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(create_engine("sqlite://")) as session:
        yield session


def test_what_holds_a_session_ends_with_it(session: Session) -> None:
    repository = Repository(session)
    assert not KeyMaker(Repository.read, kind="method").outlives_request((repository, 1), {})
    assert not outlives([repository])
    assert not outlives({"a": {"b": (repository,)}})
    assert not outlives(Repository(Repository(Repository(session))))


def test_a_session_with_a_key_of_its_own_is_one_still() -> None:
    class Keyed(Session):
        def __cache_key__(self) -> str:
            return "session"

    assert not outlives(Keyed())


@pytest.mark.parametrize("file", [UploadFile(io.BytesIO()), io.BytesIO(), io.StringIO(), Repository(io.BytesIO())])
def test_files_end_with_the_request(file: object) -> None:
    assert not outlives(file)


def test_what_lasts_is_known_to() -> None:
    cache = Cache()
    app = FastAPI()
    cache.init_app(app)
    engine = create_engine("sqlite://")
    with engine.connect():  # in its pool there is a connection, which is no affair of the caller
        for held in (engine, Repository(engine), Repository(cache), Repository(app), Cyclic(), range(3), [[1]] * 1000):
            assert outlives(held), held
    engine.dispose()


def test_what_can_not_be_looked_into_is_no_error() -> None:
    assert outlives(Repository(Proxy()))


def test_the_search_is_bounded(session: Session) -> None:
    held: object = session
    for _ in range(10):
        held = Repository(held)
    assert outlives(held)
    assert outlives([object() for _ in range(1000)])


def test_a_left_out_list_is_looked_into(session: Session) -> None:
    def load(argument: Annotated[Any, NotKeyed]) -> None: ...

    keys = KeyMaker(load)
    assert keys.outlives_request(([1],), {})
    assert not keys.outlives_request(([session],), {})


class Thing:
    def __cache_key__(self) -> str:
        return "thing"


async def thing() -> AsyncIterator[Thing]:
    yield Thing()


Plain = Annotated[Thing, Depends(thing)]
Alias = TypeAliasType("Alias", Annotated[Thing, Depends(thing)])


THING: Any = Depends(thing)


def test_dependencies_are_seen_through_a_type_alias() -> None:
    def plain(held: Plain) -> None: ...
    def alias(held: Alias) -> None: ...
    def default(held: Any = THING) -> None: ...
    def none(held: int) -> None: ...

    assert [takes_dependencies(fn) for fn in (plain, alias, default, none)] == [True, True, True, False]


# Stored exceptions


class NotFound(Exception):
    """Formats what it was given: made from its own ``args`` it says something else."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} not found")


class KeywordOnly(Exception):
    def __new__(cls, *, code: int) -> KeywordOnly:
        return super().__new__(cls)

    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class Slotted(OSError):
    __slots__ = ("__hidden",)

    def __init__(self, hidden: int) -> None:
        super().__init__(2, "gone", "file")
        self.__hidden = hidden

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.__hidden}"


class OddGroup(ExceptionGroup[Exception]):
    code: int

    def __new__(cls, *, code: int) -> OddGroup:
        made = super().__new__(cls, "odd", [ValueError(code), ExceptionGroup("inner", [KeyError(code)])])
        made.code = code
        return made

    def __init__(self, *, code: int) -> None: ...


class Unsteady(Exception):
    def __str__(self) -> str:
        return f"at {time.perf_counter_ns()}"


class Raising(Exception):
    def __str__(self) -> str:
        raise LookupError


def raised(source: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        source()
    return caught.value


SAMPLES = [
    NotFound("user 1"),
    KeywordOnly(code=4),
    Slotted(5),
    OSError(2, "gone", "file", None, "other file"),
    BlockingIOError(11, "later", 5),
    KeyError("k"),
    StopIteration(4),
    ImportError("no", name="module", path="path"),
    raised(lambda: b"\xff".decode()),
    raised(lambda: compile("a b", "file", "exec")),
    raised(lambda: int("x")),
    raised(lambda: getattr([], "missing")),  # noqa: B009
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_a_copy_is_the_same_exception(error: Exception) -> None:
    codec = RaisingCodec(codec_for(int), [Exception])
    for copy in (Raised(Raised(error).anew()).anew(), codec.decode(codec.encode(Raised(error))).anew()):
        assert copy is not error
        assert type(copy) is type(error)
        assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))
        assert members_of(copy) == members_of(error)
        assert (copy.__traceback__, copy.__cause__, copy.__context__) == (None, None, None)


@pytest.mark.parametrize("error", [Unsteady(), Raising()], ids=lambda error: type(error).__name__)
def test_what_can_not_be_copied_is_refused(error: Exception) -> None:
    assert Raised.of(error) is None
    with pytest.raises(EncodeError, match=type(error).__name__):
        Raised(error)


@pytest.mark.parametrize(
    "parts",
    [
        ["builtins.ExceptionGroup", ["no members"], {}, {}],
        ["builtins.OSError", [2, "gone"], {}, {"characters_written": "text"}],
        ["builtins.KeyError", ["k"], {}, {}, {}],
        ["builtins.OSError", ["k"], {}, None],
    ],
)
def test_bytes_that_make_no_exception_are_a_miss(parts: list[Any]) -> None:
    codec = RaisingCodec(codec_for(int), [Exception])
    with pytest.raises(DecodeError):
        codec.decode(b"e" + TaggedCodec().encode(parts))


def frames(error: BaseException) -> list[object]:
    found: list[object] = [error.__traceback__] if error.__traceback__ else []
    for member in getattr(error, "exceptions", ()):
        found += frames(member)
    return found


def test_a_group_is_copied_with_its_members() -> None:
    member = raised(lambda: int("x"))
    group = ExceptionGroup("group", [member, ExceptionGroup("inner", [member])])
    odd = OddGroup(code=4)
    for error in (group, odd):
        stored = Raised(error)
        first: Any = stored.anew()
        second: Any = stored.anew()
        assert frames(first) == []
        assert repr(first) == repr(error)
        assert vars(first) == vars(error)
        assert first.exceptions[0] is not second.exceptions[0]
    assert frames(group) != [], "the caller's own keeps its frames"


def test_exceptions_inside_an_exception_keep_no_frames_either() -> None:
    class Wrapping(Exception):
        def __init__(self, message: str, original: Exception) -> None:
            super().__init__(message, original)
            self.original = original
            self.all = [original]
            self.me = self

    copy: Any = Raised(Wrapping("wrapped", raised(lambda: int("x")))).anew()
    assert copy.original is copy.args[1] is copy.all[0]
    assert frames(copy.original) == []
    assert copy.me is copy


def bound(backend: CacheBackend) -> Cache:
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


@pytest.fixture(params=["memory", "ten methods", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[CacheBackend]:
    if request.param == "memory":
        yield InMemoryBackend()
    elif request.param == "redis":
        with contextlib.closing(RedisBackend(redis_url, namespace="raised")) as backend:
            yield backend
    else:
        with contextlib.closing(SQLiteBackend(tmp_path / "cache.db")) as backend:
            yield backend


@pytest.mark.parametrize("error", [NotFound("user 1"), KeywordOnly(code=4)], ids=lambda error: type(error).__name__)
def test_every_caller_gets_the_error_that_was_raised(backend: CacheBackend, error: Exception) -> None:
    loads: list[int] = []

    @bound(backend).cached(expire=LONG, cache_errors={Exception: LONG})
    def load() -> None:
        loads.append(1)
        raise error

    for _ in range(4):
        with pytest.raises(type(error)) as caught:
            load()
        assert (str(caught.value), vars(caught.value)) == (str(error), vars(error))
    assert loads == [1]


def test_notes_are_the_caller_s_own(backend: CacheBackend) -> None:
    @bound(backend).cached(expire=LONG, cache_errors={LookupError: LONG})
    def load() -> None:
        error = LookupError()
        error.add_note("by the function")
        raise error

    notes = []
    for visitor in ("alice", "bob", "carol"):
        with pytest.raises(LookupError) as caught:
            load()
        caught.value.add_note(visitor)
        notes.append(caught.value.__notes__)
    assert notes == [["by the function", visitor] for visitor in ("alice", "bob", "carol")]


def test_a_stored_group_keeps_no_locals_alive() -> None:
    class Big:
        pass

    alive: list[weakref.ref[Big]] = []

    @bound(InMemoryBackend()).cached(expire=LONG, cache_errors={ExceptionGroup: LONG})
    def load() -> None:
        big = Big()
        alive.append(weakref.ref(big))
        try:
            raise ValueError
        except ValueError as error:
            members = [error]
        raise ExceptionGroup("group", members)

    with pytest.raises(ExceptionGroup):
        load()
    gc.collect()
    assert alive[0]() is None
    with pytest.raises(ExceptionGroup):
        load()
    assert len(alive) == 1
