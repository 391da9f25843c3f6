"""A call becomes a key, by a function compiled once for each cached function.

A key is ``namespace:module.qualname:version:arguments`` (without ``namespace:`` where there is none). It depends on the
values bound to the parameters and never on how the call spelled them, and it contains everything that is not left out
by a rule that can be read from :attr:`KeyMaker.parameters`. Calls that have no faithful key raise ``UnkeyableError``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from inspect import Signature
from types import MappingProxyType
from typing import Any, Literal, get_args

from fast_cache.errors import ConfigurationError, InvalidTypeError, UnkeyableError
from fast_cache.keys.arguments import LEFT_OUT, parameter_encoder, reason_left_out, text_or_reason
from fast_cache.keys.binder import POSITIONAL, Namespace, compile_binder, stars
from fast_cache.keys.builder import builder_arguments
from fast_cache.keys.closure import local_digest
from fast_cache.keys.compiling import Piece, argument, call, compile_key
from fast_cache.keys.containers import CONTAINERS
from fast_cache.keys.encode import encode
from fast_cache.keys.groups import groups_of
from fast_cache.keys.hints import resolve_hints
from fast_cache.keys.outliving import outlive_request
from fast_cache.keys.owners import OwnerShapes
from fast_cache.keys.parameters import role_of_parameter
from fast_cache.keys.prefix import make_prefix
from fast_cache.keys.roles import Role, role_of_class
from fast_cache.keys.scalars import LEAVES
from fast_cache.keys.slots import FLAG, RAW, Shape, Slot
from fast_cache.keys.tags import TagMaker
from fast_cache.keys.template import Field, parse_template
from fast_cache.keys.twins import Twins

Kind = Literal["function", "method", "classmethod", "staticmethod"]

_IN_KEY = (Role.KEYED, Role.HASHED, Role.REQUEST)
_LEFT_OUT = (Role.NOT_KEYED, Role.OMITTED)


class KeyMaker:
    """Makes the keys of one cached function.

    Args:
        fn: the function itself (the one inside a ``classmethod`` or ``staticmethod``).
        namespace: the first part of every key; any text without control characters.
        version: raise it when the function's results change their meaning; ``1``, the default, and ``"1"`` are one.
        key: a template that replaces the argument part, such as ``"user:{user.id}"``.
        key_builder: a function that is called with the arguments, defaults applied; what it returns is encoded
            as the argument part.
        kind: how the function is bound: for ``method`` the first parameter is an instance, which needs a
            ``__cache_key__`` or must be a value itself; for ``classmethod`` it is the class.
        hashed: parameters whose values must not be readable in a key, besides those that are marked as headers,
            cookies or security schemes.
        handles_by_value: leave out a handle that only its value shows to be one. Pass ``False`` where
            :attr:`parameters` must tell everything that is left out: such a call is then unkeyable.
        twins: the functions that must not share keys with this one, where closures of one factory may be among them.
        localns: names of the scope in which the function was defined, for its annotations.
        tags: templates of the tags of its entries.

    Attributes:
        prefix: what all keys of this function begin with.
        kind: how the function is bound, as given.
        signature: the function's signature.
        parameters: what each parameter is to the key, in the signature's order.
        template: the one that was given as ``key``.
        template_fields: its fields, in order.
        hints: the annotations of the parameters, as objects.
        bind: takes a call's arguments and returns their values in the signature's order, defaults applied.
        compiled: takes a call's arguments and returns its key, or raises as :meth:`key` does.
        slot_types: the parameters in the key, but for the owner, with the types that may stand in a slot; ``None``
            where only text will do.
        shape: how the slots of this function lie, where there are any and no owner is in the key.
        owners: the same for a method whose owner is in the key.
        unkeyed_closure: variables that a local function closes over and that are in no key: they are mutable, or their
            class is not known to be constant.

    Raises:
        ConfigurationError: an option can't work with this function; the message says which and why.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        namespace: str | None = None,
        version: str | int | None = None,
        key: str | None = None,
        key_builder: Callable[..., Any] | None = None,
        kind: Kind = "function",
        hashed: Collection[str] = (),
        handles_by_value: bool = True,
        localns: Mapping[str, Any] | None = None,
        twins: Twins | None = None,
        tags: str | Iterable[str] | None = None,
    ) -> None:
        if key is not None and key_builder is not None:
            raise ConfigurationError("key= and key_builder= both replace the argument part of the key: pass one")
        self.signature = _signature(fn)
        suffix, self.unkeyed_closure = local_digest(fn)
        self.prefix = make_prefix(fn, namespace=namespace, version=version, suffix=suffix)
        if twins is not None and self.unkeyed_closure and (twin := twins.suffix(self.prefix, fn)):
            self.prefix = make_prefix(fn, namespace=namespace, version=version, suffix=f"{suffix}~{twin}")
        self.groups = groups_of(self.prefix)
        self.kind = kind
        self._owner = _owner(self.signature, kind)
        self._handles_by_value = handles_by_value
        self._key_builder = key_builder
        self.hints = hints = resolve_hints(fn, localns=localns)
        roles = self._roles(hints, hashed)
        space = Namespace(self.signature)
        pieces: list[Piece]
        self.template_fields: tuple[Field, ...] = ()
        if key is not None:
            hidden = [name for name, role in roles.items() if role is Role.HASHED]
            template = parse_template(key, tuple(roles), hashed=hidden)
            self.template_fields = tuple(piece for piece in template if isinstance(piece, Field))
            roles = _roles_in_template(roles, {field.parameter for field in self.template_fields})
            pieces = [piece if isinstance(piece, str) else call(piece, piece.parameter, space) for piece in template]
        elif key_builder is not None:
            roles = {name: role if role is Role.NOT_KEYED else Role.BUILT for name, role in roles.items()}
            pieces = [call(_built(key_builder), builder_arguments(key_builder, self.signature), space)]
        else:
            pieces = self._argument_pieces(roles, hints, space)
        self.template = key
        self.slot_types = self._slot_types(roles, hints) if key is None and key_builder is None else None
        self.shape: Shape | None = None
        self.owners: OwnerShapes | None = None
        if self.slot_types is not None:
            self._keyed = tuple(list(roles).index(name) for name in self.slot_types)
            if self._owner is None or roles[self._owner] not in _IN_KEY:
                self.shape = Shape.of(self.prefix, self.slot_types)
            else:
                encoder = self._encoder(self._owner, Role.KEYED)
                self.owners = OwnerShapes(
                    self.prefix, self._owner, self.slot_types, of_classes=kind == "classmethod", encode=encoder
                )
        self.parameters: Mapping[str, Role] = MappingProxyType(roles)
        self._tags = None if tags is None else TagMaker(tags, roles)
        self.bind: Callable[..., tuple[Any, ...]] = compile_binder(self.signature, name=fn.__qualname__)
        self._compile = partial(
            compile_key, self.signature, pieces=pieces, namespace=space, name=fn.__qualname__, module=fn.__module__
        )
        self.compiled: Callable[..., str] = self._compile(self.prefix)

    def key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the key of a call.

        Raises:
            UnkeyableError: an argument can't be encoded; ``path`` begins with the parameter's name.
            TypeError: the function does not accept these arguments.
        """
        return self.compiled(*args, **kwargs)

    def compiled_with(self, prefix: str) -> Callable[..., str]:
        """The same as ``compiled``, for keys that begin with ``prefix`` and go on alike."""
        return self._compile(prefix)

    def address(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Slot | str:
        """Return where local memory keeps a call: its slot if it has one, else its key.

        Raises:
            UnkeyableError: an argument can't be encoded.
            TypeError: the function does not accept these arguments.
        """
        if self.slot_types is not None:
            values = self.bind(*args, **kwargs)
            keyed = tuple(values[index] for index in self._keyed)
            if self.shape is not None:
                slot = self.shape.slot(keyed)
            else:
                assert self.owners is not None
                slot = self.owners.slot(values[0], keyed)
            if slot is not None:
                return slot
        return self.compiled(*args, **kwargs)

    @property
    def has_tags(self) -> bool:
        """Whether there are any."""
        return self._tags is not None

    def tags(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tags of a call.

        Raises:
            UnkeyableError: one of them can't be made of these arguments.
            TypeError: the function does not accept these arguments.
        """
        if self._tags is None:
            return ()
        return self._tags.tags(dict(zip(self.parameters, self.bind(*args, **kwargs), strict=True)))

    def outlives_request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call can be made when the request it belongs to is over: nothing among its arguments, or that these
        hold, ends with it.

        What is left out of the key is taken for something that does, unless it is a plain value.

        Raises:
            TypeError: the function does not accept these arguments.
        """
        values = self.bind(*args, **kwargs)
        left_out = (value for role, value in zip(self.parameters.values(), values, strict=True) if role in _LEFT_OUT)
        return all(_is_plain(type(value)) for value in left_out) and outlive_request(values)

    def explain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str]:
        """Return, for each parameter, its text in the key of this call or the reason why it has none.

        What a ``key_builder`` made stands under ``"key_builder"``. What is secret is hashed, here as in the key.

        Raises:
            TypeError: the function does not accept these arguments.
        """
        values = dict(zip(self.parameters, self.bind(*args, **kwargs), strict=True))
        explained = {name: self._explain_one(name, role, values[name]) for name, role in self.parameters.items()}
        if self._key_builder is not None:
            part = text_or_reason(lambda _: self.compiled(*args, **kwargs)[len(self.prefix) :], None)
            explained["key_builder"] = part
        return explained

    @property
    def handles(self) -> tuple[str, ...]:
        """The parameters that are left out because they are annotated as sessions, clients or connections."""
        return self._with_role(Role.HANDLE)

    @property
    def not_keyed(self) -> tuple[str, ...]:
        """The parameters that are left out because they are annotated with ``NotKeyed``."""
        return self._with_role(Role.NOT_KEYED)

    @property
    def per_request(self) -> tuple[str, ...]:
        """The parameters that are left out because the framework makes them for each request."""
        return self._with_role(Role.PER_REQUEST)

    def _with_role(self, wanted: Role) -> tuple[str, ...]:
        return tuple(name for name, role in self.parameters.items() if role is wanted)

    def _roles(self, hints: Mapping[str, Any], hashed: Collection[str]) -> dict[str, Role]:
        unknown = sorted(set(hashed) - self.signature.parameters.keys())
        if unknown:
            raise ConfigurationError(f"hashed= names what is no parameter: {', '.join(unknown)}")
        roles: dict[str, Role] = {}
        for name, parameter in self.signature.parameters.items():
            role = role_of_parameter(parameter, hints.get(name))
            if name in hashed and role is not Role.NOT_KEYED:
                role = Role.HASHED
            if name == self._owner and role is not Role.NOT_KEYED:
                role = Role.KEYED  # an instance is never left out unasked, whatever it descends from
            roles[name] = role
        return roles

    def _slot_types(self, roles: dict[str, Role], hints: Mapping[str, Any]) -> dict[str, frozenset[type]] | None:
        """What may stand in a slot, if what is in the key is nothing but plain parameters and the owner."""
        keyed = [name for name, role in roles.items() if role in _IN_KEY and name != self._owner]
        if any(roles[name] is not Role.KEYED or stars(self.signature.parameters[name]) for name in keyed):
            return None
        return {name: FLAG if hints.get(name) is bool else RAW for name in keyed}

    def _argument_pieces(self, roles: dict[str, Role], hints: Mapping[str, Any], space: Namespace) -> list[Piece]:
        pieces: list[Piece] = []
        for name, role in roles.items():
            if role not in _IN_KEY:
                continue
            encoder = self._encoder(name, role)
            pieces.append(f"{',' if pieces else ''}{name}=")
            pieces.append(
                argument(name, encoder, hints.get(name), space) if role is Role.KEYED else call(encoder, name, space)
            )
        return pieces

    def _encoder(self, name: str, role: Role) -> Callable[[Any], str]:
        return parameter_encoder(name, role, is_owner=name == self._owner, handles_by_value=self._handles_by_value)

    def _explain_one(self, name: str, role: Role, value: object) -> str:
        if role not in _IN_KEY:
            return role.value
        if self.template is not None:
            mine = [field for field in self.template_fields if field.parameter == name]
            return ", ".join(f"{{{field.text}}} = {text_or_reason(field, value)}" for field in mine)
        text = text_or_reason(self._encoder(name, role), value)
        return reason_left_out(value) if text == LEFT_OUT else text


def _is_plain(cls: type) -> bool:
    return cls in LEAVES or cls in CONTAINERS or role_of_class(cls) is Role.HANDLE


def _signature(fn: Any) -> Signature:
    """Return the signature of what can be cached: a function, not something that is bound to more arguments."""
    if not callable(fn) or isinstance(fn, type) or not isinstance(getattr(fn, "__qualname__", None), str):
        raise InvalidTypeError(f"only a function can be cached, not {type(fn).__name__}: its name is part of the key")
    if inspect.ismethod(fn):
        raise InvalidTypeError(
            f"{fn.__qualname__} is bound already, so its keys would not tell instances apart: decorate it in the class"
        )
    try:
        return inspect.signature(fn)
    except ValueError:
        raise ConfigurationError(
            f"{fn.__qualname__} has no signature that can be read; wrap it in a function"
        ) from None


def _owner(signature: Signature, kind: Kind) -> str | None:
    """Return the name of the parameter that takes the instance or the class."""
    if kind not in get_args(Kind):
        raise ConfigurationError(f"kind={kind!r} is none of {', '.join(get_args(Kind))}")
    if kind in ("function", "staticmethod"):
        return None
    first = next(iter(signature.parameters.values()), None)
    if first is None or first.kind not in POSITIONAL:
        raise ConfigurationError(f"a {kind} needs a first parameter of its own for what it is bound to")
    return first.name


def _roles_in_template(roles: dict[str, Role], mentioned: Collection[str]) -> dict[str, Role]:
    """A template decides: what it mentions is in the key, what it does not mention is not."""
    decided: dict[str, Role] = {}
    for name, role in roles.items():
        if name in mentioned:
            decided[name] = Role.HASHED if role is Role.HASHED else Role.KEYED
        else:
            decided[name] = Role.OMITTED if role in _IN_KEY else role
    return decided


def _built(builder: Callable[..., Any]) -> Callable[..., str]:
    """The builder, its result encoded; what it raises is no error of the call."""

    def build(*args: Any, **kwargs: Any) -> str:
        try:
            result = builder(*args, **kwargs)
        except Exception as error:
            message = f"key_builder: {type(error).__name__} was raised; the call can't be cached"
            raise UnkeyableError(message, path="key_builder") from error
        return encode(result, "key_builder", advice="let it return text, numbers, or a tuple of what can be keyed")

    return build
