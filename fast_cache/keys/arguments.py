"""The encoder of one parameter: what its role makes of a value.

It is called for values that are not leaves (those are encoded without it), names the parameter in every error, and
recognises by its class a value that the annotation did not announce: a session in an unannotated parameter. A session
that was made of a visitor's identity has no encoding where nobody has made sure that the key covers that identity.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from fast_cache.errors import UnkeyableError
from fast_cache.keys.classes import importable, process_label
from fast_cache.keys.containers import CONTAINERS
from fast_cache.keys.encode import ADVICE, encode, encode_hashed
from fast_cache.keys.roles import Role, role_of_class
from fast_cache.keys.times import STANDARD_ZONES, encode_datetime

LEFT_OUT: Final = "-"
"""Stands in a key for a value that was left out because of its class. It is no encoding."""

_OWNER_ADVICE: Final = (
    "give the class a __cache_key__(), annotate {name}: Annotated[Self, NotKeyed] if the result does not depend on the "
    "instance, or pass key_builder="
)
_VISITORS_ADVICE: Final = (
    "a dependency makes it of who asks, which a call as a plain function has in no key; take what the result depends "
    "on as parameters of their own and annotate {name}: Annotated[..., NotKeyed], or pass key_builder="
)
_REQUEST_ADVICE: Final = (
    "take what the result depends on as parameters of their own, annotate it Annotated[Request, NotKeyed] if the "
    "result does not depend on who asks, or pass key_builder="
)


def parameter_encoder(name: str, role: Role, *, is_owner: bool, handles_by_value: bool) -> Callable[[Any], str]:
    """Return the function that encodes a value of the parameter ``name``.

    Args:
        name: the parameter, as errors call it.
        role: ``KEYED``, ``HASHED`` or ``REQUEST``: what is left out is never encoded.
        is_owner: whether it is the instance or class that a method is bound to.
        handles_by_value: whether a handle, or what the framework makes for a request, is left out or refused where
            the annotation did not announce it. ``False`` also says that handles made of identity were judged already.
    """
    if role is Role.HASHED:
        return lambda value: encode_hashed(value, name)
    if is_owner:
        advice = _OWNER_ADVICE.format(name=name)

        def encode_owner(value: Any) -> str:
            if isinstance(value, type) and not importable(value):
                return process_label(value)
            return encode(value, name, advice=advice)

        return encode_owner
    ignored: tuple[Role, ...] = (Role.HANDLE, Role.PER_REQUEST) if handles_by_value else ()
    if role is Role.REQUEST:
        ignored = () if handles_by_value else (Role.HANDLE,)

    def encode_argument(value: Any) -> str:
        cls = type(value)
        if cls is datetime and type(value.tzinfo) in STANDARD_ZONES:
            return encode_datetime(value)
        if cls in CONTAINERS:
            return encode(value, name)
        found = role_of_class(cls)
        if found in ignored:
            return LEFT_OUT
        if role is Role.REQUEST and found is Role.HANDLE:
            raise UnkeyableError(f"{name}: {_VISITORS_ADVICE.format(name=name)}", path=name)
        return encode(value, name, advice=_REQUEST_ADVICE if found is Role.REQUEST else ADVICE)

    return encode_argument


def reason_left_out(value: object) -> str:
    """Say why the encoder of a parameter gave :data:`LEFT_OUT` for a value."""
    return role_of_class(type(value)).value


def text_or_reason(encoder: Callable[[Any], str], value: object) -> str:
    """Return the encoding, or in words why there is none."""
    try:
        return encoder(value)
    except UnkeyableError as error:
        return f"unkeyable: {error}"
