"""The envelope: what is written comes back, and whatever is not exactly that is a DecodeError."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_cache.errors import DecodeError, EncodeError
from fast_cache.serializers import Envelope, name_digest, pack, unpack
from tests.unit.serializers_golden import ENVELOPES

MILLISECONDS = st.integers(0, 2**64 - 1)
GENERATIONS = st.lists(st.tuples(st.binary(min_size=8, max_size=8), st.binary(min_size=16, max_size=16)), max_size=5)
ENVELOPED = st.builds(
    Envelope,
    payload=st.binary(max_size=200),
    codec=st.binary(min_size=8, max_size=8),
    lifetime_ms=MILLISECONDS,
    stale_ms=MILLISECONDS,
    load_ms=st.integers(0, 2**32 - 1),
    generations=GENERATIONS.map(tuple),
    compressed=st.booleans(),
)
SAMPLE = Envelope(b"payload", b"c" * 8, 60_000, 1_000, 12, ((name_digest("tag"), b"t" * 16),))
PACKED = pack("key", SAMPLE)


def checksummed(body: bytes) -> bytes:
    """Bytes that somebody made who knows the layout."""
    return body + zlib.crc32(body).to_bytes(4, "big")


@given(key=st.text(st.characters(codec=None)), envelope=ENVELOPED)
def test_what_is_packed_comes_back(key: str, envelope: Envelope) -> None:
    assert unpack(key, pack(key, envelope)) == envelope


@pytest.mark.parametrize(("key", "envelope", "data"), ENVELOPES, ids=[key for key, _, _ in ENVELOPES])
def test_the_layout_is_the_one_written_down(key: str, envelope: Envelope, data: bytes) -> None:
    assert pack(key, envelope) == data
    assert unpack(key, data) == envelope


def test_every_changed_byte_is_found() -> None:
    for index in range(len(PACKED)):
        for change in range(1, 256):
            changed = bytearray(PACKED)
            changed[index] ^= change
            with pytest.raises(DecodeError):
                unpack("key", bytes(changed))


def test_every_truncation_is_found() -> None:
    for length in range(len(PACKED)):
        with pytest.raises(DecodeError):
            unpack("key", PACKED[:length])


def test_whatever_is_appended_is_found() -> None:
    for more in (b"\0", b"FC", PACKED):
        with pytest.raises(DecodeError):
            unpack("key", PACKED + more)


@given(data=st.binary(max_size=300))
def test_rubbish_is_a_decode_error(data: bytes) -> None:
    for rubbish in (data, b"FC\x01\x00" + data, checksummed(b"FC\x01\x00" + data)):
        with pytest.raises(DecodeError):
            unpack("key", rubbish)


@given(other=st.text().filter(lambda key: key != "key"))
def test_an_entry_of_another_key_is_refused(other: str) -> None:
    with pytest.raises(DecodeError, match="another key"):
        unpack(other, PACKED)


@pytest.mark.parametrize("layout", [0, 2, 255])
def test_another_layout_is_refused_though_its_checksum_is_right(layout: int) -> None:
    body = bytearray(PACKED[:-4])
    body[2] = layout
    with pytest.raises(DecodeError, match=f"layout {layout}"):
        unpack("key", checksummed(bytes(body)))


@pytest.mark.parametrize("flags", [flags for flags in range(256) if flags not in (0, 1)])
def test_every_flag_but_that_of_compression_is_refused_though_its_checksum_is_right(flags: int) -> None:
    body = bytearray(PACKED[:-4])
    body[3] = flags
    with pytest.raises(DecodeError, match="flags"):
        unpack("key", checksummed(bytes(body)))


def test_generations_that_reach_beyond_the_end_are_refused() -> None:
    body = bytearray(pack("key", SAMPLE._replace(payload=b""))[:-4])
    body[48] = 2
    with pytest.raises(DecodeError, match="generations"):
        unpack("key", checksummed(bytes(body)))


def test_generations_are_told_from_the_payload_that_follows() -> None:
    many = tuple((name_digest(str(n)), bytes([n]) * 16) for n in range(255))
    assert unpack("key", pack("key", SAMPLE._replace(generations=many))).generations == many


def test_more_than_255_generations_are_refused() -> None:
    with pytest.raises(EncodeError, match="255"):
        pack("key", SAMPLE._replace(generations=((b"n" * 8, b"t" * 16),) * 256))


@pytest.mark.parametrize(
    "wrong",
    [
        {"codec": b"short"},
        {"generations": ((b"n" * 7, b"t" * 16),)},
        {"generations": ((b"n" * 8, b"t" * 15),)},
        {"lifetime_ms": -1},
        {"lifetime_ms": 2**64},
        {"stale_ms": 1.5},
        {"load_ms": -1},
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(EncodeError):
        pack("key", SAMPLE._replace(**wrong))  # type: ignore[arg-type]


def test_a_load_of_months_is_written_as_the_longest_that_fits() -> None:
    assert unpack("key", pack("key", SAMPLE._replace(load_ms=2**40))).load_ms == 2**32 - 1
