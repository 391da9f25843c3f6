"""``KeyMaker``: one key for every spelling of a call, and a key that holds all that the result depends on."""

from __future__ import annotations

import enum
import functools
import logging
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NewType, Self

import pytest
from fastapi import BackgroundTasks, Cookie, Depends, Header, HTTPException, Request, Response, Security, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer
from httpx import AsyncClient
from pydantic import BaseModel, SecretStr
from sqlalchemy.orm import Session

from fast_cache.errors import ConfigurationError, InvalidTypeError, UnkeyableError
from fast_cache.keys import KeyMaker, NotKeyed, Role
from tests.support.ids import shown

if TYPE_CHECKING:
    from sqlalchemy.orm import Session as UnseenSession


def stand_in(module: str, name: str, *bases: type) -> Any:
    """A class that is known by its module and name, of a library that need not be installed."""
    return type(name, bases, {"__module__": module})


AsyncSession = stand_in("sqlalchemy.ext.asyncio.session", "AsyncSession")


class OwnSession(Session):
    pass


class TenantSession(Session):
    def __cache_key__(self) -> int:
        return 7


def read(item_id: int, q: str | None = None, *, limit: int = 10) -> None: ...
def anything(value: Any) -> None: ...
def many(first: Any, *rest: Any, **named: Any) -> None: ...
def other(value: Any) -> None: ...


class TestOneCallOneKey:
    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [((1,), {}), ((), {"item_id": 1}), ((1, None), {"limit": 10}), ((), {"limit": 10, "q": None, "item_id": 1})],
    )
    def test_every_spelling_of_a_call_is_one_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        maker = KeyMaker(read, namespace="shop")
        key = f"shop:{__name__}.read:1:item_id=1,q=None,limit=10"
        assert maker.key(args, kwargs) == maker.compiled(*args, **kwargs) == key

    def test_the_spelled_order_of_keywords_and_dicts_does_not_count(self) -> None:
        maker = KeyMaker(many)
        assert maker.compiled(1, a=1, b=2) == maker.compiled(1, b=2, a=1)
        assert maker.compiled(1, 2, 3) != maker.compiled(1, (2, 3)) != maker.compiled(1, 3, 2)

    def test_values_that_python_calls_equal_are_apart_wherever_they_stand(self) -> None:
        values = [1, True, 1.0, "1", None, "", 0, False, 0.0, -0.0, b"1", "None", (1,), (True,), [1]]
        for fn in (anything, read, many):
            maker = KeyMaker(fn)
            assert len({maker.compiled(value) for value in values}) == len(values)
            assert len({maker.compiled(0, value) for value in values if fn is not anything}) in (0, len(values))

    def test_annotations_do_not_convert(self) -> None:
        maker = KeyMaker(read)
        assert maker.compiled(True) != maker.compiled(1)
        assert maker.compiled("1") != maker.compiled(1)

    @pytest.mark.parametrize("number", [2**1024, -(2**1024), 10**5000], ids=["least", "negative", "endless"])
    def test_huge_integers_do_not_overflow_the_fast_path(self, number: int) -> None:
        maker = KeyMaker(read)
        assert maker.compiled(number) != maker.compiled(number + 1)
        assert maker.compiled(number) == maker.compiled(item_id=number)

    def test_wrong_arguments_are_the_function_s_own_error(self) -> None:
        maker = KeyMaker(read)
        for make in (maker.compiled, maker.bind):
            with pytest.raises(TypeError, match=r"^read\(\) missing 1 required positional argument: 'item_id'$"):
                make()
        with pytest.raises(TypeError) as caught:
            maker.key((1, 2, 3, 4), {})
        assert not isinstance(caught.value, UnkeyableError)

    def test_bind_returns_the_values_in_the_signature_s_order(self) -> None:
        assert KeyMaker(read).bind(limit=5, item_id=1) == (1, None, 5)

    def test_parameters_may_have_any_name(self) -> None:
        def fn(type: int, len: int, _0: int, key: int = 4, *, _11: int = 5) -> None: ...

        assert KeyMaker(fn).compiled(1, 2, 3).endswith(":type=1,len=2,_0=3,key=4,_11=5")

    def test_a_function_without_parameters_has_one_key(self) -> None:
        def fn() -> None: ...

        maker = KeyMaker(fn)
        assert maker.compiled() == maker.prefix

    def test_moving_arguments_between_parameters_changes_the_key(self) -> None:
        maker = KeyMaker(many)
        calls = [
            maker.compiled("a", "b"),
            maker.compiled("a,b"),
            maker.compiled(("a", "b")),
            maker.compiled("a", b="b"),
        ]
        assert len(set(calls)) == 4


