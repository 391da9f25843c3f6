"""Values in envelopes, and the way from an entry to the codec that wrote it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fast_cache.errors import DecodeError, EncodeError
from fast_cache.outcome import Raised
from fast_cache.serializers import (
    Codec,
    Limits,
    PickleSerializer,
    RaisingCodec,
    any_codec,
    codec_for,
    decode_stored,
    decoder_of,
    encode_stored,
    holds_value,
    register,
    unpack,
    unpack_stored,
)
from fast_cache.serializers.faithful import same
from tests.unit import serializers_samples as samples
from tests.unit.serializers_golden import COMPRESSED

ROOT = Path(__file__).resolve().parents[2]
TOKEN = bytes(range(16))


def test_a_value_comes_back_from_its_entry() -> None:
    codec = codec_for(list[samples.Item])
    value = [samples.Item(id=1, name="a", price=1.0)]
    stored = unpack_stored("key", encode_stored("key", value, codec, 60, TOKEN))
    assert stored.generation == TOKEN
    assert same(decode_stored(stored, codec), value)


@pytest.mark.parametrize(
    ("expire", "lifetime_ms"),
    [(None, 0), (60, 60_000), (0.25, 250), (0.0001, 1), (1.0001, 1001), (3e9, 3_000_000_000_000)],
)
def test_the_lifetime_is_written_in_milliseconds_and_never_becomes_none(expire: float | None, lifetime_ms: int) -> None:
    assert unpack("key", encode_stored("key", 1, any_codec(), expire)).lifetime_ms == lifetime_ms


def test_an_entry_without_a_generation_has_none() -> None:
    assert unpack_stored("key", encode_stored("key", 1, any_codec(), None)).generation is None


def test_an_entry_of_another_type_is_refused() -> None:
    data = encode_stored("key", 1, codec_for(int), 60)
    for other in (codec_for(str), any_codec(), codec_for(samples.Item)):
        with pytest.raises(DecodeError, match="codec"):
            decode_stored(unpack_stored("key", data), other)


def test_an_entry_of_another_key_is_refused() -> None:
    with pytest.raises(DecodeError):
        unpack_stored("other", encode_stored("key", 1, any_codec(), 60))


def test_whoever_knows_no_annotation_reads_with_the_codec_that_wrote() -> None:
    codec = codec_for(samples.Item)
    value = samples.Item(id=1, name="a", price=1.0)
    stored = unpack_stored("key", encode_stored("key", value, codec, 60))
    assert same(decode_stored(stored, None), value)
    del codec
    assert decoder_of(stored.codec) is None
    with pytest.raises(DecodeError):
        decode_stored(stored, None)


def test_what_can_not_be_stored_is_an_encode_error() -> None:
    with pytest.raises(EncodeError):
        encode_stored("key", samples.Custom(), any_codec(), 60)


def test_a_signed_entry_belongs_to_its_key() -> None:
    codec = PickleSerializer(secret=b"s" * 16)
    stored = unpack_stored("key", encode_stored("key", {1}, codec, 60))
    assert decode_stored(stored, codec) == {1}
    with pytest.raises(DecodeError):
        decode_stored(stored._replace(context=b"other"), codec)


@pytest.mark.parametrize(("algorithm", "key", "value", "data"), COMPRESSED, ids=[row[0] for row in COMPRESSED])
def test_the_layout_of_what_is_compressed_is_the_one_written_down(
    algorithm: str, key: str, value: Any, data: bytes
) -> None:
    stored = unpack_stored(key, data)
    assert stored.compressed
    assert decode_stored(stored, any_codec()) == value


PAGE = "kettle " * 1000
SIZE = len(any_codec().encode(PAGE))


@pytest.mark.parametrize(("above", "compressed"), [(None, False), (SIZE, False), (SIZE - 1, True), (1, True)])
def test_only_payloads_above_the_threshold_are_compressed(above: int | None, compressed: bool) -> None:
    data = encode_stored("key", PAGE, any_codec(), 60, TOKEN, limits=Limits(compress_above=above))
    assert unpack("key", data).compressed is compressed
    assert (len(data) < SIZE) is compressed
    stored = unpack_stored("key", data)
    assert stored.generation == TOKEN
    assert decode_stored(stored, any_codec()) == PAGE


def test_what_does_not_shrink_is_stored_as_it_is() -> None:
    noise = os.urandom(10_000)
    codec = PickleSerializer(secret=b"s" * 16)
    data = encode_stored("key", noise, codec, 60, limits=Limits(compress_above=1))
    assert not unpack("key", data).compressed
    assert decode_stored(unpack_stored("key", data), codec) == noise


def test_an_entry_has_the_size_that_is_allowed_or_is_refused_also_if_it_would_shrink() -> None:
    tags = {bytes([n]) * 8: TOKEN for n in range(3)}
    whole = len(encode_stored("key", PAGE, any_codec(), 60, TOKEN, tags=tags))
    for above in (None, 1):
        data = encode_stored("key", PAGE, any_codec(), 60, TOKEN, tags=tags, limits=Limits(whole, above))
        assert decode_stored(unpack_stored("key", data), any_codec(), Limits(whole)) == PAGE
        with pytest.raises(EncodeError, match=f"{whole} bytes; max_value_size"):
            encode_stored("key", PAGE, any_codec(), 60, TOKEN, tags=tags, limits=Limits(whole - 1, above))


def test_a_store_that_has_no_option_for_it_takes_entries_of_any_size() -> None:
    large = bytes(Limits().largest + 1)
    data = encode_stored("key", large, PickleSerializer(secret=b"s" * 16), 60)
    assert len(data) > Limits().largest
    assert not unpack("key", data).compressed


def test_an_entry_that_is_larger_than_allowed_when_it_is_decompressed_is_refused() -> None:
    stored = unpack_stored("key", encode_stored("key", PAGE, any_codec(), 60, limits=Limits(compress_above=1)))
    with pytest.raises(DecodeError, match="allowed"):
        decode_stored(stored, any_codec(), Limits(SIZE - 1))


def test_whether_a_compressed_entry_is_an_exception_is_seen() -> None:
    raising = RaisingCodec(any_codec(), [LookupError])
    register(raising)
    limits = Limits(compress_above=1)
    error, value = (
        unpack_stored("key", encode_stored("key", given, raising, 60, limits=limits))
        for given in (Raised(LookupError(PAGE)), PAGE)
    )
    assert error.compressed
    assert value.compressed
    assert (holds_value(error), holds_value(value)) == (False, True)
    assert not holds_value(value._replace(payload=value.payload[:-1]))
    assert not holds_value(value, any_codec())


class Obstinate(Codec):
    """Raises whatever it was made with, where a codec may raise nothing but two errors."""

    def __init__(self, result: Any) -> None:
        super().__init__("obstinate")
        self.result = result

    def encode(self, value: Any, context: bytes = b"") -> bytes:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result  # type: ignore[no-any-return]

    def decode(self, payload: bytes, context: bytes = b"") -> Any:
        raise self.result


@pytest.mark.parametrize("error", [RuntimeError("hunter2"), KeyError("hunter2"), RecursionError("hunter2")])
def test_whatever_a_codec_raises_is_one_of_our_errors_that_quotes_nothing(error: Exception) -> None:
    codec = Obstinate(error)
    with pytest.raises(EncodeError, match=type(error).__name__) as encoding:
        encode_stored("key", 1, codec, 60)
    data = encode_stored("key", 1, any_codec(), 60)
    with pytest.raises(DecodeError, match=type(error).__name__) as decoding:
        decode_stored(unpack_stored("key", data)._replace(codec=codec.fingerprint), codec)
    assert "hunter2" not in f"{encoding.value}{decoding.value}"


@pytest.mark.parametrize("made", [None, "text", bytearray(b"bytes"), 5])
def test_a_codec_that_makes_no_bytes_is_refused(made: Any) -> None:
    with pytest.raises(EncodeError, match=f"{type(made).__name__} of it, not bytes"):
        encode_stored("key", 1, Obstinate(made), 60)


def test_of_one_name_the_latest_codec_is_found() -> None:
    class Upper(Codec):
        def encode(self, value: Any, context: bytes = b"") -> bytes:
            return str(value).upper().encode()

        def decode(self, payload: bytes, context: bytes = b"") -> Any:
            return payload.decode()

    first, second = Upper("upper"), Upper("upper")
    register(first)
    register(second)
    assert decoder_of(first.fingerprint) is second
    assert decode_stored(unpack_stored("key", encode_stored("key", "a", first, None)), None) == "A"
    assert repr(first) == "<Upper 'upper'>"


SCRIPT = """
import sys
from fast_cache.serializers import codec_for, decode_stored, encode_stored, unpack_stored
from tests.unit import serializers_samples as samples
codec, tagged = codec_for(list[samples.Item]), codec_for(dict[str, samples.Secretive])
if sys.argv[1] == "write":
    item = samples.Item(id=1, name="a", price=1.5)
    secret = samples.Secretive(password="hush")
    for value, codec in (([item], codec), ({"a": secret}, tagged)):
        print(encode_stored("key", value, codec, 60).hex())
else:
    items, secrets = (decode_stored(unpack_stored("key", bytes.fromhex(data)), None) for data in sys.argv[2:])
    assert items == [samples.Item(id=1, name="a", price=1.5)] and "price" in items[0].model_fields_set
    assert secrets["a"].password.get_secret_value() == "hush"
"""


def run(*arguments: str, seed: str) -> str:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *arguments]
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_one_process_stores_another_reads() -> None:
    run("read", *run("write", seed="1").split(), seed="2")


WITHOUT_MSGSPEC = """
import sys
sys.modules["msgspec"] = None
from dataclasses import dataclass
from pydantic import BaseModel
from fast_cache.serializers import codec_for
class Model(BaseModel):
    id: int
@dataclass
class Data:
    id: int
for annotation, value in ((Model, Model(id=1)), (list[Data], [Data(1)]), (None, (1, Model(id=2)))):
    codec = codec_for(annotation)
    assert codec.decode(codec.encode(value)) == value
"""


def test_the_serializers_work_without_msgspec() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_MSGSPEC]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
