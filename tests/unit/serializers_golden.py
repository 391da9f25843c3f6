"""Bytes that must never change within one layout: other programs, and older versions of this one, read them."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import HttpUrl, SecretBytes, SecretStr
from pydantic_core import TzInfo

from fast_cache.serializers import Envelope, name_digest
from tests.unit import serializers_samples as samples

ENVELOPES: list[tuple[str, Envelope, bytes]] = [
    (
        "shop:app.items:1:42",
        Envelope(b'{"id":42}', bytes.fromhex("0001020304050607")),
        bytes.fromhex(
            "464301000000000000000000000000000000000000000000"
            "0001020304050607b169018fc241152d24be20720fde3d71007b226964223a34327deb9015d6"
        ),
    ),
    (
        "schlüssel",
        Envelope(
            b"",
            b"\xff" * 8,
            lifetime_ms=60_000,
            stale_ms=15_000,
            load_ms=250,
            generations=((bytes.fromhex("278b830cbd36ee5f"), bytes(range(16))), (name_digest(""), b"\xaa" * 16)),
        ),
        bytes.fromhex(
            "46430100000000000000ea600000000000003a98000000faffffffffffffffff"
            "3fdfae771f3e41d3ebd35697d7d47f3002278b830cbd36ee5f000102030405060708090a0b0c0d0e0f"
            "e4a6a0577479b2b4aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa119acb9f"
        ),
    ),
]
"""Key, what is in the envelope, bytes. ``278b830cbd36ee5f`` is the digest of the name ``tag:a``."""

COMPRESSED: list[tuple[str, str, Any, bytes]] = [
    (
        "zlib",
        "shop:pages:1",
        {"name": "kettle " * 12},
        bytes.fromhex(
            "46430101000000000000ea60000000000000000000000000658c31fff85afeeec7c44042a6c6f2064619d071565a49d500"
            "01000000000000005f7801ab56ca4bcc4d55b252ca4e2d29c94955a02aa5540b009370234810236083"
        ),
    ),
    (
        "zstd",
        "shop:pages:1",
        {"name": "kettle " * 12},
        bytes.fromhex(
            "46430101000000000000ea60000000000000000000000000658c31fff85afeeec7c44042a6c6f2064619d071565a49d500"
            "02000000000000005f28b52ffd205fcd0000907b226e616d65223a226b6574746c6520227d0100546859028666f138"
        ),
    ),
]
"""Algorithm, key, value, bytes. They are only read: other releases of these libraries compress otherwise."""

TAGGED: list[tuple[Any, bytes]] = [
    ({"a": [1, 2.5, None, True, "x"]}, b'{"a":[1,2.5,null,true,"x"]}'),
    ((1, ("a",)), b'$[[],{"$tuple":[1,{"$tuple":["a"]}]}]'),
    ({1}, b'$[[],{"$set":[1]}]'),
    (frozenset(), b'$[[],{"$frozenset":[]}]'),
    ({1: "a", None: (2,)}, b'$[[],{"$dict":[[1,null],["a",{"$tuple":[2]}]]}]'),
    ({"$tuple": (1,)}, b'$[[],{"$dict":[["$tuple"],[{"$tuple":[1]}]]}]'),
    (OrderedDict({"a": (1,)}), b'$[[],{"$ordereddict":[["a"],[{"$tuple":[1]}]]}]'),
    (Counter("aa"), b'$[[],{"$counter":[["a"],[2]]}]'),
    (defaultdict(list, {"a": [1]}), b'$[[],{"$defaultdict":["list",["a"],[[1]]]}]'),
    (deque([1], maxlen=2), b'$[[],{"$deque":[2,[1]]}]'),
    (2**64, b'$[[],{"$int":"0x10000000000000000"}]'),
    (-(2**64), b'$[[],{"$int":"-0x10000000000000000"}]'),
    (float("inf"), b'$[[],{"$float":"7ff0000000000000"}]'),
    (float("nan"), b'$[[],{"$float":"7ff8000000000000"}]'),
    ("\ud800", b'$[[],{"$str":"7aCA"}]'),
    (b"\xff\x00", b'$[[],{"$bytes":"/wA="}]'),
    (bytearray(b"\x01"), b'$[[],{"$bytearray":"AQ=="}]'),
    (complex(1.0, -0.0), b'$[[],{"$complex":"3ff00000000000008000000000000000"}]'),
    (Decimal("1.00"), b'$[[],{"$decimal":"1.00"}]'),
    (Fraction(-1, 3), b'$[[],{"$fraction":["-0x1","0x3"]}]'),
    (datetime(2024, 2, 29, 1, 2, 3, 4), b'$[[],{"$datetime":["2024-02-29T01:02:03.000004",0,null]}]'),
    (
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")),
        b'$[[],{"$datetime":["2024-10-27T02:30:00",1,"Europe/Paris"]}]',
    ),
    (datetime(2024, 1, 1, tzinfo=UTC), b'$[[],{"$datetime":["2024-01-01T00:00:00",0,[]]}]'),
    (
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
        b'$[[],{"$datetime":["2024-01-01T00:00:00",0,[0,3600,0,"CET"]]}]',
    ),
    (datetime(2024, 1, 1, tzinfo=TzInfo(3600)), b'$[[],{"$datetime":["2024-01-01T00:00:00",0,3600]}]'),
    (date(2024, 2, 29), b'$[[],{"$date":"2024-02-29"}]'),
    (time(1, 2), b'$[[],{"$time":["01:02:00",0,null]}]'),
    (timedelta(days=-1, microseconds=5), b'$[[],{"$timedelta":[-1,0,5]}]'),
    (UUID(int=1), b'$[[],{"$uuid":"00000000000000000000000000000001"}]'),
    (PurePosixPath("/a"), b'$[[],{"$text":["PurePosixPath","/a"]}]'),
    (IPv4Address("1.2.3.4"), b'$[[],{"$text":["IPv4Address","1.2.3.4"]}]'),
    (HttpUrl("https://example.com/"), b'$[[],{"$text":["HttpUrl","https://example.com/"]}]'),
    (SecretStr("a"), b'$[[],{"$secret":"a"}]'),
    (SecretBytes(b"a"), b'$[[],{"$secret":["YQ=="]}]'),
    (samples.Colour.CRIMSON, b'$[["tests.unit.serializers_samples:Colour#b79e3b3d"],{"$enum":[0,"RED"]}]'),
    (
        samples.Access.READ | samples.Access.WRITE,
        b'$[["tests.unit.serializers_samples:Access#b79e3b3d"],{"$enum":[0,3]}]',
    ),
    (samples.Point(1, 2), b'$[["tests.unit.serializers_samples:Point#56615169"],{"$namedtuple":[0,[1,2]]}]'),
    (
        samples.Plain(1, ["a"]),
        b'$[["tests.unit.serializers_samples:Plain#2544d8be"],{"$dataclass":[0,{"id":1,"tags":["a"]}]}]',
    ),
    (
        samples.FrozenSlotted(1, samples.Slotted(2)),
        b'$[["tests.unit.serializers_samples:FrozenSlotted#76264e19","tests.unit.serializers_samples:Slotted#8726dce2"],{"$dataclass":[0,{"id":1,"inner":{"$dataclass":[1,{"id":2,"name":"x"}]}}]}]',
    ),
    (
        samples.Inner(name="a"),
        b'$[["tests.unit.serializers_samples:Inner#28df00af"],{"$model":[0,{"name":"a","weight":1.0},["name"],null,null]}]',
    ),
    (
        samples.Inner(name="a", weight=2.0),
        b'$[["tests.unit.serializers_samples:Inner#28df00af"],{"$model":[0,{"name":"a","weight":2.0}]}]',
    ),
    (
        samples.Private(id=1),
        b'$[["tests.unit.serializers_samples:Private#b437fd60"],{"$model":[0,{"id":1},null,null,{"_note":"none","_calls":0}]}]',
    ),
    (samples.Packed(1), b'$[["tests.unit.serializers_samples:Packed#960d6758"],{"$struct":[0,[1,"x"]]}]'),
]
"""Value, payload."""

PICKLED: list[tuple[Any, bytes, str, bytes, bytes]] = [
    (
        (1, "a"),
        b"sixteen bytes ok",
        "blake2b",
        b"shop:key",
        bytes.fromhex(
            "01869b837595359016e18ab354f902de76ed55997d4b1725c499b85ad8591977f680059509000000000000004b018c01619486942e"
        ),
    ),
    (
        (1, "a"),
        b"sixteen bytes ok",
        "hmac-sha256",
        b"",
        bytes.fromhex(
            "013169f72b0ecd5d7cf75419499034d69d73c0c7586db9d95d169fb3fa5a653fd080059509000000000000004b018c01619486942e"
        ),
    ),
]
"""Value, secret, algorithm, context, payload."""