class TestPrefix:
    @pytest.mark.parametrize("version", [None, 1, "1"])
    def test_it_is_namespace_name_and_version(self, version: str | int | None) -> None:
        assert KeyMaker(read, namespace="shop", version=version).prefix == f"shop:{__name__}.read:1:"

    def test_without_namespace_it_begins_with_the_name(self) -> None:
        assert KeyMaker(read).prefix == f"{__name__}.read:1:"

    def test_functions_namespaces_and_versions_are_apart(self) -> None:
        makers = [
            KeyMaker(anything),
            KeyMaker(other),
            KeyMaker(anything, namespace="a"),
            KeyMaker(anything, namespace="b"),
            KeyMaker(anything, version=2),
            KeyMaker(anything, version="2.0"),
            KeyMaker(anything, namespace="a", version=2),
        ]
        assert len({maker.compiled(1) for maker in makers}) == len(makers)

    @pytest.mark.parametrize("namespace", ["a:b", "{a}", "a%3Ab", "a*?[b]", "a b", "\ud800", "a~b", "é"])
    def test_a_namespace_can_hold_any_text_and_imitates_none(self, namespace: str) -> None:
        prefix = KeyMaker(read, namespace=namespace, version="{1}").prefix
        prefix.encode()
        assert not set("{}") & set(prefix)
        assert prefix.count(":") == 3
        assert prefix not in {KeyMaker(read, namespace=name, version="{1}").prefix for name in ("a", "b", "a b*", "%")}

    def test_a_name_in_the_namespace_is_not_a_function(self) -> None:
        impostor = KeyMaker(other, namespace=f"{__name__}.read", version=1, key="1:item_id=1")
        assert not impostor.compiled(1).startswith(KeyMaker(read).prefix)

    @pytest.mark.parametrize("text", ["", "a\nb", "\x00", "\x7f"])
    @pytest.mark.parametrize("option", ["namespace", "version"])
    def test_empty_text_and_control_characters_are_refused(self, option: str, text: str) -> None:
        options: dict[str, Any] = {option: text}
        with pytest.raises(ConfigurationError, match=f"^{option}="):
            KeyMaker(read, **options)

    @pytest.mark.parametrize("options", [{"namespace": 1}, {"version": 1.0}, {"version": True}, {"namespace": b"a"}])
    def test_other_types_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidTypeError):
            KeyMaker(read, **options)


class TestWhatCanBeCached:
    def test_callables_whose_name_does_not_tell_them_apart_are_refused(self) -> None:
        class Service:
            def __call__(self) -> None: ...
            def method(self) -> None: ...

        refused: list[Any] = [functools.partial(read, 1), Service(), Service().method, Service, "read"]
        for fn in refused:
            with pytest.raises(InvalidTypeError):
                KeyMaker(fn)

    def test_an_unknown_kind_and_a_method_without_self_are_refused(self) -> None:
        def fn() -> None: ...

        with pytest.raises(ConfigurationError, match="kind="):
            KeyMaker(read, kind="property")  # type: ignore[arg-type]
        for kind in ("method", "classmethod"):
            with pytest.raises(ConfigurationError, match="first parameter"):
                KeyMaker(fn, kind=kind)

    def test_key_and_key_builder_together_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="pass one"):
            KeyMaker(anything, key="{value}", key_builder=lambda value: value)


class TestLongKeys:
    def test_a_long_argument_part_becomes_a_digest(self) -> None:
        maker = KeyMaker(anything, namespace="shop")
        keys = [maker.compiled("a" * length) for length in (192, 193, 10_000)]
        assert keys[0].endswith("a'")
        assert len(keys[0]) == len(maker.prefix) + 200
        for key in keys[1:]:
            assert re.fullmatch(re.escape(maker.prefix) + "#[0-9a-f]{32}", key)
        assert len(set(keys)) == 3

    def test_no_argument_template_or_builder_can_imitate_a_digest(self) -> None:
        digest = KeyMaker(anything).compiled("a" * 500).rpartition(":")[2]
        assert digest.startswith("#")
        for maker in (
            KeyMaker(anything),
            KeyMaker(anything, key="{value}"),
            KeyMaker(anything, key=digest),
            KeyMaker(anything, key_builder=lambda value: value),
        ):
            assert not maker.compiled(digest).endswith(f":{digest}")

    def test_a_long_constant_template_is_digested_too(self) -> None:
        assert "#" in KeyMaker(anything, key="a" * 300).compiled(1)


