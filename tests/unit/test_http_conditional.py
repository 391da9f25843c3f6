"""Entity tags and ``If-None-Match``, against RFC 9110 and an oracle that knows how each field was made."""

import re
import string

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from fast_cache.http.conditional import NOT_MODIFIED_HEADERS, etag_of, kept_in_304, none_match

# A busy machine is not a fault of the code.
patient = settings(deadline=None)

ETAGC = bytes([0x21, *range(0x23, 0x7F), *range(0x80, 0x100)])
"""RFC 9110, section 8.8.3: what may stand between the quotes."""

# Few characters, most of them punctuation of the list, so that tags look like parts of lists and equal ones are drawn.
opaque = st.lists(st.sampled_from([b"a", b"b", b",", b"W/", b"*", b"\\", b"\xff"]), max_size=3).map(
    b"".join
) | st.lists(st.sampled_from(ETAGC), max_size=4).map(bytes)
blanks = st.sampled_from([b"", b" ", b"\t", b" \t "])
weak = st.booleans()


def tag(of: bytes, weak: bool = False) -> bytes:
    return (b"W/" if weak else b"") + b'"' + of + b'"'


def test_a_tag_is_strong_and_quoted() -> None:
    assert re.fullmatch(rb'"[A-Za-z0-9_-]{22}"', etag_of(b"")), "16 bytes, in characters that need no care anywhere"
    # The same in every process and version: clients come back with what an earlier one sent. BLAKE2b-128 of nothing
    # is cae66941d9efbd404e4d88758ea67670.
    assert etag_of(b"") == b'"yuZpQdnvvUBOTYh1jqZ2cA"'
    assert etag_of(b'{"id":1}') == etag_of(b'{"id":1}') != etag_of(b'{"id":2}')


@patient
@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_tag_tells_bodies_apart_and_matches_itself(body: bytes, other: bytes) -> None:
    assert none_match(etag_of(body), etag_of(body))
    assert none_match(b'"x", W/' + etag_of(body), etag_of(body))
    assert none_match(etag_of(other), etag_of(body)) == (body == other)


MATCHES = [
    # RFC 9110, section 13.1.2: its examples
    (b'"xyzzy"', b'"xyzzy"'),
    (b'W/"xyzzy"', b'"xyzzy"'),
    (b'"xyzzy", "r2d2xxxx", "c3piozzzz"', b'"xyzzy"'),
    (b'"xyzzy", "r2d2xxxx", "c3piozzzz"', b'"r2d2xxxx"'),
    (b'"xyzzy", "r2d2xxxx", "c3piozzzz"', b'"c3piozzzz"'),
    (b'W/"xyzzy", W/"r2d2xxxx", W/"c3piozzzz"', b'"c3piozzzz"'),
    (b"*", b'"xyzzy"'),
    (b" *\t", b'"xyzzy"'),
    # Section 8.8.3.2: weak comparison
    (b'W/"1"', b'W/"1"'),
    (b'"1"', b'W/"1"'),
    # Section 5.6.1: empty elements, blanks
    (b', ,"1"', b'"1"'),
    (b'"1",', b'"1"'),
    (b'"0",, ,\t,"1" ,', b'"1"'),
    (b'"0","1"', b'"1"'),
    (b' "1" ', b'"1"'),
    # Section 8.8.3: what may be in a tag
    (b'"a,b", "c"', b'"a,b"'),
    (b'"0", ""', b'""'),
    (b'"0", "\xc3\xa9"', b'"\xc3\xa9"'),
    (b'"0", "a\\"', b'"a\\"'),
    (b'"0", "*"', b'"*"'),
    (b'"0", "W/"', b'"W/"'),
]

DIFFERS = [
    (b"", b'"1"'),
    (b",", b'"1"'),
    (b" ", b'"1"'),
    (b'W/"1"', b'W/"2"'),
    (b'"1", "2"', b'"3"'),
    (b'"1"', b'"1 "'),
    (b'"A"', b'"a"'),
    (b'"*"', b'"1"'),
    (b'"a,b"', b'"a"'),
    (b'"a","b"', b'","'),
    (b'"a",","', b'"b"'),
]

MALFORMED = [
    b"1",
    b"'1'",
    b'"1',
    b'1"',
    b'"0", "1',
    b'w/"1"',
    b'W/ "1"',
    b"W/1",
    b'W "1"',
    b'W/W/"1"',
    b'"1"x',
    b'"1" "1"',
    b'"1"; "1"',
    b'"1", 0',
    b'0, "1"',
    b'"1", *',
    b'*, "1"',
    b"**",
    b"*,",
    b'"1"\n',
    b'"1"\r\n, "1"',
    b'"1", "a b"',
    b'"1", "\x7f"',
    b'\x00, "1"',
]


