"""How a decorated function learns that FastAPI called it, and for which request.

Its signature has two more parameters, which FastAPI sees and fills and nobody else sees: the request, and the response
that dependencies set headers on. A call that carries them came from FastAPI: as the endpoint of that request, or as one
of its dependencies; a call without them is a call of a function. Relies on FastAPI reading
``inspect.signature(call).parameters`` and calling with keywords.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType, FunctionType, MappingProxyType
from typing import Annotated, Any, Final, get_args, get_origin

from fastapi import Depends, params
from fastapi.dependencies.utils import get_typed_annotation
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from fast_cache.errors import ConfigurationError

REQUEST_PARAMETER: Final = "fast_cache_request__"
"""The keyword by which FastAPI hands a decorated function its request. ``None`` or absent: called as a function.

On an HTTP route its value is the ``Request``. On a WebSocket route it is the ``WebSocket``, for which the planner's
verdict is always "not cacheable".
"""

RESPONSE_PARAMETER: Final = "fast_cache_response__"
"""The keyword by which FastAPI hands a decorated function that takes no ``Response`` the one of its dependencies."""


def takes_dependencies(fn: Callable[..., Any]) -> bool:
    """Whether FastAPI fills a parameter of ``fn`` with what a dependency returns, which may end with the request."""
    globalns = getattr(inspect.unwrap(fn), "__globals__", {})
    for parameter in inspect.signature(fn).parameters.values():
        annotation = get_typed_annotation(parameter.annotation, globalns)
        annotation = getattr(annotation, "__value__", annotation)  # as in _injected
        if any(isinstance(item, params.Depends) for item in (parameter.default, *get_args(annotation))):
            return True
    return False


async def _connection(connection: HTTPConnection) -> HTTPConnection:
    return connection


class EndpointSignature(inspect.Signature):
    """A function's own signature to everybody, with two more keyword-only parameters to FastAPI.

    FastAPI decides what to pass by reading ``.parameters``, and passes nothing that is not there. A plain parameter
    would show: in the user's introspection, in ``inspect.signature(decorated) == inspect.signature(original)``, and
    to every library that builds calls from signatures. So ``.parameters`` looks at who reads it: code of the package
    ``fastapi`` gets the extra parameters, everything else the truth. Equality, ``str``, ``bind``, ``pickle`` and
    ``copy`` go by the truth, and ``replace`` keeps the class, so that a partial, a bound method, or a library that
    rewrites a signature still receives the request.

    The parameter never reaches OpenAPI: what FastAPI fills with the connection is no part of the schema.
    """

    __slots__ = ("_globals", "_readers")

    def __init__(
        self,
        parameters: Sequence[inspect.Parameter] | None = None,
        *,
        return_annotation: Any = inspect.Signature.empty,
        __validate_parameters__: bool = True,
        globalns: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            parameters, return_annotation=return_annotation, __validate_parameters__=__validate_parameters__
        )
        self._globals = globalns or {}
        self._readers: list[None] = []

    @property
    def was_read(self) -> bool:
        """Whether FastAPI has read it, or a copy: the function is an endpoint, or a dependency."""
        return bool(self._readers)

    @classmethod
    def of(cls, fn: Callable[..., Any]) -> EndpointSignature:
        """The signature to put on the wrapper of ``fn``, as ``__signature__``.

        Annotations stay as they are written. FastAPI resolves the ones that are text in the globals of
        ``inspect.unwrap(wrapper)``, so the wrapper needs ``__wrapped__``, as ``functools.wraps`` sets it.
        """
        own = inspect.signature(fn)
        return cls(
            tuple(own.parameters.values()),
            return_annotation=own.return_annotation,
            globalns=getattr(inspect.unwrap(fn), "__globals__", None),
        )

    @property
    def parameters(self) -> MappingProxyType[str, inspect.Parameter]:
        """The function's parameters, in order; read by FastAPI, with ours among them.

        Raises:
            ConfigurationError: FastAPI reads it for a decorator that would not pass that parameter on.
        """
        own = super().parameters
        frame = sys._getframe(1)
        if not _is_fastapis(frame):
            return own
        _check_passes_on(_call_read_for(frame))
        if not self._readers:
            self._readers.append(None)
        named = [p for p in own.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        rest = [p for p in own.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
        return MappingProxyType({p.name: p for p in [*named, *_hidden(own.values(), self._globals), *rest]})

    def replace(self, **changes: Any) -> EndpointSignature:
        """Like :meth:`inspect.Signature.replace`; the copy hides the same parameter."""
        copy = super().replace(**changes)
        copy._globals = self._globals
        copy._readers = self._readers
        return copy

    __replace__ = replace  # what copy.replace() calls from Python 3.13 on


def _is_fastapis(frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    return name == "fastapi" or name.startswith("fastapi.")


def _call_read_for(frame: FrameType | None) -> Any:
    """What FastAPI will call, which its functions that read signatures name ``call``; ``None`` if there is none."""
    while frame is not None and _is_fastapis(frame):
        if "call" in frame.f_locals:
            return frame.f_locals["call"]
        frame = frame.f_back
    return None


def _check_passes_on(call: Any) -> None:
    """Raise if a decorator around the cached function has no room for the parameter that tells it its request.

    It has the signature of what it wraps, so FastAPI would pass the parameter and every request would fail; without
    the parameter the call would look like one of a plain function, and be answered whoever asks.
    """
    for layer in _layers(call):
        code = layer.__code__
        named = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
        if REQUEST_PARAMETER in named:
            return
        if not code.co_flags & inspect.CO_VARKEYWORDS:
            raise ConfigurationError(
                f"{layer.__module__}.{code.co_qualname} is wrapped around a cached function and takes only parameters "
                "of its own, so the cache can't learn for which request it is called; let it take *args and **kwargs "
                "and pass them on, or put @cache.cached above it"
            )


def _layers(call: Any) -> Iterator[FunctionType]:
    """The Python functions through which a call goes, from the outermost to one that is known by no ``__wrapped__``."""
    while call is not None:
        if isinstance(call, functools.partial):
            call = call.func
        elif inspect.ismethod(call):
            call = call.__func__
        elif isinstance(call, FunctionType):
            yield call
            call = getattr(call, "__wrapped__", None)
        elif isinstance(method := inspect.getattr_static(type(call), "__call__", None), FunctionType):
            # What such an object calls it knows by itself: a cached method is one, with its function as __wrapped__.
            yield method
            return
        else:
            call = getattr(call, "__wrapped__", None)


class NoEndpointSignature(EndpointSignature):
    """The signature of what can't be an endpoint: nobody could tell whose request it answers."""

    __slots__ = ()

    @property
    def parameters(self) -> MappingProxyType[str, inspect.Parameter]:
        """The function's parameters.

        Raises:
            ConfigurationError: FastAPI reads them.
        """
        if _is_fastapis(sys._getframe(1)):
            raise ConfigurationError(
                "what is decorated with @cache.cached_many is no endpoint and no dependency: call it in one"
            )
        return super().parameters


