"""Keys: a call becomes text that is the same for the same call, and for no other, in every process.

:class:`KeyMaker` is made once for each cached function; :func:`encode` is what it writes values with.
:class:`NotKeyed` marks a parameter that the result does not depend on, and :class:`Role` says what each parameter is
to the key. Relies on the standard library alone: other libraries' classes are recognised by name, never imported.
"""

from __future__ import annotations

from fast_cache.keys.binder import compile_binder
from fast_cache.keys.call_key import KeyMaker, Kind
from fast_cache.keys.closure import code_digest
from fast_cache.keys.encode import encode, encode_hashed
from fast_cache.keys.groups import CALL, GROUP, beginning, call_tag, group_of_namespace, groups_of_key
from fast_cache.keys.hints import resolve_hints
from fast_cache.keys.objects import CACHE_KEY
from fast_cache.keys.outliving import outlive_request
from fast_cache.keys.owners import OwnerShapes
from fast_cache.keys.prefix import prefixes_of
from fast_cache.keys.roles import NotKeyed, Role
from fast_cache.keys.slots import RAW, Slot, address_of, text_of
from fast_cache.keys.tags import MAX_TAGS, check_tags
from fast_cache.keys.twins import Twins

__all__ = [
    "CACHE_KEY",
    "CALL",
    "GROUP",
    "MAX_TAGS",
    "RAW",
    "KeyMaker",
    "Kind",
    "NotKeyed",
    "OwnerShapes",
    "Role",
    "Slot",
    "Twins",
    "address_of",
    "beginning",
    "call_tag",
    "check_tags",
    "code_digest",
    "compile_binder",
    "encode",
    "encode_hashed",
    "group_of_namespace",
    "groups_of_key",
    "outlive_request",
    "prefixes_of",
    "resolve_hints",
    "text_of",
]
