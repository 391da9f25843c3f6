"""``Cache-Control`` read and written, ``Cache-Groups`` and ``Cache-Status`` read back.

Structured fields are read back by a small parser, written against RFC 9651 alone.
"""

import re
import string
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from fast_cache.http.directives import (
    cache_control,
    cache_groups,
    cache_status,
    directives,
    is_private,
    seconds_of,
)

# A busy machine is not a fault of the code.
patient = settings(deadline=None)

LIFETIMES = ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"]
"""Directives that mean nothing without a number."""

TCHAR = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"


class Token(str):
    """A Token of RFC 9651, which is not equal to a String of the same characters."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and str(self) == str(other)

    __hash__ = str.__hash__


Bare = str | int | bool


class Member(NamedTuple):
    item: Bare
    parameters: dict[str, Bare]


class Reader:
    """RFC 9651, section 4.2: a List of Items. Anything else is an AssertionError."""

    def __init__(self, field: bytes) -> None:
        self.left = field.decode("ascii")

    def list(self) -> list[Member]:
        members = []
        self.take(" *")
        while self.left:
            members.append(Member(self.bare(), self.parameters()))
            self.take(r"[ \t]*")
            if self.left:
                assert self.take(","), self.left
                self.take(r"[ \t]*")
                assert self.left, "a comma at the end"
        return members

    def parameters(self) -> dict[str, Bare]:
        found: dict[str, Bare] = {}
        while self.take("; *"):
            key = self.take(r"[a-z*][a-z0-9_\-.*]*")
            assert key
            assert key not in found, "an RFC reader would take the last"
            found[key] = self.bare() if self.take("=") else True
        return found

    def bare(self) -> Bare:
        if self.left.startswith('"'):
            text = self.take(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"')
            assert text, "not a String"
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        if self.left[0] in "-0123456789":
            digits = self.take(r"-?[0-9]{1,15}(?![0-9.])")
            assert digits, "not an Integer"
            return int(digits)
        token = self.take(rf"[A-Za-z*][{re.escape(TCHAR)}:/]*")
        assert token, f"no item: {self.left[:20]!r}"
        return Token(token)

    def take(self, pattern: str) -> str:
        match = re.match(pattern, self.left)
        taken = match.group() if match else ""
        self.left = self.left[len(taken) :]
        return taken


def only(field: bytes) -> Member:
    (member,) = Reader(field).list()
    return member


# Reading Cache-Control


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], {}),
        ([b""], {}),
        ([b" , ,"], {}),
        ([b"max-age=60"], {"max-age": "60"}),
        ([b"no-cache"], {"no-cache": None}),
        ([b"public, max-age=60"], {"public": None, "max-age": "60"}),
        ([b"public", b"max-age=60"], {"public": None, "max-age": "60"}),
        ([b",public ,\t,max-age=60,"], {"public": None, "max-age": "60"}),
        ([b"Max-Age=60, No-Store"], {"max-age": "60", "no-store": None}),
        # RFC 9111, section 5.2: both forms of an argument are accepted
        ([b'max-age="60"'], {"max-age": "60"}),
        ([b"private=set-cookie"], {"private": "set-cookie"}),
        ([b'private="set-cookie, x-user", max-age=1'], {"private": "set-cookie, x-user", "max-age": "1"}),
        ([b'no-cache="Set-Cookie"'], {"no-cache": "Set-Cookie"}),
        ([b'a="x\\"y, no-store", b'], {"a": 'x"y, no-store', "b": None}),
        ([b'a="x\\\\", b'], {"a": "x\\", "b": None}),
        ([b'a=""'], {"a": ""}),
        ([b'a="\xe9"'], {"a": "\xe9"}),
        # Section 5.2.3: its example
        ([b'private, community="UCI"'], {"private": None, "community": "UCI"}),
    ],
)
def test_directives_are_read(fields: list[bytes], expected: dict[str, str | None]) -> None:
    assert directives(fields) == expected


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"max-age=60, max-age=10", {"max-age": "10"}),
        (b"max-age=10, max-age=60", {"max-age": "10"}),
        (b"max-age=10, max-age=soon", {"max-age": "soon"}),
        (b"max-age, max-age=10", {"max-age": ""}),
        (b"s-maxage=9, s-maxage=8, stale-if-error=2, stale-if-error=3", {"s-maxage": "8", "stale-if-error": "2"}),
        (b'private="a", private', {"private": None}),
        (b'private, private="a"', {"private": None}),
        (b'no-cache="a", no-cache="b"', {"no-cache": "a"}),
        (b"a=1, a=2, a", {"a": "1"}),
    ],
)
def test_of_repeated_directives_the_most_restrictive_counts(field: bytes, expected: dict[str, str | None]) -> None:
    assert directives([field]) == expected
    assert directives(field.split(b", ")) == expected, "several lines are one list"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"private; max-age=60", {"private": None, "max-age": "60"}),
        (b"max-age=60; private", {"private": None, "max-age": "60"}),
        (b"private max-age=60", {"private": None, "max-age": "60"}),
        (b"@private", {"private": None}),
        (b"=, =5, private", {"5": None, "private": None}),
        (b"max-age=, private", {"max-age": "", "private": None}),
        (b'max-stale="5', {"max-stale": "", "5": None}),
        (b'a="x, private', {"a": "", "x": None, "private": None}),
        (b'a="x\\", private', {"a": "", "x": None, "private": None}),
        (b"\xff, private\x00", {"private": None}),
        (b"x-private, nonprivate", {"x-private": None, "nonprivate": None}),
    ],
)
def test_of_what_is_malformed_the_names_count(field: bytes, expected: dict[str, str | None]) -> None:
    assert directives([field]) == expected


def test_what_is_too_long_to_be_read_forbids_to_store() -> None:
    assert directives([b"public,".ljust(8192)]) == {"public": None}
    assert directives([b"public,".ljust(8193)]) == {"no-store": None}
    assert directives([b"public,".ljust(8192), b"x"]) == {"no-store": None}


tokens = st.text(TCHAR, min_size=1, max_size=8)
quotable = st.text("".join(map(chr, [9, *range(0x20, 0x7F), *range(0x80, 0x100)])), max_size=8)
names = st.sampled_from(["a", "b", "Private", *LIFETIMES]) | tokens


def quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


arguments = st.none() | tokens.map(lambda token: (token, token)) | quotable.map(lambda text: (text, quote(text)))


@patient
@given(
    st.lists(st.tuples(names, arguments), max_size=5, unique_by=lambda part: part[0].lower()),
    st.sampled_from([",", ", ", " ,\t", ",,"]),
    st.booleans(),
)
def test_a_list_is_read_back(parts: list[tuple[str, tuple[str, str] | None]], comma: str, apart: bool) -> None:
    written = [name if argument is None else f"{name}={argument[1]}" for name, argument in parts]
    fields = written if apart else [comma.join(written)]
    expected = {name.lower(): None if argument is None else argument[0] for name, argument in parts}
    expected |= {name: "" for name in LIFETIMES if expected.get(name, "") is None}
    assert directives([field.encode("latin-1") for field in fields]) == expected


noise = st.binary(max_size=40) | st.text('max-ge=60,;" \\\té\x00', max_size=30).map(str.encode)


@patient
@given(st.lists(noise, max_size=4))
@example([b'a="' * 2730])
@example([b'a="\\' * 2000])
@example([b"\\" * 8192])
@example([b'a="' + b'\\"' * 4000])
@example([b"max-age=" + b"9" * 8000])
def test_no_field_raises(fields: list[bytes]) -> None:
    found = directives(fields)
    for name, value in found.items():
        assert name == name.lower()
        seconds = seconds_of(value)
        assert seconds is None if value is None else seconds is not None and 0 <= seconds <= 2**31
    assert is_private(found) in (True, False)


@patient
@given(st.lists(noise, max_size=2), st.lists(noise, max_size=2), st.sampled_from([b"private", b"no-store"]))
def test_no_noise_on_other_lines_hides_that_a_response_is_private(
    before: list[bytes], after: list[bytes], word: bytes
) -> None:
    assert is_private(directives([*before, word, *after]))


@patient
@given(st.lists(st.integers(0, 2**32).map(str) | st.sampled_from(["", "-1", "1.5", "x", '"7"', '""']), min_size=1))
def test_repeated_lifetimes_are_never_longer_than_the_first(values: list[str]) -> None:
    """RFC 9111, section 4.2.1: the first may be used, or the response be called stale."""
    lifetime = seconds_of(directives([f"max-age={value}".encode() for value in values])["max-age"])
    first = seconds_of(values[0].strip('"'))
    assert lifetime is not None
    assert first is not None
    assert lifetime <= first


# Delta-seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0),
        ("60", 60),
        ("0060", 60),
        ("0" * 5000 + "7", 7),
        # RFC 9111, section 1.2.2
        ("2147483647", 2**31 - 1),
        ("2147483648", 2**31),
        ("2147483649", 2**31),
        ("9999999999", 2**31),
        ("1" * 5000, 2**31),
        # Section 4.2.1: invalid is stale
        ("", 0),
        ("-1", 0),
        ("+1", 0),
        ("1.5", 0),
        ("1_0", 0),
        (" 1", 0),
        ("1h", 0),
        ("soon", 0),
        ("²", 0),
        ("٣", 0),
    ],
)
def test_seconds(value: str | None, expected: int | None) -> None:
    assert seconds_of(value) == expected


@patient
@given(st.text())
def test_any_text_is_a_number_of_seconds(value: str) -> None:
    seconds = seconds_of(value)
    assert seconds is not None
    assert 0 <= seconds <= 2**31


@pytest.mark.parametrize(
    ("field", "private"),
    [
        (b"", False),
        (b"public, max-age=60", False),
        (b"max-age=0, must-revalidate", False),
        (b"no-transform, immutable", False),
        (b"private", True),
        (b"PRIVATE", True),
        (b"no-store", True),
        (b"no-cache", True),
        (b"public, private", True),
        (b'private="x-user"', True),
        (b'no-cache="set-cookie"', True),
        (b"no-store, must-understand", True),
        (b'community="private"', False),
        (b'community="no-store, private"', False),
    ],
)
def test_what_a_response_says_about_other_visitors(field: bytes, private: bool) -> None:
    assert is_private(directives([field])) is private


# Writing Cache-Control


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (cache_control(private=False, max_age=60), b"public, max-age=60"),
        (cache_control(private=True, max_age=60), b"private, max-age=60"),
        (cache_control(private=True, max_age=None), b"private, no-cache"),
        (cache_control(private=False, max_age=None), b"public, no-cache"),
        (cache_control(private=False, max_age=60, s_maxage=600), b"public, max-age=60, s-maxage=600"),
        # RFC 5861, sections 3.1 and 4.1: the values of its examples
        (
            cache_control(private=False, max_age=600, stale_while_revalidate=30),
            b"public, max-age=600, stale-while-revalidate=30",
        ),
        (
            cache_control(private=True, max_age=600, stale_if_error=1200),
            b"private, max-age=600, stale-if-error=1200",
        ),
        (
            cache_control(private=False, max_age=1, s_maxage=2, stale_while_revalidate=3, stale_if_error=4),
            b"public, max-age=1, s-maxage=2, stale-while-revalidate=3, stale-if-error=4",
        ),
        # What would say nothing
        (cache_control(private=True, max_age=60, s_maxage=600), b"private, max-age=60"),
        (
            cache_control(private=False, max_age=None, s_maxage=1, stale_while_revalidate=2, stale_if_error=3),
            b"public, no-cache",
        ),
        # What no client could read
        (cache_control(private=False, max_age=-1), b"public, max-age=0"),
        (cache_control(private=False, max_age=10**12), b"public, max-age=2147483648"),
    ],
)
def test_what_is_sent(sent: bytes, expected: bytes) -> None:
    assert sent == expected


lifetimes = st.none() | st.integers()


@patient
@given(st.booleans(), lifetimes, lifetimes, lifetimes, lifetimes)
def test_what_is_sent_is_read_back(
    private: bool, max_age: int | None, s_maxage: int | None, while_: int | None, if_error: int | None
) -> None:
    field = cache_control(
        private=private,
        max_age=max_age,
        s_maxage=s_maxage,
        stale_while_revalidate=while_,
        stale_if_error=if_error,
    )
    found = {name: seconds_of(value) for name, value in directives([field]).items()}
    assert is_private(directives([field])) == (private or max_age is None)
    assert ("private" in found, "public" in found, "no-cache" in found) == (private, not private, max_age is None)
    ends = max_age is not None
    wanted = {
        "max-age": max_age,
        "s-maxage": s_maxage if ends and not private else None,
        "stale-while-revalidate": while_ if ends else None,
        "stale-if-error": if_error if ends else None,
    }
    for name, seconds in wanted.items():
        assert found.get(name) == (None if seconds is None else min(max(seconds, 0), 2**31))


# Cache-Groups


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ([], b""),
        (["scripts"], b'"scripts"'),
        # RFC 9875, section 3: its example
        (["eurovision-results", "australia"], b'"eurovision-results", "australia"'),
        (["item:1", "item:1", "user 2"], b'"item:1", "user 2"'),
        # RFC 9651, section 4.1.6
        (['say "hi"', "back\\slash"], b'"say \\"hi\\"", "back\\\\slash"'),
        (["été", "a\nb", "a\tb", "\x7f", "\x00", "\ud800"], b""),
        (["a", "été", "b"], b'"a", "b"'),
    ],
)
def test_groups(tags: list[str], expected: bytes) -> None:
    assert cache_groups(tags) == expected


def test_groups_are_bounded() -> None:
    many = [str(number).ljust(32, "x") for number in range(1000)]
    assert [item for item, _ in Reader(cache_groups(many)).list()] == many[:64]
    long = ["a" * 5000, "b", "c" * 5000, *("d" * length for length in range(3000, 4000, 100)), "e"]
    assert [item for item, _ in Reader(cache_groups(long)).list()] == ["b", "d" * 3000, "e"]
    assert len(cache_groups(["a" * 1000 + str(number) for number in range(100)])) <= 4096


tags = st.text("ab\\\"', ;é\n\x7f", max_size=6) | st.text(max_size=10)


@patient
@given(st.lists(tags, max_size=64))
def test_groups_are_read_back(given_: list[str]) -> None:
    expected = [tag for tag in dict.fromkeys(given_) if re.fullmatch(r"[\x20-\x7e]*", tag)]
    assert Reader(cache_groups(given_)).list() == [Member(tag, {}) for tag in expected]


# Cache-Status


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        # RFC 9211, sections 2.8 and 3: its examples
        (cache_status("ExampleCache", hit=True), b"ExampleCache; hit"),
        (cache_status("ExampleCache", hit=True, detail="MEMORY"), b"ExampleCache; hit; detail=MEMORY"),
        (cache_status("ExampleCache", hit=True, ttl=376), b"ExampleCache; hit; ttl=376"),
        (cache_status("ExampleCache", hit=True, ttl=-412), b"ExampleCache; hit; ttl=-412"),
        (cache_status("ExampleCache", fwd="uri-miss"), b"ExampleCache; fwd=uri-miss"),
        (cache_status("ExampleCache", fwd="uri-miss", collapsed=True), b"ExampleCache; fwd=uri-miss; collapsed"),
        (cache_status("CDN Company Here", hit=True, ttl=545), b'"CDN Company Here"; hit; ttl=545'),
        (
            cache_status("fast_cache", fwd="uri-miss", stored=True, ttl=60, key="shop:item:1", detail="a b"),
            b'fast_cache; fwd=uri-miss; stored; ttl=60; key="shop:item:1"; detail="a b"',
        ),
        (cache_status("fast_cache", fwd="stale"), b"fast_cache; fwd=stale"),
        # "hit" and "fwd" are exclusive (section 2.1), and what goes with "fwd" means nothing beside "hit"
        (cache_status("c", hit=True, fwd="stale", stored=True, collapsed=True), b"c; hit"),
        (cache_status("c", fwd="no token"), b"c"),
        # RFC 9651
        (cache_status("3"), b'"3"'),
        (cache_status(""), b'""'),
        (cache_status("10.0.0.1:80"), b'"10.0.0.1:80"'),
        (cache_status("a:b/c"), b"a:b/c"),
        (cache_status("a" * 512), b"a" * 512),
        (cache_status("a" * 513), b'"' + b"a" * 513 + b'"'),
        (cache_status('"\\'), b'"\\"\\\\"'),
        (cache_status("c", key='a"b\\c'), b'c; key="a\\"b\\\\c"'),
        (cache_status("c", key="é\n"), b'c; key="%C3%A9%0A"'),
        (cache_status("c", key="\ud800"), b'c; key="%ED%A0%80"'),
        (cache_status("c", ttl=10**20), b"c; ttl=999999999999999"),
        (cache_status("c", ttl=-(10**20)), b"c; ttl=-999999999999999"),
    ],
)
def test_status(sent: bytes, expected: bytes) -> None:
    assert sent == expected


texts = st.text('aZ09*:/ "\\;,=%\r\né\ud800', max_size=6) | st.text(st.characters(), max_size=10)


def shown(text: str) -> str:
    """``text`` as it can be shown, by one character after the other."""
    return "".join(
        c if " " <= c <= "~" else "".join(f"%{octet:02X}" for octet in c.encode("utf-8", "surrogatepass")) for c in text
    )


def read_as(text: str) -> Bare:
    token = text and text[0] in string.ascii_letters + "*" and set(text) <= set(TCHAR + ":/")
    return Token(text) if token else shown(text)


@patient
@given(
    texts,
    st.booleans(),
    st.none() | st.sampled_from(["uri-miss", "stale", "bypass"]),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(-(10**15) + 1, 10**15 - 1),
    st.none() | texts,
    st.none() | texts,
)
def test_status_is_read_back(
    name: str,
    hit: bool,
    fwd: str | None,
    stored: bool,
    collapsed: bool,
    ttl: int | None,
    key: str | None,
    detail: str | None,
) -> None:
    sent = cache_status(name, hit=hit, fwd=fwd, stored=stored, collapsed=collapsed, ttl=ttl, key=key, detail=detail)
    expected: dict[str, Bare] = {}
    if hit:
        expected["hit"] = True
    if fwd is not None and not hit:
        expected["fwd"] = Token(fwd)
    if stored and not hit:
        expected["stored"] = True
    if collapsed and not hit:
        expected["collapsed"] = True
    if ttl is not None:
        expected["ttl"] = ttl
    if key is not None:
        expected["key"] = shown(key)
    if detail is not None:
        expected["detail"] = read_as(detail)
    assert only(sent) == Member(read_as(name), expected)


@patient
@given(st.text(), st.text(), st.text(), st.text())
def test_no_text_breaks_a_status(name: str, fwd: str, key: str, detail: str) -> None:
    only(cache_status(name, fwd=fwd, key=key, detail=detail))


@pytest.mark.parametrize("long", ["a" * 10_000, "é" * 10_000, " " * 10_000, "a" * 1023 + "é"])
def test_a_status_is_bounded(long: str) -> None:
    member = only(cache_status(long, key=long, detail=long))
    for text in (member.item, member.parameters["key"], member.parameters["detail"]):
        assert isinstance(text, str)
        assert len(text) <= 1024
