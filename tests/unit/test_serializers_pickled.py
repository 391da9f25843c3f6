"""Signed pickles: nothing is unpickled that was not signed, for this key, with one of the secrets."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_cache.errors import ConfigurationError, DecodeError, EncodeError, InvalidTypeError
from fast_cache.serializers import PickleSerializer
from tests.unit import serializers_samples as samples
from tests.unit.serializers_golden import PICKLED

OLD, NEW = b"an old secret of 24 byte", "a new secret, as text"
CODEC = PickleSerializer(secret=NEW)

unpickled: list[str] = []


def spring(text: str) -> None:
    unpickled.append(text)


class Trap:
    """Tells when it is unpickled."""

    def __reduce__(self) -> Any:
        return (spring, ("sprung",))


@pytest.mark.parametrize("algorithm", ["blake2b", "hmac-sha256"])
def test_whatever_pickle_takes_comes_back(algorithm: Any) -> None:
    codec = PickleSerializer(secret=NEW, algorithm=algorithm)
    for value in (None, {1: (2, b"3")}, samples.MyStr("a"), samples.MyDict(a=1), range(3), samples.Plain):
        back = codec.decode(codec.encode(value, b"key"), b"key")
        assert back == value
        assert type(back) is type(value)


def test_every_changed_byte_is_found_before_anything_is_unpickled() -> None:
    payload = CODEC.encode(Trap(), b"key")
    unpickled.clear()
    for index in range(len(payload)):
        for change in (1, 128, 255):
            forged = bytearray(payload)
            forged[index] ^= change
            with pytest.raises(DecodeError):
                CODEC.decode(bytes(forged), b"key")
    for length in range(len(payload)):
        with pytest.raises(DecodeError):
            CODEC.decode(payload[:length], b"key")
    assert unpickled == []
    CODEC.decode(payload, b"key")
    assert unpickled == ["sprung"]


@given(payload=st.binary(max_size=200))
def test_rubbish_is_a_decode_error(payload: bytes) -> None:
    for rubbish in (payload, b"\x01" + payload, b"\x01" + bytes(32) + pickle.dumps(payload)):
        with pytest.raises(DecodeError):
            CODEC.decode(rubbish)


def test_an_entry_of_another_key_is_refused() -> None:
    payload = CODEC.encode(1, b"key")
    for other in (b"", b"ke", b"keys", b"other"):
        with pytest.raises(DecodeError, match="signature"):
            CODEC.decode(payload, other)


def test_the_context_can_not_borrow_from_the_pickle() -> None:
    signature_of = CODEC._signature
    key = CODEC._keys[0]
    assert signature_of(key, b"bc", b"a") != signature_of(key, b"c", b"ab")


def test_secrets_can_be_exchanged_one_by_one() -> None:
    old, both, new = PickleSerializer(secret=OLD), PickleSerializer(secret=[NEW, OLD]), PickleSerializer(secret=NEW)
    assert both.decode(old.encode(1)) == 1
    assert new.decode(both.encode(1)) == 1
    with pytest.raises(DecodeError):
        old.decode(both.encode(1))
    with pytest.raises(DecodeError):
        new.decode(old.encode(1))


def test_another_algorithm_is_another_signature_and_another_codec() -> None:
    other = PickleSerializer(secret=NEW, algorithm="hmac-sha256")
    assert other.fingerprint != CODEC.fingerprint
    with pytest.raises(DecodeError):
        other.decode(CODEC.encode(1))


def test_the_algorithm_is_part_of_what_is_signed() -> None:
    other = PickleSerializer(secret=NEW)
    other._algorithm = b"blake2s"
    with pytest.raises(DecodeError):
        other.decode(CODEC.encode(1))


@pytest.mark.parametrize(("value", "secret", "algorithm", "context", "payload"), PICKLED)
def test_the_format_is_the_one_written_down(
    value: Any, secret: bytes, algorithm: Any, context: bytes, payload: bytes
) -> None:
    codec = PickleSerializer(secret=secret, algorithm=algorithm)
    assert codec.decode(payload, context) == value
    assert codec.encode(value, context)[:1] == payload[:1]


@pytest.mark.parametrize("secret", [b"", "short", b"fifteen bytes!!", [], [NEW, "short"], ""])
def test_missing_and_short_secrets_are_refused(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="16"):
        PickleSerializer(secret=secret)


@pytest.mark.parametrize("secret", [5, None, [5], [NEW, None], bytearray(16)])
def test_secrets_of_another_type_are_refused(secret: Any) -> None:
    with pytest.raises(InvalidTypeError):
        PickleSerializer(secret=secret)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="hmac-sha256"):
        PickleSerializer(secret=NEW, algorithm="md5")  # type: ignore[arg-type]


def test_no_secret_is_ever_shown() -> None:
    codec = PickleSerializer(secret=[NEW, OLD])
    shown = repr(codec) + str(codec) + codec.name + repr(vars(codec))
    assert NEW not in shown
    assert OLD.decode() not in shown
    with pytest.raises(ConfigurationError) as caught:
        PickleSerializer(secret="hunter2")
    assert "hunter2" not in str(caught.value)


def test_what_pickle_refuses_is_an_encode_error_that_does_not_quote_it() -> None:
    class Local:
        def __reduce__(self) -> Any:
            raise RuntimeError("hunter2")

    for value in (Local(), lambda: 1, [open(__file__)]):  # noqa: SIM115
        with pytest.raises(EncodeError) as caught:
            CODEC.encode(value)
        assert "hunter2" not in str(caught.value)
        if isinstance(value, list):
            value[0].close()


def test_a_signed_pickle_that_can_not_be_read_is_a_decode_error() -> None:
    body = b"\x80\x05cno_such_module\nThing\n."
    payload = b"\x01" + CODEC._signature(CODEC._keys[0], body, b"") + body
    with pytest.raises(DecodeError, match="ModuleNotFoundError"):
        CODEC.decode(payload)
