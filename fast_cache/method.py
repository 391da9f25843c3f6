"""A cached function that stands in a class: reached through an instance, it carries the instance with it.

``shop.price(1)``, ``shop.price.invalidate(1)`` and ``Shop.price.invalidate(shop, 1)`` all mean what they look like. An
operation that is given something else in place of the instance is refused: it would name a key that nothing has.
"""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from fast_cache.errors import ConfigurationError, InvalidTypeError
from fast_cache.http.endpoint import EndpointSignature
from fast_cache.keys import Kind
from fast_cache.keys.binder import POSITIONAL
from fast_cache.stats import Stats
from fast_cache.wrapper import compile_wrapper

if TYPE_CHECKING:
    from fast_cache.decorator import Operations


class Binds(enum.Enum):
    """What access through a class or an instance puts first."""

    NOTHING = "nothing"
    INSTANCE = "instance"
    CLASS = "class"


class CachedMethod:
    """The descriptor that stands in the class."""

    def __init__(self, wrapper: Callable[..., Any], operations: Operations, binds: Binds) -> None:
        functools.update_wrapper(self, operations.fn)
        self._wrapper = wrapper
        self._operations = operations
        self._binds = binds
        self._owner: type | None = None
        self.__signature__ = EndpointSignature.of(operations.fn)
        self._bound = _bound_class(self)
        self._binds_instances = binds is Binds.INSTANCE

    @staticmethod
    def of(wrapper: Callable[..., Any], operations: Operations, binds: Binds) -> CachedMethod:
        """The descriptor for ``wrapper``, which everybody can tell to be async or not."""
        flavour = AsyncCachedMethod if operations.suspends else CachedMethod
        return flavour(wrapper, operations, binds)

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None or not self._binds_instances:
            if self._binds is not Binds.CLASS:
                return self
            instance = type(instance) if owner is None else owner
        # Every hit comes by here: no __init__, which would be a call more (0.1 µs).
        bound = self._bound()
        bound.__self__ = instance
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrapper(*args, **kwargs)

    def key(self, *args: Any, **kwargs: Any) -> str:
        self._check_first(args, "key")
        return self._operations.key(*args, **kwargs)

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        self._check_first(args, "explain")
        return self._operations.explain(*args, **kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        self._check_first(args, "invalidate")
        return self._operations.invalidate(*args, **kwargs)

    def invalidate_all(self) -> Any:
        return self._operations.invalidate_all()

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        self._check_first(args, "refresh")
        return self._operations.refresh(*args, **kwargs)

    def stats(self) -> Stats:
        return self._operations.stats()

    def __repr__(self) -> str:
        return f"<cached {self._operations.policy.name}>"

    def _check_first(self, args: tuple[Any, ...], operation: str) -> None:
        """Refuse what can't be the instance or the class. Below ``@staticmethod`` nothing is known and all may pass."""
        fn, name = self._operations.fn, self._operations.policy.name
        if self._operations.keys.kind == "classmethod":
            if not args or not isinstance(args[0], type):
                raise InvalidTypeError(
                    f"{operation} of the classmethod {name} takes the class first; put @cache.cached above "
                    f"@classmethod to reach it through the class"
                )
        elif (
            self._owner is not None
            and self._binds is Binds.INSTANCE
            and not isinstance(next(iter(args), None), self._owner)
        ):
            raise InvalidTypeError(
                f"{operation} of the method {name} is called through an instance, "
                f"instance.{fn.__name__}.{operation}(...), or takes the instance first"
            )


class AsyncCachedMethod(CachedMethod):
    """The same for an ``async def``: frameworks look at ``__call__`` to know that it has to be awaited."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self._wrapper(*args, **kwargs)


class BoundCachedMethod:
    """A cached method together with its instance or class."""

    __slots__ = ("__self__",)

    _method: ClassVar[Any]
    __self__: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._method._wrapper(self.__self__, *args, **kwargs)

    def key(self, *args: Any, **kwargs: Any) -> str:
        key: str = self._method._operations.key(self.__self__, *args, **kwargs)
        return key

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        return self._method._operations.explain(self.__self__, *args, **kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        return self._method._operations.invalidate(self.__self__, *args, **kwargs)

    def invalidate_all(self) -> Any:
        return self._method._operations.invalidate_all()

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        return self._method._operations.refresh(self.__self__, *args, **kwargs)

    @property
    def __func__(self) -> CachedMethod:
        method: CachedMethod = self._method
        return method

    @property
    def __signature__(self) -> inspect.Signature:
        whole: inspect.Signature = self._method.__signature__
        return whole.replace(parameters=list(whole.parameters.values())[1:])

    def __getattr__(self, name: str) -> Any:
        if name == "__dict__":  # the method's speaks of the function before it was bound, as its signature
            raise AttributeError(name)
        return getattr(self._method, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundCachedMethod):
            return NotImplemented
        return type(self) is type(other) and self.__self__ is other.__self__

    def __hash__(self) -> int:
        return hash((id(self._method), id(self.__self__)))

    def __repr__(self) -> str:
        return f"<bound {self._method!r}>"


class BoundAsyncCachedMethod(BoundCachedMethod):
    """The same for an ``async def``."""

    __slots__ = ()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self._method._wrapper(self.__self__, *args, **kwargs)


def _bound_class(method: CachedMethod) -> type[BoundCachedMethod]:
    """A class for each method: what stands on it is shown as the method's own, and costs no binding anything."""
    operations, wrapper = method._operations, method._wrapper
    base = BoundAsyncCachedMethod if operations.suspends else BoundCachedMethod
    own: dict[str, Any] = {"__slots__": (), "__doc__": wrapper.__doc__, "__module__": wrapper.__module__}
    own["_method"] = staticmethod(method)  # a descriptor by itself, it would bind to what carries it
    first = next(iter(inspect.signature(operations.fn).parameters.values()), None)
    if first is not None and first.kind in POSITIONAL:
        own["__call__"] = compile_wrapper(operations, bound=True)  # a call with stars costs 0.2 µs more
    return type(base.__name__, (base,), own)


def place_of(fn: Any) -> tuple[Callable[..., Any], Kind, Binds | None]:
    """The function inside ``fn``, its kind for keys, and what access binds; ``None`` outside a class.

    Raises:
        InvalidTypeError: not a function.
        ConfigurationError: something that has no call of its own to decorate.
    """
    if isinstance(fn, classmethod):
        return fn.__func__, "classmethod", Binds.CLASS
    if isinstance(fn, staticmethod):
        return fn.__func__, "staticmethod", Binds.NOTHING
    if isinstance(fn, (property, functools.cached_property)):
        raise ConfigurationError("put @cache.cached below @property, on the function itself")
    if inspect.isclass(fn) or inspect.ismethod(fn) or isinstance(fn, functools.partial) or not inspect.isroutine(fn):
        raise InvalidTypeError(
            f"@cache.cached decorates a function or a method where it is defined, not a {type(fn).__name__}; "
            "write a def that calls it"
        )
    scope, _, _ = fn.__qualname__.rpartition(".")
    if not inspect.isfunction(fn) or not scope or scope.endswith("<locals>"):
        return fn, "function", None
    first = next(iter(inspect.signature(fn).parameters), "")
    kinds: dict[str, Kind] = {"self": "method", "cls": "classmethod"}
    return fn, kinds.get(first, "function"), Binds.INSTANCE
