"""Compiled binders bind and complain exactly as the function itself does; annotations are resolved one by one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ForwardRef, get_args

import pytest

from fast_cache.keys import NotKeyed, compile_binder, resolve_hints

if TYPE_CHECKING:
    from somewhere import Unknown  # type: ignore[import-not-found]


class Unprintable:
    def __repr__(self) -> str:
        raise AssertionError("a default's repr() was used")


ODD = Unprintable()


def plain(a: Any, b: Any = 2) -> None: ...
def positional_only(a: Any, b: Any = ODD, /, c: Any = 3) -> None: ...
def only_positional_only(a: Any, /) -> None: ...
def keyword_only(a: Any, *, b: Any, c: Any = ODD) -> None: ...
def variadic(a: Any, *args: Any, b: Any = 1, **kwargs: Any) -> None: ...
def everything(a: Any, /, b: Any, c: Any = 3, *args: Any, d: Any, e: Any = ODD, **kwargs: Any) -> None: ...
def nothing() -> None: ...
def helpers(type: Any, len: Any, _0: Any, _1: Any = 1, _2: Any = 2, *, __0: Any = 3, key: Any = 4) -> None: ...
def foreign(größe: Any, naïveté: Any = 1) -> None: ...


class Mangled:
    def method(self, __private: Any, __dunder__: Any = 1) -> None: ...


CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (plain, (1,), {}),
    (plain, (1, 3), {}),
    (plain, (), {"b": 1, "a": 2}),
    (plain, (), {}),
    (plain, (), {"b": 1}),
    (plain, (1, 2, 3), {}),
    (plain, (1,), {"a": 1}),
    (plain, (1,), {"c": 1}),
    (positional_only, (1,), {}),
    (positional_only, (1, 2), {"c": 4}),
    (positional_only, (), {"a": 1}),
    (only_positional_only, (1,), {}),
    (only_positional_only, (), {"a": 1}),
    (keyword_only, (1,), {"b": 2}),
    (keyword_only, (1, 2), {}),
    (keyword_only, (1,), {}),
    (variadic, (1, 2, 3), {"x": 1, "b": 5}),
    (variadic, (1,), {}),
    (variadic, (), {}),
    (everything, (1, 2), {"d": 4}),
    (everything, (1, 2, 3, 4, 5), {"d": 4, "e": 5, "a": 6}),
    (everything, (1,), {"d": 4, "b": 2, "a": 6}),
    (everything, (1, 2), {}),
    (nothing, (), {}),
    (nothing, (1,), {}),
    (helpers, (1, 2, 3), {}),
    (helpers, (1, 2, 3), {"__0": 0, "key": "k"}),
    (foreign, (1,), {}),
    (foreign, (), {"größe": 1, "naïveté": 2}),
    (Mangled.method, (None, 1), {}),
    (Mangled.method, (None,), {"_Mangled__private": 1, "__dunder__": 2}),
]


def complaint(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    try:
        fn(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("fn", "args", "kwargs"), CALLS)
def test_a_binder_binds_or_complains_as_the_function_does(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    signature = inspect.signature(fn)
    binder = compile_binder(signature, name=fn.__qualname__)
    message = complaint(fn, args, kwargs)
    assert complaint(binder, args, kwargs) == message
    if message is None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        assert binder(*args, **kwargs) == tuple(bound.arguments.values())


def test_a_default_is_the_object_itself() -> None:
    default: list[int] = []

    def fn(a: list[int] = default) -> None: ...

    assert compile_binder(inspect.signature(fn))()[0] is default


def test_a_method_bound_in_another_class_keeps_its_name_in_errors() -> None:
    with pytest.raises(TypeError, match=r"^Mangled\.method\(\) missing 1 required positional argument"):
        compile_binder(inspect.signature(Mangled.method), name=Mangled.method.__qualname__)(None)


class TestHints:
    def test_annotations_written_as_text_are_resolved_with_their_metadata(self) -> None:
        def fn(a: Annotated[int, NotKeyed], b: str | None) -> list[int]:
            return []

        assert resolve_hints(fn) == {"a": Annotated[int, NotKeyed], "b": str | None, "return": list[int]}

    def test_a_name_that_only_type_checkers_know_does_not_hide_the_others(self) -> None:
        def fn(a: Unknown, b: Annotated[Unknown, NotKeyed], c: int, d: Unknown.inner) -> None: ...

        hints = resolve_hints(fn)
        assert hints["a"] == ForwardRef("Unknown")
        assert get_args(hints["b"]) == (ForwardRef("Unknown"), NotKeyed)
        assert hints["c"] is int
        assert hints["d"] == "Unknown.inner"

    def test_names_of_the_defining_function_are_seen_if_they_are_given(self) -> None:
        class Local: ...

        def fn(a: Local) -> None: ...

        assert resolve_hints(fn, localns=locals())["a"] is Local
        assert resolve_hints(fn)["a"] == ForwardRef("Local")

    def test_what_the_function_closes_over_is_seen(self) -> None:
        class Local: ...

        def fn(a: Local) -> Any:
            return Local

        assert resolve_hints(fn)["a"] is Local

    def test_what_can_not_be_evaluated_stays_text(self) -> None:
        def fn(a: int) -> None: ...

        fn.__annotations__["a"] = "1 +"
        assert resolve_hints(fn)["a"] == "1 +"

    def test_a_decorated_function_s_own_names_are_used(self) -> None:
        import functools

        def fn(a: NotKeyed) -> None: ...

        namespace: dict[str, Any] = {"functools": functools, "fn": fn}
        exec("@functools.wraps(fn)\ndef wrapper(*args):\n    return fn(*args)", namespace)
        assert resolve_hints(namespace["wrapper"])["a"] is NotKeyed

    def test_parameters_without_annotation_have_no_hint(self) -> None:
        assert resolve_hints(lambda a, *b: None) == {}
