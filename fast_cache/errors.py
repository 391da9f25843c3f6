"""Every error this package raises, and when.

    FastCacheError
    ├── ConfigurationError (ValueError)      an option, URL or decoration that can't work; raised at once
    │   └── InvalidTypeError (TypeError)     the same, where the type is what is wrong
    ├── NotInitialisedError (RuntimeError)   the cache was asked for its backend before init_app
    ├── UnkeyableError (TypeError)           an argument that can't become part of a key
    ├── EncodeError                          a value that can't be stored faithfully
    ├── DecodeError                          bytes that are not what they claim to be (read as a miss)
    ├── CounterError (ValueError)            a value that is no counter, or a counter beyond 64 bits
    ├── LoadTimeout (TimeoutError)           a cached function took longer than its hard_timeout
    ├── LockTimeout (TimeoutError)           a lock could not be had in the time that its caller would wait
    ├── LockLost                             a lock ended before its holder was done with it
    ├── NotSupportedError (NotImplementedError)  what a backend can't know; the message names the method to define
    └── BackendError                         a store failed; the driver's own error is its cause
        └── BackendUnavailable               it can't be reached, or did not answer in time

Messages say what was wrong and what to do. They never contain a cached value or a password.
"""

from __future__ import annotations


class FastCacheError(Exception):
    """The root: catch this to catch everything the package raises on its own account."""


class ConfigurationError(FastCacheError, ValueError):
    """An option, a URL or a decoration that can't work. Raised where it is written, not where it is used."""


class InvalidTypeError(ConfigurationError, TypeError):
    """A :class:`ConfigurationError` where the type of what was given is the trouble."""


class NotInitialisedError(FastCacheError, RuntimeError):
    """The cache has no backend yet: ``cache.init_app(app)`` has not run."""


class UnkeyableError(FastCacheError, TypeError):
    """A value that can't be encoded into a key, at ``path`` inside the arguments."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class EncodeError(FastCacheError):
    """A value that no serialiser can store so that the same value comes back."""


class DecodeError(FastCacheError):
    """Bytes that are torn, foreign, forged or of another version. Callers of the cache see a miss."""


class LoadTimeout(FastCacheError, TimeoutError):
    """A cached function took longer than its ``hard_timeout``. It goes on, and its result is stored."""


class CounterError(FastCacheError, ValueError):
    """A value that ``incr`` can't add to, because it is no ``int``, or a sum that does not fit into 64 bits."""


class LockTimeout(FastCacheError, TimeoutError):
    """A lock was held by others for as long as its caller would wait."""


class LockLost(FastCacheError):
    """A lock is its holder's no longer: it was not extended in time, and another may have it by now."""


class NotSupportedError(FastCacheError, NotImplementedError):
    """A backend can't know the answer. The message names the method by which it could."""


class BackendError(FastCacheError):
    """A store failed. The driver's own exception is the ``__cause__``.

    ``setting`` names the option that is to blame, where one is; the message then begins with it and says why.
    """

    def __init__(self, message: str, *, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting


class BackendUnavailable(BackendError):
    """A store can't be reached, or did not answer within its timeout."""