class TestRoles:
    def test_parameters_tell_what_is_in_the_key(self) -> None:
        def fn(
            item: int,
            db: Annotated[Any, NotKeyed],
            instance: Annotated[Any, NotKeyed()],
            session: Session,
            response: Response,
            tasks: BackgroundTasks,
            request: Request,
            token: Annotated[str, Header()],
        ) -> None: ...

        maker = KeyMaker(fn)
        assert dict(maker.parameters) == {
            "item": Role.KEYED,
            "db": Role.NOT_KEYED,
            "instance": Role.NOT_KEYED,
            "session": Role.HANDLE,
            "response": Role.PER_REQUEST,
            "tasks": Role.PER_REQUEST,
            "request": Role.REQUEST,
            "token": Role.HASHED,
        }
        assert maker.handles == ("session",)
        assert maker.not_keyed == ("db", "instance")
        assert maker.per_request == ("response", "tasks")
        with pytest.raises(TypeError):
            maker.parameters["item"] = Role.HANDLE  # type: ignore[index]

    def test_what_is_left_out_may_differ_and_be_anything(self) -> None:
        def fn(x: int, db: Annotated[Any, NotKeyed], client: AsyncClient, *more: Annotated[Any, NotKeyed]) -> None: ...

        maker = KeyMaker(fn)
        assert maker.compiled(1, object(), object(), object()) == maker.compiled(1, db=2, client=3)
        assert maker.compiled(1, 0, 0) != maker.compiled(2, 0, 0)

    @pytest.mark.parametrize(
        ("annotation", "role"),
        [
            (Session, Role.HANDLE),
            (OwnSession, Role.HANDLE),
            (Session | None, Role.HANDLE),
            (AsyncSession | None, Role.HANDLE),
            (Session | AsyncSession, Role.HANDLE),
            (Annotated[Session, "meta"], Role.HANDLE),
            (NewType("Db", Session), Role.HANDLE),
            (Session | str, Role.KEYED),
            (TenantSession, Role.KEYED),
            (type[Session], Role.KEYED),
            (sqlite3.Connection, Role.HANDLE),
            (logging.Logger, Role.HANDLE),
            (Annotated[Session, NotKeyed] | None, Role.NOT_KEYED),
            (JSONResponse, Role.PER_REQUEST),
            (Request | None, Role.REQUEST),
            (WebSocket, Role.REQUEST),
            (HTTPConnection, Role.REQUEST),
            (Annotated[Request, NotKeyed], Role.NOT_KEYED),
            (Annotated[str, Cookie()], Role.HASHED),
            (Annotated[str | None, Header()], Role.HASHED),
            (Annotated[str, Security(OAuth2PasswordBearer("token"))], Role.HASHED),
            (Annotated[str, Depends(APIKeyHeader(name="x"))], Role.HASHED),
            (stand_in("mine", "Session"), Role.KEYED),
            (stand_in("sqlalchemy_utils", "Session"), Role.KEYED),
            (HTTPException, Role.KEYED),
        ],
        ids=shown,
    )
    def test_an_annotation_decides(self, annotation: Any, role: Role) -> None:
        def fn(value: Any) -> None: ...

        fn.__annotations__["value"] = annotation
        assert KeyMaker(fn).parameters["value"] is role

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("sqlalchemy.orm.scoping", "scoped_session"),
            ("sqlalchemy.engine.base", "Connection"),
            ("sqlalchemy.ext.asyncio.engine", "AsyncEngine"),
            ("sqlmodel.orm.session", "Session"),
            ("httpx", "Client"),
            ("requests.sessions", "Session"),
            ("aiohttp.client", "ClientSession"),
            ("redis.client", "Redis"),
            ("redis.asyncio.cluster", "RedisCluster"),
            ("asyncpg.pool", "Pool"),
            ("asyncpg.pool", "PoolConnectionProxy"),
            ("psycopg", "AsyncConnection"),
            ("psycopg_pool.pool", "ConnectionPool"),
            ("psycopg2.extensions", "connection"),
            ("aiomysql.pool", "Pool"),
            ("pymongo.asynchronous.database", "AsyncDatabase"),
            ("pymongo.collection", "Collection"),
            ("motor.motor_asyncio", "AsyncIOMotorClient"),
            ("aiosqlite.core", "Connection"),
        ],
    )
    def test_well_known_handles_are_recognised_by_name(self, module: str, name: str) -> None:
        handle = stand_in(module, name)()
        assert KeyMaker(anything).compiled(handle) == KeyMaker(anything).compiled(stand_in(module, name)())

    def test_the_installed_libraries_still_use_these_names(self) -> None:
        import httpx
        import redis
        import redis.asyncio
        import sqlalchemy
        import sqlalchemy.orm

        def fn(
            a: sqlalchemy.orm.Session,
            c: sqlalchemy.Engine,
            d: sqlalchemy.Connection,
            e: httpx.Client,
            f: httpx.AsyncClient,
            g: redis.Redis,
            h: redis.asyncio.Redis,
            i: redis.RedisCluster,
            j: sqlalchemy.orm.scoped_session[sqlalchemy.orm.Session],
            k: logging.LoggerAdapter[logging.Logger],
        ) -> None: ...

        assert set(KeyMaker(fn, localns=locals()).parameters.values()) == {Role.HANDLE}

    def test_a_handle_that_is_not_announced_is_recognised_by_its_value(self) -> None:
        maker = KeyMaker(anything)
        assert maker.parameters["value"] is Role.KEYED
        assert maker.compiled(Session()) == maker.compiled(OwnSession()) == f"{maker.prefix}value=-"
        assert maker.compiled(None) != maker.compiled(Session()) != maker.compiled("-")

    def test_a_handle_that_is_not_announced_is_refused_where_the_plan_must_be_complete(self) -> None:
        maker = KeyMaker(anything, handles_by_value=False)
        for value in (Session(), Response()):
            with pytest.raises(UnkeyableError, match="value"):
                maker.compiled(value)

    def test_a_session_with_a_cache_key_is_keyed_by_it(self) -> None:
        assert KeyMaker(anything).compiled(TenantSession()).endswith("TenantSession(!7)")

    def test_an_annotation_for_type_checkers_only_is_settled_by_the_value(self) -> None:
        def fn(db: UnseenSession, marked: Annotated[UnseenSession, NotKeyed], x: int) -> None: ...

        maker = KeyMaker(fn)
        assert maker.parameters["marked"] is Role.NOT_KEYED
        assert maker.compiled(Session(), object(), 1) == maker.compiled(Session(), object(), 1)

    def test_a_request_is_never_left_out_unseen(self) -> None:
        request = Request({"type": "http"})

        def announced(request: Request | None = None) -> None: ...

        for maker in (KeyMaker(announced), KeyMaker(anything)):
            with pytest.raises(UnkeyableError, match="depends on") as caught:
                maker.compiled(request)
            assert caught.value.path in ("request", "value")
        assert KeyMaker(announced).compiled().endswith("request=None")

    def test_the_error_names_the_parameter_first(self) -> None:
        with pytest.raises(UnkeyableError) as caught:
            KeyMaker(many).compiled(1, 2, [object()], x=3)
        assert caught.value.path == "rest[1][0]"
        with pytest.raises(UnkeyableError) as caught:
            KeyMaker(many).compiled(1, x={"y": object()})
        assert caught.value.path == "named[...][...]"


