"""Invalidation after a write: a decorator for functions, and a dependency for endpoints.

What is named stands in :mod:`fast_cache.targets`. It is invalidated when the write has succeeded and before its caller
learns of that, and no trouble with it reaches the caller.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from fastapi import Depends, params
from starlette.requests import HTTPConnection
from starlette.responses import Response

from fast_cache.backends.pending import Change
from fast_cache.binding import Binding
from fast_cache.errors import ConfigurationError, InvalidTypeError
from fast_cache.http.exchange import EXCHANGE, USES_EXCHANGE, Exchange
from fast_cache.http.refuse import refuse_generators
from fast_cache.keys import compile_binder, resolve_hints
from fast_cache.naming import adapter_of
from fast_cache.targets import Targets, is_cached, succeeded
from fast_cache.transactions import make_blocking, make_suspending

F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, ..., Any] | staticmethod[..., Any]")


def invalidates(
    binding: Binding, targets: Sequence[Any], tags: str | Iterable[str] | None, everything: Any
) -> Callable[[F], F]:
    """What ``cache.invalidates`` returns."""

    def decorator(fn: Any) -> Any:
        if isinstance(fn, (staticmethod, classmethod)):
            return type(fn)(decorator(fn.__func__))
        if is_cached(fn):
            raise ConfigurationError(
                f"{fn!r} is cached, so it runs only when nothing is found: put @cache.invalidates on what writes"
            )
        if not inspect.isroutine(fn) or inspect.isbuiltin(fn):
            shown = f"the class {fn.__name__}" if isinstance(fn, type) else f"a {type(fn).__name__}"
            raise InvalidTypeError(
                f"@cache.invalidates decorates a function or a method where it is defined, not {shown}"
            )
        refuse_generators(fn)
        signature = inspect.signature(fn)
        named = Targets(binding, fn.__qualname__, tuple(signature.parameters), targets, tags, everything)
        bind = compile_binder(signature, name=fn.__qualname__)
        names = tuple(signature.parameters)

        def changes(args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> list[Change]:
            try:
                arguments = dict(zip(names, bind(*args, **kwargs), strict=True))
            except TypeError:  # another decorator has given it a signature that is not its own
                arguments = {}
            return named.changes(arguments, result)

        decorated: Any
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def suspending(*args: Any, **kwargs: Any) -> Any:
                result = await fn(*args, **kwargs)
                if succeeded(result):
                    await make_suspending(changes(args, kwargs, result))
                return result

            decorated = suspending
        else:

            @functools.wraps(fn)
            def blocking(*args: Any, **kwargs: Any) -> Any:
                result = fn(*args, **kwargs)
                if succeeded(result):
                    make_blocking(changes(args, kwargs, result))
                return result

            decorated = blocking
        return decorated

    return decorator


def invalidating(
    binding: Binding, targets: Sequence[Any], tags: str | Iterable[str] | None, everything: Any
) -> params.Depends:
    """What ``cache.invalidating`` returns."""
    named = Targets(binding, "the endpoint", None, targets, tags, everything)

    async def invalidate_after(connection: HTTPConnection, response: Response) -> AsyncIterator[None]:
        exchange: Exchange | None = connection.scope.get(EXCHANGE)
        if exchange is not None:
            exchange.used = True
        yield
        if response.status_code is not None and response.status_code >= 400:
            return
        arguments = _arguments(connection)
        if exchange is None:
            await make_suspending(named.changes(arguments, None))
        else:  # which sees the status of a Response that the endpoint returned
            exchange.after_success(lambda: make_suspending(named.changes(arguments, None)))

    setattr(invalidate_after, USES_EXCHANGE, True)
    return _depends(invalidate_after)


def _depends(dependency: Callable[..., Any]) -> params.Depends:
    depends: Any = Depends
    if "scope" in inspect.signature(Depends).parameters:
        depends = functools.partial(Depends, scope="function")  # else it would end after the response
    made: params.Depends = depends(dependency)
    return made


def _arguments(connection: HTTPConnection) -> Mapping[str, Any]:
    """The path and query parameters of a request, of the types by which its endpoint takes them."""
    path, query = connection.path_params, connection.query_params
    arguments: dict[str, Any] = {**query, **path}
    try:
        declared = _declared(connection.scope.get("endpoint"))
    except Exception:  # an endpoint of which nothing can be read: there is text then
        declared = ()
    for name, alias, annotation, default in declared:
        raw: Any = path[alias] if alias in path else query.getlist(alias)
        if alias not in path and alias not in query:
            if default is not inspect.Parameter.empty:
                arguments[name] = default
            continue
        for given in [raw] if alias in path else [raw[-1], raw]:  # one value, or all where a list is taken
            try:
                arguments[name] = adapter_of(annotation).validate_python(given)
                break
            except Exception:  # what it is not made for; what names arguments gets the text
                continue
    return arguments


@functools.lru_cache(maxsize=1024)
def _declared(endpoint: Any) -> Sequence[tuple[str, str, Any, Any]]:
    """The parameters of an endpoint: their names, those in the request, their types and their defaults."""
    if endpoint is None:
        return ()
    hints = resolve_hints(endpoint)
    declared = []
    for name, parameter in inspect.signature(endpoint).parameters.items():
        annotation, default = hints.get(name, Any), parameter.default
        infos = [one for one in (*get_args(annotation)[1:], default) if isinstance(one, (params.Path, params.Query))]
        if any(isinstance(one, params.Depends) for one in (*get_args(annotation)[1:], default)):
            continue
        if infos and default is infos[-1]:
            default = inspect.Parameter.empty if default.is_required() else default.get_default()
        alias = next((info.alias for info in infos if info.alias is not None), name)
        declared.append((name, alias, annotation, default))
    return declared
