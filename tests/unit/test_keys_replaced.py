"""``key=`` templates and ``key_builder=``: the author's own argument part, checked at decoration."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any

import hypothesis.strategies as st
import pytest
from fastapi import Header, Request
from hypothesis import HealthCheck, given, settings

from fast_cache.errors import ConfigurationError, InvalidTypeError, UnkeyableError
from fast_cache.keys import KeyMaker, NotKeyed, Role


@dataclass
class User:
    id: Any
    profile: Any = None


def show(user: Any, page: Any = 1) -> None: ...
def find(a: Any, b: Any, *, c: Any = 3) -> None: ...
def variadic(a: Any, *args: Any, b: Any = 2, **kwargs: Any) -> None: ...
def positional(a: Any, b: Any = 2, /) -> None: ...


def arguments(maker: KeyMaker, *args: Any, **kwargs: Any) -> str:
    return maker.compiled(*args, **kwargs).removeprefix(maker.prefix)


class TestTemplates:
    @pytest.mark.parametrize(
        ("template", "text"),
        [
            ("user:{user.id}", "user:42"),
            ("user:{user.id}:{page}", "user:42:1"),
            ("{user.profile[name]}/{user.profile[tags][0]}", "'Ann'/'x'"),
            ("{page}{page}", "1,1"),
            ("{page}x", "1,x"),
            ("{{{page}}}", "%7B1,%7D"),
            ("everyone", "everyone"),
            ("a b\n%", "a b%0A%25"),
        ],
    )
    def test_fields_are_read_from_the_arguments(self, template: str, text: str) -> None:
        user = User(42, {"name": "Ann", "tags": ["x"]})
        assert arguments(KeyMaker(show, key=template), user) == text

    def test_defaults_and_spellings_do_not_matter(self) -> None:
        maker = KeyMaker(show, key="{user.id}:{page}")
        assert maker.compiled(User(1)) == maker.compiled(page=1, user=User(1))

    def test_values_are_encoded_not_formatted(self) -> None:
        maker = KeyMaker(show, key="{user}")
        assert len({maker.compiled(user) for user in (1, "1", True, 1.0, None, "None")}) == 6

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.sampled_from(["{a}{b}", "{a}1{b}", "{a}:{b}", "{a}-{b}", "{a},{b}", "{a}/{b}", "{a}'{b}", "{a}.{b}"]),
        *[st.text(alphabet="1:,-/'%.\\{}", max_size=4) | st.integers(-12, 12) | st.floats() | st.none()] * 4,
    )
    def test_neighbouring_fields_can_not_reach_into_each_other(
        self, template: str, a: Any, b: Any, c: Any, d: Any
    ) -> None:
        maker = KeyMaker(find, key=template)
        same = [repr(x) for x in (a, b)] == [repr(x) for x in (c, d)]
        assert (maker.compiled(a, b) == maker.compiled(c, d)) == same

    @pytest.mark.parametrize(
        "template",
        [
            "",
            "{nobody}",
            "{nobody.id}",
            "{}",
            "{0}",
            "{user",
            "user}",
            "{user!r}",
            "{page:>3}",
            "{page:{user}}",
            "{user.__class__}",
            "{user._private}",
            "{user.profile._x}",
            "{user.}",
            "{user..id}",
            "{user[]}",
            "{user[0}",
            "{user.1}",
            "{user id}",
            "{user()}",
            "user:{user}:*",
            "user?{user}",
            "user:[{user}]",
        ],
    )
    def test_a_template_that_can_not_work_is_refused_at_decoration(self, template: str) -> None:
        with pytest.raises(ConfigurationError, match=r"^key="):
            KeyMaker(show, key=template)

    def test_a_template_must_be_text(self) -> None:
        with pytest.raises(InvalidTypeError, match=r"^key="):
            KeyMaker(show, key=1)  # type: ignore[arg-type]

    @pytest.mark.parametrize("user", [None, User(1), User(1, {"tags": []}), User(1, {"tags": 1})])
    def test_a_field_that_can_not_be_read_makes_the_call_unkeyable(self, user: Any) -> None:
        with pytest.raises(UnkeyableError) as caught:
            KeyMaker(show, key="{user.profile[tags][0]}").compiled(user)
        assert caught.value.path == "user.profile[tags][0]"

    def test_a_field_that_can_not_be_encoded_makes_the_call_unkeyable(self) -> None:
        with pytest.raises(UnkeyableError) as caught:
            KeyMaker(show, key="{user.id}").compiled(User([object()]))
        assert caught.value.path == "user.id[0]"

    def test_roles_tell_what_the_template_mentions(self) -> None:
        def fn(user: Any, token: Annotated[str, Header()], request: Request, db: Annotated[Any, NotKeyed]) -> None: ...

        roles = KeyMaker(fn, key="{user.id}:{token}").parameters
        assert list(roles.values()) == [Role.KEYED, Role.HASHED, Role.OMITTED, Role.NOT_KEYED]

    def test_a_part_of_a_request_can_be_named(self) -> None:
        def fn(request: Request) -> None: ...

        maker = KeyMaker(fn, key="{request.headers[x-tenant]}")
        request = Request({"type": "http", "headers": [(b"x-tenant", b"acme")]})
        assert maker.parameters["request"] is Role.KEYED
        assert arguments(maker, request) == "'acme'"


class TestKeyBuilders:
    @pytest.mark.parametrize(
        "builder",
        [
            lambda a, b, c: (a, b, c),
            lambda a, b, *, c: (a, b, c),
            lambda c, b, a: (a, b, c),
            lambda x, y, *, c: (x, y, c),
            lambda *args, **kwargs: (*args, kwargs["c"]),
            lambda b, **others: (others["a"], b, others["c"]),
            lambda a, b, c=0, d=0: (a, b, c),
            functools.partial(lambda d, a, b, c: (a, b, c), 0),
        ],
    )
    def test_it_gets_the_arguments_by_name_or_in_order_with_defaults_applied(self, builder: Any) -> None:
        maker = KeyMaker(find, key_builder=builder)
        assert arguments(maker, 1, 2) == arguments(maker, b=2, a=1) == arguments(maker, 1, 2, c=3) == "(1,2,3)"

    def test_variadic_arguments_are_passed_on(self) -> None:
        maker = KeyMaker(variadic, key_builder=lambda *args, **kwargs: [args, kwargs])
        assert arguments(maker, 1, 5, x=6) == "[(1,5),dict('b'=2,'x'=6)]"
        assert arguments(KeyMaker(positional, key_builder=lambda a, b: [a, b]), 1) == "[1,2]"

    def test_its_result_is_encoded_and_long_ones_are_digested(self) -> None:
        maker = KeyMaker(show, key_builder=lambda user, page: user)
        assert len({maker.compiled(user) for user in (1, "1", True, None)}) == 4
        assert arguments(maker, "a" * 500).startswith("#")

    @pytest.mark.parametrize(
        "builder",
        [
            lambda: 1,
            lambda a: 1,
            lambda a, b, c, d: 1,
            lambda a, b: 1,
            lambda b, other, c: 1,
        ],
    )
    def test_one_that_does_not_take_the_function_s_parameters_is_refused(self, builder: Any) -> None:
        with pytest.raises(ConfigurationError, match="key_builder="):
            KeyMaker(find, key_builder=builder)

    def test_one_that_would_be_given_the_wrong_parameter_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="takes 'b' where the function has 'a'"):
            KeyMaker(positional, key_builder=lambda b, a: (a, b))

    def test_one_that_can_not_be_called_or_must_be_awaited_is_refused(self) -> None:
        async def wait(a: Any, b: Any, c: Any) -> int:
            return 1

        class Waiting:
            async def __call__(self, a: Any, b: Any, c: Any) -> int:
                return 1

        def generate(a: Any, b: Any, c: Any) -> Any:
            yield 1

        for builder in (wait, Waiting(), generate):
            with pytest.raises(ConfigurationError, match="plain function"):
                KeyMaker(find, key_builder=builder)
        with pytest.raises(InvalidTypeError, match="key_builder="):
            KeyMaker(find, key_builder="a")  # type: ignore[arg-type]

    def test_its_failure_makes_the_call_unkeyable_and_keeps_the_cause(self) -> None:
        def build(user: Any, page: Any) -> Any:
            return user.secret

        with pytest.raises(UnkeyableError) as caught:
            KeyMaker(show, key_builder=build).compiled("hunter2")
        assert caught.value.path == "key_builder"
        assert isinstance(caught.value.__cause__, AttributeError)
        assert "hunter2" not in str(caught.value)

    def test_a_result_that_is_no_value_makes_the_call_unkeyable(self) -> None:
        with pytest.raises(UnkeyableError) as caught:
            KeyMaker(show, key_builder=lambda user, page: [user]).compiled(object())
        assert caught.value.path == "key_builder[0]"

    def test_wrong_arguments_are_the_function_s_own_error(self) -> None:
        for options in ({"key_builder": lambda *args: 1}, {"key": "x"}, {"key": "{user}"}):
            with pytest.raises(TypeError, match=r"^show\(\) missing"):
                KeyMaker(show, **options).compiled()

    def test_it_answers_for_all_parameters_but_those_marked(self) -> None:
        def fn(request: Request, db: Annotated[Any, NotKeyed], x: int) -> None: ...

        roles = KeyMaker(fn, key_builder=lambda request, db, x: x).parameters
        assert list(roles.values()) == [Role.BUILT, Role.NOT_KEYED, Role.BUILT]
        assert arguments(KeyMaker(fn, key_builder=lambda request, db, x: x), object(), object(), 1) == "1"