def token(authorization: Annotated[str, Header()]) -> str:
    return authorization


def user(token: Annotated[str, Depends(token)]) -> str:
    return token


class FromCookie:
    def __init__(self, session: Annotated[str, Cookie()]) -> None: ...


class FromRequest:
    def __call__(self, request: Request) -> str:
        return ""


class Page:
    def __init__(self, page: int = 1) -> None: ...


def looks_at_itself(again: Annotated[str, Depends(lambda: None)]) -> str:
    return again


class TestIdentity:
    @pytest.mark.parametrize("dependency", [token, user, FromCookie, FromRequest(), functools.partial(user)])
    def test_what_a_dependency_makes_of_the_caller_s_identity_is_hashed(self, dependency: Any) -> None:
        def fn(value: Annotated[Any, Depends(dependency)], old: Any = Depends(dependency)) -> None: ...  # noqa: B008

        maker = KeyMaker(fn, localns=locals())
        assert set(maker.parameters.values()) == {Role.HASHED}
        key = maker.compiled("hunter2", 1)
        assert "hunter2" not in key
        assert key != maker.compiled("hunter3", 1)

    @pytest.mark.parametrize("dependency", [Page, looks_at_itself, print, lambda: 1])
    def test_other_dependencies_are_keyed_in_plain_text(self, dependency: Any) -> None:
        def fn(value: Annotated[Any, Depends(dependency)]) -> None: ...

        assert KeyMaker(fn, localns=locals()).parameters["value"] is Role.KEYED

    def test_a_dependency_named_by_the_annotation_alone_is_looked_at(self) -> None:
        def fn(value: Annotated[FromCookie, Depends()], page: Annotated[Page, Depends()]) -> None: ...

        assert list(KeyMaker(fn).parameters.values()) == [Role.HASHED, Role.KEYED]

    def test_dependencies_that_go_round_in_circles_end(self) -> None:
        def fn(value: Annotated[Any, Depends(looks_at_itself)]) -> None: ...

        looks_at_itself.__annotations__["again"] = Annotated[str, Depends(looks_at_itself)]
        assert KeyMaker(fn).parameters["value"] is Role.KEYED

    def test_a_session_made_from_a_header_is_in_the_way(self) -> None:
        def fn(db: Annotated[Session, Depends(token)]) -> None: ...

        assert KeyMaker(fn).parameters["db"] is Role.REQUEST

    def test_hashed_names_more_parameters(self) -> None:
        maker = KeyMaker(anything, hashed=["value"])
        assert maker.parameters["value"] is Role.HASHED
        assert "hunter2" not in maker.compiled("hunter2")
        with pytest.raises(UnkeyableError) as caught:
            maker.compiled([object()])
        assert caught.value.path == "value[0]"
        with pytest.raises(ConfigurationError, match="nonsense"):
            KeyMaker(anything, hashed=["nonsense"])

    def test_a_template_hashes_what_comes_from_the_caller(self) -> None:
        def fn(token: Annotated[str, Header()]) -> None: ...

        assert re.search(r":by:h:[0-9a-f]{32}$", KeyMaker(fn, key="by:{token}").compiled("hunter2"))


