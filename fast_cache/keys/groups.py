"""Groups: what is invalidated as a whole, whatever the arguments: all results of a function, or of a namespace.

To a store a group is a tag that every entry of it has. Its name is how the keys begin, behind a sign with which no tag
of a user's begins; so local memory, where the entries of a function lie together, finds them by it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from fast_cache.keys.prefix import escape_namespace, prefixes_of

GROUP: Final = "\0"
"""What the name of a group begins with, and that of a tag does not."""


def group_of_namespace(namespace: str) -> str:
    """The group of all functions that are decorated with this namespace.

    Raises:
        ConfigurationError: what no namespace can be.
        InvalidTypeError: it is not text.
    """
    return f"{GROUP}{escape_namespace(namespace)}"


def groups_of(prefix: str) -> tuple[str, ...]:
    """Those of the function whose keys begin with ``prefix``: its own, whatever its version, and its namespace's."""
    namespace, name, _, _ = ("", *prefix.split(":"))[-4:]
    own = f"{GROUP}{namespace}:{name}:" if namespace else f"{GROUP}{name}:"
    return (own, f"{GROUP}{namespace}:") if namespace else (own,)


def groups_of_key(key: str) -> tuple[str, ...]:
    """The groups of a text key, if it is one that a function may have: by what it begins with."""
    for prefix in prefixes_of(key):
        name, _, version = prefix[:-1].rpartition(":")
        if name and version and "." in name.rpartition(":")[2] and "." not in version:
            return groups_of(prefix)
    return ()


def beginning(group: str) -> str:
    """How the keys of a group begin."""
    return group.removeprefix(GROUP)


CALL: Final = "\1"
"""What the tag of a call begins with, and that of a user's does not."""


def call_tag(key: str) -> str:
    """The tag of all pages that show what a function returned for the arguments of ``key``.

    They lie under keys of their own, for each route and whatever they vary on; this is what they have in common.
    """
    return CALL + blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
