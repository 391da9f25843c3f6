"""Serializers of users' own: what they are called, and what is refused in their place."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from fast_cache import Cache, PickleSerializer, RedisBackend, Serializer
from fast_cache.errors import ConfigurationError, DecodeError, InvalidTypeError
from fast_cache.outcome import Raised
from fast_cache.serializers import RaisingCodec, codec_for

Prices = dict[str, float]


class JSONPrices(Serializer[Prices]):
    def dumps(self, value: Prices) -> bytes:
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> Prices:
        return cast(Prices, json.loads(data))


class Bound(JSONPrices):
    """What encryption does: bytes that can be read under their own key only."""

    def encode(self, value: Prices, context: bytes = b"") -> bytes:
        return context + super().encode(value)

    def decode(self, payload: bytes, context: bytes = b"") -> Prices:
        return super().decode(payload.removeprefix(context))


class Forgetful(JSONPrices):
    def __init__(self) -> None:  # without super().__init__()
        self.indent = 2


def test_a_serializer_goes_by_the_name_of_its_class_or_by_one_that_it_is_given() -> None:
    assert JSONPrices().name == f"{__name__}.JSONPrices"
    assert JSONPrices().fingerprint == JSONPrices().fingerprint
    assert JSONPrices("prices 2").name == "prices 2"
    assert len({codec.fingerprint for codec in (JSONPrices(), JSONPrices("prices 2"), Bound())}) == 3


def test_a_value_comes_back_and_the_key_is_there_for_those_who_bind_it() -> None:
    prices = {"kettle": 34.9}
    assert JSONPrices().decode(JSONPrices().encode(prices, b"key"), b"key") == prices
    assert Bound().encode(prices, b"key") == b'key{"kettle": 34.9}'
    assert Bound().decode(Bound().encode(prices, b"key"), b"key") == prices


def test_a_pickle_serializer_dumps_and_loads_what_it_has_signed() -> None:
    codec = PickleSerializer(secret=b"s" * 16)
    assert codec.loads(codec.dumps({1, 2})) == {1, 2}
    with pytest.raises(DecodeError, match="signature"):
        codec.loads(codec.encode({1, 2}, b"key"))


WRONG = pytest.mark.parametrize(
    "wrong", [JSONPrices, json, "pickle", 5, True, lambda value: b""], ids=lambda wrong: type(wrong).__name__
)


@WRONG
def test_what_is_no_serializer_is_refused_where_it_is_written(wrong: Any) -> None:
    cache = Cache()
    with pytest.raises(InvalidTypeError, match="Serializer"):
        RedisBackend(serializer=wrong)
    with pytest.raises(InvalidTypeError, match="Serializer"):
        cache.cached(serializer=wrong)
    with pytest.raises(InvalidTypeError, match="Serializer"):
        cache.get_or_set("key", lambda: 1, serializer=wrong)


def test_a_serializer_whose_constructor_forgets_its_base_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match=r"Forgetful must call super\(\).__init__"):
        RedisBackend(serializer=Forgetful())


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_threshold_below_one_byte_is_refused(wrong: int) -> None:
    with pytest.raises(ConfigurationError, match="compress_above"):
        RedisBackend(compress_above=wrong)


@pytest.mark.parametrize("wrong", ["4 KiB", 1.5, True])
def test_a_threshold_of_another_type_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidTypeError, match="compress_above"):
        RedisBackend(compress_above=wrong)


def test_where_values_are_signed_so_are_exceptions() -> None:
    signed = RaisingCodec(PickleSerializer(secret=b"s" * 16), [LookupError])
    other = RaisingCodec(PickleSerializer(secret=b"t" * 16), [LookupError])
    plain = RaisingCodec(codec_for(), [LookupError])
    payload = signed.encode(Raised(LookupError("no such item")), b"key")
    assert signed.decode(payload, b"key").error.args == ("no such item",)
    for forged in (other.encode(Raised(LookupError()), b"key"), plain.encode(Raised(LookupError()), b"key")):
        with pytest.raises(DecodeError):
            signed.decode(forged, b"key")
    with pytest.raises(DecodeError):
        signed.decode(payload, b"another key")


def test_a_signed_value_does_not_pass_for_an_exception_nor_an_exception_for_a_value() -> None:
    codec = RaisingCodec(PickleSerializer(secret=b"s" * 16), [LookupError])
    value = codec.encode(["builtins.LookupError", ["no such item"], {}], b"key")
    error = codec.encode(Raised(LookupError("no such item")), b"key")
    for payload in (b"e" + value[1:], b"v" + error[1:]):
        with pytest.raises(DecodeError, match="signature"):
            codec.decode(payload, b"key")


def test_what_explains_a_call_names_its_serializer() -> None:
    cache = Cache()

    @cache.cached(serializer=JSONPrices("prices 2"))
    def prices() -> Prices:
        return {}

    assert prices.explain().options["serializer"] == "prices 2"