class Plan(enum.Enum):
    FREE = 1

    def price(self, month: int) -> None: ...


@dataclass(frozen=True)
class Shop:
    name: str

    def items(self, page: int = 1) -> None: ...


class Tenant:
    def __init__(self, number: object) -> None:
        self.number = number

    def __cache_key__(self) -> object:
        return self.number

    def items(self, page: int = 1) -> None: ...

    @classmethod
    def all(cls, page: int = 1) -> None: ...


class OtherTenant(Tenant):
    pass


class Repository:
    def fetch(self, key: int) -> None: ...
    def shared(self: Annotated[Self, NotKeyed], key: int) -> None: ...


class SessionRepository(Session):
    def fetch(self, key: int) -> None: ...


class TestMethods:
    def test_an_instance_is_keyed_by_its_cache_key(self) -> None:
        maker = KeyMaker(Tenant.items, kind="method")
        assert maker.compiled(Tenant(1)) == maker.compiled(Tenant(1), page=1)
        assert len({maker.compiled(tenant) for tenant in (Tenant(1), Tenant(2), Tenant("1"), OtherTenant(1))}) == 4

    def test_an_instance_that_is_a_value_needs_none(self) -> None:
        maker = KeyMaker(Shop.items, kind="method")
        assert maker.compiled(Shop("a")) == maker.compiled(Shop("a")) != maker.compiled(Shop("b"))
        assert "Plan[FREE]" in KeyMaker(Plan.price, kind="method").compiled(Plan.FREE, 1)

    @pytest.mark.parametrize("cls", [Repository, SessionRepository])
    def test_an_instance_that_can_not_be_keyed_is_refused_with_the_ways_out(self, cls: Any) -> None:
        with pytest.raises(UnkeyableError) as caught:
            KeyMaker(cls.fetch, kind="method").compiled(cls(), 1)
        message = str(caught.value)
        assert caught.value.path == "self"
        assert all(way in message for way in ("__cache_key__", "self: Annotated[Self, NotKeyed]", "key_builder="))

    def test_an_instance_is_left_out_by_the_author_s_word(self) -> None:
        maker = KeyMaker(Repository.shared, kind="method")
        assert maker.compiled(Repository(), 1) == maker.compiled(Repository(), 1) != maker.compiled(Repository(), 2)
        assert maker.not_keyed == ("self",)

    def test_a_class_is_keyed_by_its_name(self) -> None:
        maker = KeyMaker(Tenant.all.__func__, kind="classmethod")  # type: ignore[attr-defined]
        assert maker.compiled(Tenant).endswith(f":cls=type({__name__}.Tenant),page=1")
        assert maker.compiled(Tenant) != maker.compiled(OtherTenant)

    def test_classes_that_share_a_name_are_kept_apart(self) -> None:
        def make_class(rate: int) -> type[Tenant]:
            class Local(Tenant):
                discount = rate

            return Local

        first, second = make_class(1), make_class(2)
        maker = KeyMaker(Tenant.all.__func__, kind="classmethod")  # type: ignore[attr-defined]
        assert maker.compiled(first) == maker.compiled(first)
        assert maker.compiled(first) != maker.compiled(second)

    def test_a_class_that_shares_its_name_has_other_keys_in_another_process(self) -> None:
        program = (
            "from fast_cache.keys import KeyMaker\n"
            "def scope():\n"
            "    class Local:\n"
            "        def all(cls): ...\n"
            "    return Local\n"
            "Local = scope()\n"
            "print(KeyMaker(Local.all, kind='classmethod').compiled(Local))\n"
        )
        keys = {subprocess.check_output([sys.executable, "-c", program], text=True) for _ in range(2)}
        assert len(keys) == 2

    def test_the_kind_can_be_read(self) -> None:
        assert KeyMaker(Tenant.items, kind="method").kind == "method"
        assert KeyMaker(read).kind == "function"