@pytest.mark.parametrize(("field", "etag"), MATCHES)
def test_a_field_names_the_tag(field: bytes, etag: bytes) -> None:
    assert none_match(field, etag) is True


@pytest.mark.parametrize(("field", "etag"), DIFFERS)
def test_a_field_names_other_tags(field: bytes, etag: bytes) -> None:
    assert none_match(field, etag) is False


@pytest.mark.parametrize("field", MALFORMED)
def test_a_field_that_is_malformed_anywhere_names_none(field: bytes) -> None:
    assert none_match(field, b'"1"') is False


def test_a_field_of_8_kib_is_read_and_a_longer_one_is_not() -> None:
    field = b'"1"'.rjust(8192, b",")
    assert none_match(field, b'"1"') is True
    assert none_match(b"," + field, b'"1"') is False
    assert none_match(b"*".ljust(8193), b'"1"') is False


@patient
@given(st.lists(st.none() | st.tuples(opaque, weak, blanks, blanks), max_size=5), opaque, weak)
def test_a_list_matches_if_it_has_the_tag(
    elements: list[tuple[bytes, bool, bytes, bytes] | None], of: bytes, is_weak: bool
) -> None:
    field = b",".join(
        b"" if element is None else element[2] + tag(element[0], element[1]) + element[3] for element in elements
    )
    held = {element[0] for element in elements if element is not None}
    assert none_match(field, tag(of, is_weak)) == (of in held)
    for each in held:
        assert none_match(field, tag(each, is_weak))


@patient
@given(st.lists(st.tuples(opaque, weak), min_size=1, max_size=3), st.data())
def test_a_list_with_a_flaw_matches_nothing(elements: list[tuple[bytes, bool]], data: st.DataObject) -> None:
    parts = [tag(*element) for element in elements]
    # Neither of these can be part of an element, wherever it stands: a quote leaves one open.
    flaw = data.draw(st.sampled_from([b'"', b"\x00", b"\x7f", b"\n"]))
    field = b", ".join(parts)
    at = data.draw(st.integers(0, len(field)))
    flawed = field[:at] + flaw + field[at:]
    for of, is_weak in elements:
        assert none_match(flawed, tag(of, is_weak)) is False


@patient
@given(st.binary(max_size=40) | st.text('W/"*, \ta\\é', max_size=20).map(str.encode), opaque, weak)
@example(b'"' * 8191, b"", False)
@example(b'W/""' * 2048, b"a", False)
@example(b", " * 4096, b"a", False)
@example(b'"a",' * 2047 + b"x", b"a", False)
def test_no_field_raises(field: bytes, of: bytes, is_weak: bool) -> None:
    assert none_match(field, tag(of, is_weak)) in (True, False)


@pytest.mark.parametrize("name", sorted(NOT_MODIFIED_HEADERS))
def test_a_304_carries_what_it_must(name: bytes) -> None:
    assert kept_in_304(name)


def test_the_headers_of_rfc_9110_15_4_5_are_among_them() -> None:
    listed = {"Cache-Control", "Content-Location", "Date", "ETag", "Expires", "Vary"}
    assert {name.lower().encode() for name in listed} <= NOT_MODIFIED_HEADERS


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        # of the request, the visitor, the origin
        (b"set-cookie", True),
        (b"access-control-allow-origin", True),
        (b"access-control-expose-headers", True),
        (b"content-security-policy", True),
        (b"content-disposition", True),
        (b"strict-transport-security", True),
        (b"link", True),
        (b"x-request-id", True),
        # guides updates of caches, by name in section 15.4.5
        (b"last-modified", True),
        # sections 8.3 to 8.6 and 14.4
        (b"content-type", False),
        (b"content-encoding", False),
        (b"content-language", False),
        (b"content-length", False),
        (b"content-range", False),
        (b"Content-Type", False),
        # digests of a content that is not there, and its framing
        (b"content-digest", False),
        (b"transfer-encoding", False),
        (b"trailer", False),
    ],
)
def test_a_304_repeats_no_metadata_of_the_representation(name: bytes, kept: bool) -> None:
    assert kept_in_304(name) is kept


@patient
@given(st.text(string.ascii_letters + "-").map(str.encode) | st.binary())
def test_any_name_has_an_answer_and_its_case_does_not_matter(name: bytes) -> None:
    assert kept_in_304(name) == kept_in_304(name.upper()) == kept_in_304(name.lower())