def response_parameter(fn: Callable[..., Any]) -> str:
    """The parameter that FastAPI hands the response of dependencies to: one of the function's own, or ours."""
    globalns = getattr(inspect.unwrap(fn), "__globals__", {})
    named = (p.name for p in inspect.signature(fn).parameters.values() if _injected(p, globalns) is Response)
    return next(named, RESPONSE_PARAMETER)


def _hidden(own: Iterable[inspect.Parameter], globalns: Mapping[str, Any]) -> list[inspect.Parameter]:
    """The extra parameters, so annotated that they take nothing away from the function's own parameters.

    FastAPI fills one parameter of each kind per function: a second ``Request`` would leave the first one empty.
    ``HTTPConnection`` is the kind that endpoints hardly ever declare, and the one that WebSocket routes fill too.
    """
    taken = {_injected(p, globalns) for p in own}
    annotation: Any
    if HTTPConnection not in taken:
        annotation = HTTPConnection
    elif Request not in taken:
        annotation = Request
    else:
        annotation = Annotated[Any, Depends(_connection)]
    # No default: FastAPI would not look at it, and a parameter without one is the plainest to fill.
    hidden = [inspect.Parameter(REQUEST_PARAMETER, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)]
    if Response not in taken:
        hidden.append(inspect.Parameter(RESPONSE_PARAMETER, inspect.Parameter.KEYWORD_ONLY, annotation=Response))
    return hidden


def _injected(parameter: inspect.Parameter, globalns: Mapping[str, Any]) -> type | None:
    """The kind of connection, or the response, that FastAPI may fill ``parameter`` with, if any."""
    annotation = get_typed_annotation(parameter.annotation, dict(globalns))
    # A type alias (`type T = ...`) is looked through, once, as FastAPI does.
    annotation = getattr(annotation, "__value__", annotation)
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if not isinstance(annotation, type):
        return None
    kinds = (Request, WebSocket, HTTPConnection, Response)
    return next((kind for kind in kinds if issubclass(annotation, kind)), None)