def make(*values: Any) -> Callable[[int], Any]:
    value = values[0] if len(values) == 1 else values

    def scale(x: int) -> Any:
        return x, value

    return scale


def make_with(client: Any, rate: int) -> Callable[[int], Any]:
    def scale(x: int) -> Any:
        return client, rate, logging, Shop

    return scale


def retry(times: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs), times

        return wrapper

    return decorate


@retry(3)
def retried(x: int) -> None: ...


class TestClosures:
    @pytest.mark.parametrize(
        ("one", "other"), [(2, 3), (1, True), ("a", b"a"), (None, 0), ((1, 2), (2, 1)), (Plan.FREE, 1), (1.0, 1)]
    )
    def test_two_functions_of_one_factory_are_apart_by_what_they_were_made_with(self, one: Any, other: Any) -> None:
        assert KeyMaker(make(one)).compiled(1) != KeyMaker(make(other)).compiled(1)
        assert KeyMaker(make(one)).compiled(1) == KeyMaker(make(one)).compiled(1)
        assert re.search(r"make\.<locals>\.scale~[0-9a-f]{16}:1:x=1$", KeyMaker(make(one)).compiled(1))

    def test_the_constants_inside_a_decorated_function_count_as_well(self) -> None:
        assert KeyMaker(retry(3)(make(2))).prefix != KeyMaker(retry(3)(make(3))).prefix
        assert KeyMaker(retry(3)(make(2))).prefix == KeyMaker(retry(3)(make(2))).prefix

    def test_two_lambdas_and_two_local_functions_of_one_name_are_apart(self) -> None:
        def twice() -> Iterator[Callable[[int], Any]]:
            def fn(x: int) -> int:
                return x + 1

            yield fn

            def fn(x: int) -> int:  # type: ignore[no-redef]
                return x + 2

            yield fn
            yield lambda x: x + 1
            yield lambda x: x + 2
            yield lambda x: [y in {"a", "b", x} for y in sorted([x], key=lambda z: z + 1)]
            yield lambda x: [y in {"a", "b", x} for y in sorted([x], key=lambda z: z + 2)]

        prefixes = [KeyMaker(fn).prefix for fn in twice()]
        assert len(set(prefixes)) == 6
        assert prefixes == [KeyMaker(fn).prefix for fn in twice()]

    def test_moving_a_local_function_in_its_file_changes_nothing(self) -> None:
        source = "def outer():\n    def fn(x):\n        return x\n    return fn\nfn = outer()"
        prefixes = set()
        for text in (source, f"\n\n\n{source}"):
            namespace: dict[str, Any] = {"__name__": "somewhere"}
            exec(text, namespace)
            prefixes.add(KeyMaker(namespace["fn"]).prefix)
        assert len(prefixes) == 1

    def test_a_function_of_a_module_keeps_its_plain_name(self) -> None:
        assert KeyMaker(retried).prefix == f"{__name__}.retried:1:"

    def test_a_counter_that_the_function_raises_does_not_count(self) -> None:
        def counted() -> Iterator[str]:
            for calls in (0, 5):

                def outer(calls: int = calls) -> Callable[[], int]:
                    def fn() -> int:
                        nonlocal calls
                        calls += 1
                        return calls

                    return fn

                yield KeyMaker(outer()).prefix

        assert len(set(counted())) == 1

    def test_a_counter_that_an_inner_function_raises_does_not_count(self) -> None:
        def outer(calls: int) -> Callable[[], None]:
            def fn() -> None:
                def inner() -> None:
                    nonlocal calls
                    calls += 1

                inner()

            return fn

        assert KeyMaker(outer(0)).prefix == KeyMaker(outer(1)).prefix

    def test_what_is_no_constant_is_named_and_left_out(self) -> None:
        maker = KeyMaker(make_with([], 3))
        assert maker.unkeyed_closure == ("client",)
        assert maker.prefix == KeyMaker(make_with({}, 3)).prefix != KeyMaker(make_with([], 4)).prefix

    def test_a_function_that_refers_to_itself_is_no_trouble(self) -> None:
        before = []

        def remember(fn: Callable[..., Any]) -> Callable[..., Any]:
            before.append(KeyMaker(fn).prefix)  # its own cell is still empty
            return fn

        @remember
        def fib(n: int) -> int:
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        assert before == [KeyMaker(fib).prefix]


