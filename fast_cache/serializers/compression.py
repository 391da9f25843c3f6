"""Payloads made smaller, and back without trusting a word of theirs.

Zstandard is used where the package ``zstandard`` (the extra ``zstd``) is installed, and zlib elsewhere: at the same
size the first is several times faster both ways, and the second is everywhere. Both are read wherever they can be, so
processes with and without the package may share a store; what one of them can't read is a miss to it.

The layout of a compressed payload is described with that of the envelope.

Reading never makes more than the payload says, and a payload that says more than the reader takes is refused before
anything is allocated: a bomb costs no more than the largest value does.
"""

from __future__ import annotations

import threading
import zlib
from functools import cache
from io import BytesIO
from struct import Struct
from typing import Any, Final

from fast_cache.errors import DecodeError

_HEAD: Final = Struct(">BQ")
_ZLIB: Final = 1
_ZSTD: Final = 2

# JSON of 16 KiB (µs to compress, µs to decompress, part of the size): zlib 1 57, 25, 0.33; zlib 6 166, 23, 0.29;
# Zstandard 1 34, 14, 0.30; Zstandard 3 42, 14, 0.29. More of it in tests/benchmarks/NOTES.md.
_ZLIB_LEVEL: Final = 1
_ZSTD_LEVEL: Final = 3

_WORTH: Final = 7 / 8
"""What is not smaller than this part of it is stored as it is: images, archives, ciphertext."""

_OLDEST: Final = (0, 22)
"""The first version of ``zstandard`` that is used; others may be there for the sake of other packages."""

_PIECE: Final = 64 * 1024
"""How much of a stream is taken in or given out at once, in bytes."""

_contexts = threading.local()


def compress(payload: bytes) -> bytes | None:
    """Return ``payload`` compressed; ``None`` if that would save less than an eighth of it."""
    zstandard = _zstandard()
    if zstandard is None:
        head, stream = _HEAD.pack(_ZLIB, len(payload)), zlib.compress(payload, _ZLIB_LEVEL)
    else:
        # A compressor made anew takes 10 µs; one kept for each thread would keep a megabyte for each.
        head, stream = _HEAD.pack(_ZSTD, len(payload)), zstandard.ZstdCompressor(_ZSTD_LEVEL).compress(payload)
    return head + stream if len(head) + len(stream) <= len(payload) * _WORTH else None


def decompress(data: bytes, largest: int) -> bytes:
    """Return what was compressed, of ``largest`` bytes at most.

    Raises:
        DecodeError: it is larger, or of another size than it says; torn, followed by something else, or no stream at
            all; an algorithm that this process does not have.
    """
    if len(data) < _HEAD.size:
        raise DecodeError("the compressed payload ends before its head does")
    algorithm, size = _HEAD.unpack_from(data)
    if not size:
        raise DecodeError("the compressed payload claims to hold nothing, which nobody compresses")
    if size > largest:
        raise DecodeError(f"the compressed payload claims to hold {size} bytes; {largest} are allowed")
    stream = memoryview(data)[_HEAD.size :]
    if algorithm == _ZLIB:
        return _inflated(stream, size)
    if algorithm == _ZSTD:
        return _of_frame(stream, size)
    raise DecodeError(f"the payload is compressed by algorithm {algorithm}, which is unknown here")


def _inflated(stream: memoryview, size: int) -> bytes:
    inflater = zlib.decompressobj()
    made = BytesIO()
    made.seek(size - 1)  # made as large as it is to be, and filled in place: growing would take more than that
    made.write(b"\0")
    made.seek(0)
    left = size
    try:
        for start in range(0, len(stream), _PIECE):
            if inflater.eof:  # it would keep all that follows, and copy it for each piece
                raise DecodeError("something follows the compressed payload")
            piece: bytes | memoryview = stream[start : start + _PIECE]
            while piece:
                chunk = inflater.decompress(piece, _PIECE)
                left -= len(chunk)
                if left < 0:
                    raise DecodeError("the compressed payload holds more than it says")
                made.write(chunk)
                piece = inflater.unconsumed_tail
    except zlib.error:
        raise DecodeError("the payload is no stream of zlib") from None
    if left or not inflater.eof or inflater.unused_data:
        raise DecodeError("the compressed payload is torn, or followed by something else")
    return made.getvalue()


def _of_frame(stream: memoryview, size: int) -> bytes:
    zstandard = _zstandard()
    if zstandard is None:
        raise DecodeError("the payload is compressed by Zstandard, and the package zstandard is not installed here")
    try:
        # What is allocated is what the frame's own header says.
        if zstandard.get_frame_parameters(stream).content_size != size:
            raise DecodeError("the frame of Zstandard does not say the size that the payload says")
        decompressor = getattr(_contexts, "decompressor", None)
        if decompressor is None:
            decompressor = _contexts.decompressor = zstandard.ZstdDecompressor()
        made: bytes = decompressor.decompress(stream, allow_extra_data=False)
    except zstandard.ZstdError:
        raise DecodeError("the payload is no frame of Zstandard, or torn, or followed by something else") from None
    return made


@cache
def _zstandard() -> Any:
    """The package, or ``None``: looked for once, when there is something to compress or decompress."""
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard if tuple(map(int, zstandard.__version__.split(".")[:2])) >= _OLDEST else None
