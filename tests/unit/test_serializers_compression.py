"""Compression: what was compressed comes back, and whatever else comes in its place costs no more than is allowed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fast_cache.errors import DecodeError
from fast_cache.serializers import compression
from fast_cache.serializers.compression import compress, decompress

ROOT = Path(__file__).resolve().parents[2]
TEXT = b'{"id":1,"name":"Kettle","tags":["steel","kitchen"]}' * 100
ZLIB, ZSTD = b"\x01", b"\x02"
MIB = 2**20
GIB = 2**30


def head(algorithm: bytes, size: int) -> bytes:
    return algorithm + size.to_bytes(8, "big")


def of_zlib(payload: bytes) -> bytes:
    return head(ZLIB, len(payload)) + zlib.compress(payload)


def of_zstd(payload: bytes) -> bytes:
    return head(ZSTD, len(payload)) + zstandard.ZstdCompressor().compress(payload)


def zeros_of_zlib(size: int) -> bytes:
    """A stream of so many MiB of zeros, but for its checksum: one block many times."""
    compressor = zlib.compressobj(9)
    blocks = [compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    return blocks[0] + blocks[1] * (size // MIB - 1)


def zeros_of_zstd(size: int) -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj(size=size)
    chunk = bytes(MIB)
    return b"".join([*(compressor.compress(chunk) for _ in range(size // MIB)), compressor.flush()])


WAYS = pytest.mark.parametrize("compressed", [of_zlib, of_zstd])


@pytest.mark.parametrize("algorithm", [ZLIB, ZSTD])
@given(payload=st.binary(max_size=2000), repeated=st.integers(1, 300))
def test_what_was_compressed_comes_back(algorithm: bytes, payload: bytes, repeated: int) -> None:
    payload *= repeated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "_zstandard", lambda: zstandard if algorithm == ZSTD else None)
        data = compress(payload)
    if data is None:
        assert repeated < 300 or len(payload) < 1000, "this shrinks, whatever it is"
    else:
        assert data[:1] == algorithm
        assert len(data) <= len(payload) * 7 / 8
        assert decompress(data, len(payload)) == payload


@WAYS
@pytest.mark.parametrize("size", [1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 3 * MIB])
def test_streams_of_every_length_are_read(compressed: Callable[[bytes], bytes], size: int) -> None:
    for payload in (bytes(size), random.Random(size).randbytes(size)):
        assert decompress(compressed(payload), size) == payload


def test_what_does_not_shrink_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = os.urandom(10_000)
    assert compress(noise) is None
    monkeypatch.setattr(compression, "_zstandard", lambda: None)
    assert compress(noise) is None
    assert compress(zlib.compress(Path(__file__).read_bytes())) is None


@WAYS
def test_a_torn_stream_is_refused_wherever_it_was_torn(compressed: Callable[[bytes], bytes]) -> None:
    data = compressed(TEXT)
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            decompress(data[:length], MIB)


@WAYS
def test_whatever_follows_the_stream_is_refused(compressed: Callable[[bytes], bytes]) -> None:
    data = compressed(TEXT)
    for more in (b"\0", data, data[9:], bytes(100_000)):
        with pytest.raises(DecodeError):
            decompress(data + more, 10 * MIB)


@WAYS
@pytest.mark.parametrize("wrong", [-1, 1, -len(TEXT), MIB])
def test_another_size_than_the_payload_says_is_refused(compressed: Callable[[bytes], bytes], wrong: int) -> None:
    data = compressed(TEXT)
    with pytest.raises(DecodeError):
        decompress(head(data[:1], len(TEXT) + wrong) + data[9:], 2 * MIB)


def test_a_stream_of_nothing_is_refused() -> None:
    for data in (of_zlib(b""), of_zstd(b""), head(ZSTD, 0) + b"\x50\x2a\x4d\x18\0\0\0\0"):
        with pytest.raises(DecodeError, match="nothing"):
            decompress(data, MIB)


def test_a_frame_that_does_not_say_its_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    with pytest.raises(DecodeError, match="size"):
        decompress(head(ZSTD, len(TEXT)) + frame, MIB)


def test_a_frame_that_holds_less_than_both_say_is_refused() -> None:
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(100_000)))
    at = frame.index((100_000).to_bytes(4, "little"))
    frame[at : at + 4] = (200_000).to_bytes(4, "little")
    with pytest.raises(DecodeError):
        decompress(head(ZSTD, 200_000) + bytes(frame), MIB)


@WAYS
def test_a_changed_byte_is_refused_or_makes_no_more_than_was_said(compressed: Callable[[bytes], bytes]) -> None:
    data = compressed(TEXT)
    for index in range(len(data)):
        for change in (1, 64, 255):
            changed = bytearray(data)
            changed[index] ^= change
            try:
                assert len(decompress(bytes(changed), MIB)) == len(TEXT)  # the envelope has a checksum
            except DecodeError:
                continue


@given(rubbish=st.binary(max_size=200), size=st.integers(0, 2**64 - 1))
def test_rubbish_is_a_decode_error(rubbish: bytes, size: int) -> None:
    for data in (rubbish, head(b"\x07", 3) + rubbish, head(ZLIB, size + 1 & 0xFFFF) + rubbish):
        with pytest.raises(DecodeError):
            decompress(data, MIB)
    with pytest.raises(DecodeError):
        decompress(head(ZSTD, (size & 0xFFFF) + 1) + rubbish, MIB)


@WAYS
def test_exactly_as_much_as_is_allowed_is_read_and_one_byte_more_is_not(compressed: Callable[[bytes], bytes]) -> None:
    data = compressed(TEXT)
    assert decompress(data, len(TEXT)) == TEXT
    with pytest.raises(DecodeError, match="allowed"):
        decompress(data, len(TEXT) - 1)


ALLOWED = 8 * MIB


def peak_of(data: bytes) -> int:
    """How much memory was taken at most while a bomb was refused, in bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decompress(data, ALLOWED)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claimed", [0, 1000, ALLOWED, GIB])
def test_a_bomb_of_a_gibibyte_takes_no_more_memory_than_a_value_may(claimed: int) -> None:
    zeros = zeros_of_zstd(GIB)
    lying = zeros.replace(GIB.to_bytes(4, "little"), claimed.to_bytes(4, "little"), 1)
    for bomb in (head(ZLIB, claimed) + zeros_of_zlib(GIB), head(ZSTD, claimed) + zeros, head(ZSTD, claimed) + lying):
        assert len(bomb) < 2 * MIB
        assert peak_of(bomb) < min(claimed, ALLOWED) + MIB // 2


def test_a_zstandard_that_is_too_old_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    find = compression._zstandard.__wrapped__  # as if for the first time
    assert find() is zstandard
    monkeypatch.setattr(zstandard, "__version__", "0.21.0")
    assert find() is None
    monkeypatch.setattr(zstandard, "__version__", "0.22.0.dev1")
    assert find() is zstandard


WITHOUT = """
import sys
sys.modules["zstandard"] = None
from fast_cache.errors import DecodeError
from fast_cache.serializers.compression import compress, decompress
data = bytes.fromhex(sys.argv[1])
try:
    decompress(data, 10**6)
except DecodeError as error:
    assert "zstandard" in str(error)
else:
    raise AssertionError("it was read")
print(compress(b"kettle " * 1000).hex())
"""


def test_without_zstandard_it_compresses_by_zlib_and_can_not_read_what_zstandard_wrote() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT, of_zstd(TEXT).hex()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert decompress(bytes.fromhex(done.stdout), 7000) == b"kettle " * 1000