class Credentials(BaseModel):
    password: SecretStr


class TestExplain:
    def test_it_gives_each_parameter_s_text_or_the_reason_why_it_has_none(self) -> None:
        def fn(
            x: int, db: Session, note: Annotated[str, NotKeyed], token: Annotated[str, Header()], late: Any, odd: Any
        ) -> None: ...

        explained = KeyMaker(fn).explain((1, None, "n", "hunter2"), {"late": Session(), "odd": object()})
        assert explained["x"] == "1"
        assert explained["db"] == explained["late"] == "left out as a handle"
        assert explained["note"] == "left out by NotKeyed"
        assert re.fullmatch(r"h:[0-9a-f]{32}", explained["token"])
        assert explained["odd"].startswith("unkeyable: odd: builtins.object")

    def test_it_shows_no_secret(self) -> None:
        explained = KeyMaker(anything).explain((Credentials(password=SecretStr("hunter2")),), {})
        assert "hunter2" not in str(explained)
        assert "Credentials" in explained["value"]

    def test_it_names_no_key_of_a_dict_and_no_extra_argument_that_is_in_the_way(self) -> None:
        explained = KeyMaker(many).explain(({"hunter2": object()},), {"hunter2": object()})
        assert explained["first"].startswith("unkeyable: first[...]: ")
        assert explained["named"].startswith("unkeyable: named[...]: ")
        assert "hunter2" not in str(explained)

    def test_it_shows_the_fields_of_a_template(self) -> None:
        maker = KeyMaker(many, key="{first.x}:{first.y}:{rest[0]}")
        explained = maker.explain((complex(1, 2), 3), {})
        assert explained["rest"] == "{rest[0]} = 3"
        assert explained["first"].startswith("{first.x} = unkeyable: first.x: AttributeError")
        assert explained["named"] == "not in the key template"

    def test_it_shows_what_a_key_builder_made(self) -> None:
        explained = KeyMaker(anything, key_builder=lambda value: (value, 1)).explain(("a",), {})
        assert explained == {"value": "given to key_builder", "key_builder": "('a',1)"}

    def test_wrong_arguments_are_the_function_s_own_error(self) -> None:
        with pytest.raises(TypeError, match=r"^anything\(\)"):
            KeyMaker(anything).explain((), {})
