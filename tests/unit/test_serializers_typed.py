"""Codecs by annotation: whatever a function returns comes back exactly, by the library's way or by the tagged one."""

from __future__ import annotations

import contextlib
import sys
import typing
import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from inspect import Signature
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union, get_origin
from uuid import UUID

import pytest
from pydantic import AfterValidator, BaseModel, Field, HttpUrl, SecretStr, TypeAdapter, create_model
from pydantic_core import TzInfo

from fast_cache.errors import DecodeError, EncodeError
from fast_cache.serializers import Codec, codec_for, decoder_of
from fast_cache.serializers.faithful import same
from fast_cache.serializers.typed import TypedCodec
from tests.unit import serializers_samples as samples

PYDANTIC, MSGSPEC, TAGGED = b"P", b"M", b"T"

INNER = samples.Inner(name="a")
ITEM = samples.Item(id=1, name="a", price=1.5, tags=["x"], main=samples.Inner(name="i", weight=2.0))
PRICED = samples.Priced(amount=Decimal("1.00"), at=datetime(2024, 1, 1, tzinfo=TzInfo(0)), ref=UUID(int=1))
LOCAL = samples.local_classes()


def changed(model: Any, **fields: Any) -> Any:
    """The model with fields set behind its back."""
    for name, value in fields.items():
        setattr(model, name, value)
    return model


CASES: list[tuple[Any, Any, bytes]] = [
    # What Pydantic's JSON gives back exactly
    (samples.Item, ITEM, PYDANTIC),
    (list[samples.Item], [ITEM, samples.Item(id=2, name="b", price=0.1)], PYDANTIC),
    (dict[str, samples.Inner], {"x": INNER}, PYDANTIC),
    (dict[int, samples.Inner], {1: INNER}, PYDANTIC),
    (tuple[samples.Inner, int], (INNER, 1), PYDANTIC),
    (samples.Inner | None, None, PYDANTIC),
    (Optional[samples.Inner], INNER, PYDANTIC),  # noqa: UP045  # as older code writes it
    (Union[samples.Inner, samples.Late], samples.Late(id=1), PYDANTIC),  # noqa: UP007
    (samples.Inner, samples.Inner(name="a", weight=1.0), PYDANTIC),
    (samples.Priced, PRICED, PYDANTIC),
    (samples.Aliased, samples.Aliased.model_validate({"firstName": "a", "zip": "b"}), PYDANTIC),
    (samples.Extra, samples.Extra.model_validate({"id": 1, "more": "x"}), PYDANTIC),
    (samples.Rectangle, samples.Rectangle(width=2), PYDANTIC),
    (samples.Deferred, samples.Deferred(id=1), PYDANTIC),
    (samples.FrozenModel, samples.FrozenModel(id=1), PYDANTIC),
    (samples.Names, samples.Names(["a"]), PYDANTIC),
    (samples.Owner, samples.Owner(pet=samples.Dog(kind="dog", name="a")), PYDANTIC),
    (list[samples.Pet], [samples.Cat(kind="cat", lives=9), samples.Dog(kind="dog", name="a")], PYDANTIC),
    (samples.Page[samples.Inner], samples.Page[samples.Inner](items=[INNER], total=1), PYDANTIC),
    (samples.Page[samples.Page[int]], samples.Page[samples.Page[int]](items=[], total=0), PYDANTIC),
    (samples.Tree, samples.Tree(name="a", children=[samples.Tree(name="b")]), PYDANTIC),
    (samples.Early, samples.Early(late=samples.Late(id=1)), PYDANTIC),
    (samples.Linked, samples.Linked(url=HttpUrl("https://example.com/a")), PYDANTIC),
    (samples.Loose, samples.Loose(anything=[1, {"a": None}], either=b"a", number=1.5), PYDANTIC),
    (samples.Plain, samples.Plain(1, ["a"]), PYDANTIC),
    (samples.Slotted, samples.Slotted(1), PYDANTIC),
    (list[samples.FrozenSlotted], [samples.FrozenSlotted(1, samples.Slotted(2))], PYDANTIC),
    (samples.Frozen, samples.Frozen(1, datetime(2024, 1, 1)), PYDANTIC),
    (Annotated[samples.Inner, "a remark"], INNER, PYDANTIC),
    (LOCAL["LocalModel"], LOCAL["LocalModel"](id=1), PYDANTIC),
    (LOCAL["LocalData"], LOCAL["LocalData"](id=1), PYDANTIC),
    # What it would change
    (samples.Secretive, samples.Secretive(password=SecretStr("hush")), TAGGED),
    (samples.Excluding, samples.Excluding(shown=1, hidden=2), TAGGED),
    (samples.Private, samples.Private(id=1), TAGGED),
    (samples.Private, changed(samples.Private(id=1), _note="changed"), TAGGED),
    (samples.Inner, samples.Child(name="a", more=1), TAGGED),
    (list[samples.Inner], [INNER, samples.Child(name="a")], TAGGED),
    (samples.Shouting, samples.Shouting(text="a"), TAGGED),
    (samples.DeferredShouting, samples.DeferredShouting(text="a"), TAGGED),
    (samples.Confusing, samples.Confusing(type="x"), TAGGED),
    (samples.Confusing, samples.Confusing.model_construct(config="x"), TAGGED),
    (samples.Importing, samples.Importing.model_construct(thing=5), TAGGED),
    (samples.Adopter, samples.Adopter(pet=samples.Dog(kind="dog", name="a")), TAGGED),
    (samples.Dangling, samples.Dangling(1), TAGGED),
    (list[samples.Dangling], [samples.Dangling((1,))], TAGGED),
    (samples.Masking, samples.Masking(number="123"), TAGGED),
    (samples.Initialised, samples.Initialised(id=1), TAGGED),
    (samples.Serial, samples.Serial(), TAGGED),
    (samples.Counted, samples.Counted(1), TAGGED),
    (samples.Loose, samples.Loose(anything=(1, 2)), TAGGED),
    (samples.Loose, samples.Loose(anything=Decimal("1.0")), TAGGED),
    (samples.Loose, samples.Loose(anything={1: 2}), TAGGED),
    (samples.Loose, samples.Loose(either="a"), TAGGED),
    (samples.Owner, samples.Owner(pet=samples.Dog(name="a")), TAGGED),  # what is unset can't be told by
    (samples.Loose, samples.Loose(blob=b"\xff"), TAGGED),
    (samples.Loose, samples.Loose(number=float("inf")), TAGGED),
    (samples.Loose, samples.Loose(number=float("nan")), TAGGED),
    (samples.Item, changed(samples.Item(id=1, name="a", price=1.0), price="not a float"), TAGGED),
    (samples.Item, changed(samples.Item(id=1, name="a", price=1.0), price=1), TAGGED),
    (samples.Item, samples.Item.model_construct(id="1"), TAGGED),
    (samples.Inner, samples.Inner.model_construct(_fields_set=set(), name="a"), TAGGED),
    (samples.Priced, PRICED.model_copy(update={"at": datetime(2024, 1, 1, tzinfo=UTC)}), TAGGED),
    (samples.Tree, changed(samples.Tree(name="a"), children=[samples.Tree(name="b")]), PYDANTIC),
    (samples.Plain, samples.Undecorated(1), TAGGED),
    (samples.Plain, samples.with_attribute(samples.Plain(1), "note", 1), TAGGED),
    (samples.Plain, samples.Plain(True), TAGGED),
    (samples.Inner, {"name": "a"}, TAGGED),
    (samples.Inner, "text", TAGGED),
    (samples.Inner, None, TAGGED),
    (list[samples.Inner], (INNER,), TAGGED),
    (list[samples.Inner], [{"name": "a"}], TAGGED),
    (Annotated[samples.Inner, AfterValidator(lambda inner: inner)], INNER, TAGGED),
    (LOCAL["LocalModel"], changed(LOCAL["LocalModel"](id=1), id=(1,)), TAGGED),
    (samples.Page[samples.Secretive], samples.Page[samples.Secretive](
        items=[samples.Secretive(password=SecretStr("hush"))], total=1), TAGGED),
    # msgspec
    (samples.Packed, samples.Packed(1), MSGSPEC),
    (list[samples.Packed], [samples.Packed(1), samples.Packed(2, "y")], MSGSPEC),
    (dict[int, samples.Packed], {1: samples.Packed(1)}, MSGSPEC),
    (samples.Packed | None, None, MSGSPEC),
    (samples.PackedFrozen, samples.PackedFrozen(first_name="a", inner=samples.Packed(1)), MSGSPEC),
    (samples.PackedLoose, samples.PackedLoose(anything=[1, float("inf"), b"\xff"]), MSGSPEC),
    (samples.PackedHooked, samples.PackedHooked(-1), MSGSPEC),
    (LOCAL["LocalStruct"], LOCAL["LocalStruct"](1), MSGSPEC),
    (samples.Packed, samples.PackedChild(1), TAGGED),
    (samples.Packed, samples.Packed("1"), TAGGED),  # type: ignore[arg-type]
    (samples.PackedLoose, samples.PackedLoose(anything=(1,), optional=1), TAGGED),
    (samples.Packed, {"id": 1}, TAGGED),
    (list[samples.Packed | samples.Item], [samples.Packed(1), ITEM], TAGGED),  # beyond both libraries
    (samples.PackedSparse, samples.PackedSparse(), TAGGED),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "mark"), CASES)
def test_a_result_comes_back_exactly_by_the_expected_way(annotation: Any, value: Any, mark: bytes) -> None:
    codec = codec_for(annotation)
    payload = codec.encode(value)
    back = codec.decode(payload)
    assert same(back, value), back
    assert (payload[:1] if isinstance(codec, TypedCodec) else TAGGED) == mark


BUILT_IN: list[tuple[Any, Any]] = [
    (int, 5),
    (int, "not an int"),
    (bool, 1),
    (float, 1),
    (float, float("inf")),
    (float, float("nan")),
    (float, -0.0),
    (str, "a"),
    (str, samples.Mood.GOOD),
    (bytes, b"\xff"),
    (bytes | str, b"a"),
    (bytes | str, "a"),
    (int | None, None),
    (list[int], [1, True, 2.0]),
    (tuple[int, ...], (1, 2)),
    (set[str], {"a"}),
    (frozenset[int], frozenset({1})),
    (dict[int, str], {1: "a"}),
    (dict[str, Any], {"a": (1, Decimal("1.0"))}),
    (dict[UUID, date], {UUID(int=1): date(2024, 1, 1)}),
    (Mapping[str, int], {"a": 1}),
    (Sequence[int], (1,)),
    (OrderedDict[str, int], OrderedDict(a=1)),
    (defaultdict[str, list[int]], defaultdict(list, a=[1])),
    (deque[int], deque([1])),
    (datetime, datetime(2024, 1, 1, tzinfo=UTC)),
    (Decimal, Decimal("1.00")),
    (UUID, UUID(int=1)),
    (Path, Path("a")),
    (Literal["a", "b"], "a"),
    (samples.UserId, samples.UserId(1)),
    (samples.Colour, samples.Colour.RED),
    (list[samples.Level], [samples.Level.LOW]),
    (samples.Point, samples.Point(1, 2)),
    (samples.Movie, {"title": "a", "year": 1}),
    (list[samples.Movie], [{"title": "a", "year": 1}]),
    (samples.T, [1]),
    (Callable[[int], samples.Inner], INNER),
    (typing.ForwardRef("Nowhere"), (1,)),
    ("list[Nowhere]", (1,)),
    (list["Nowhere"], [(1,)]),  # type: ignore[name-defined]  # noqa: F821
    (5, 6),
    (samples.Custom(), 6),
    (samples.Custom, (1,)),
    (SecretStr, SecretStr("a")),
    (LOCAL["LocalEnum"], LOCAL["LocalEnum"].ONE),  # type: ignore[attr-defined]
]


@pytest.mark.parametrize(("annotation", "value"), BUILT_IN)
def test_built_in_types_come_back_exactly_whatever_the_annotation_says(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    assert same(codec.decode(codec.encode(value)), value)


@pytest.mark.parametrize("annotation", [Signature.empty, Any, object, None, type(None), "Nowhere"])
def test_annotations_that_say_nothing_share_one_codec(annotation: Any) -> None:
    assert codec_for(annotation) is codec_for()


def test_what_can_not_be_stored_is_refused_under_any_annotation() -> None:
    for annotation in (Any, int, samples.Inner, samples.Packed, samples.Custom):
        with pytest.raises(EncodeError):
            codec_for(annotation).encode(samples.Custom())
        with pytest.raises(EncodeError):
            codec_for(annotation).encode(changed(samples.Loose(), anything=samples.Custom()))


def test_validators_serialisers_and_factories_of_the_user_never_run() -> None:
    values = samples.Shouting(text="a"), samples.Initialised(id=1), samples.Counted(1)
    before = samples.Shouting.runs, samples.Initialised.inits, samples.Counted.made
    for value in values:
        codec = codec_for(type(value))
        codec.decode(codec.encode(value))
        listed = codec_for(list[type(value)])  # type: ignore[misc]
        listed.decode(listed.encode([value]))
    assert (samples.Shouting.runs, samples.Initialised.inits, samples.Counted.made) == before
    first = samples.Serial()
    codec = codec_for(samples.Serial)
    codec.decode(codec.encode(first))
    assert samples.Serial().number == first.number + 1
    adopter = samples.Adopter(pet=samples.Dog(kind="dog", name="a"))
    samples.discriminated.clear()
    codec = codec_for(samples.Adopter)
    codec.decode(codec.encode(adopter))
    assert samples.discriminated == []


def test_fields_that_were_not_set_stay_unset() -> None:
    codec = codec_for(list[samples.Inner])
    back = codec.decode(codec.encode([samples.Inner(name="a"), samples.Inner(name="a", weight=1.0)]))
    assert [inner.model_dump(exclude_unset=True) for inner in back] == [{"name": "a"}, {"name": "a", "weight": 1.0}]


def test_nothing_is_warned_about_when_a_value_is_not_of_the_annotated_type() -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for annotation in (samples.Item, samples.Packed, list[samples.Plain], list[samples.Item]):
            codec_for(annotation).encode([samples.Item.model_construct(id="x")])
    assert warned == []


def test_instances_of_a_class_that_no_module_leads_to_come_back_in_another_process() -> None:
    """Two calls of one function stand for two processes: same names, other classes."""
    for name in ("LocalData", "LocalModel", "LocalStruct"):
        here: Any = samples.local_classes()[name]
        there: Any = samples.local_classes()[name]
        for value in (here(id=1), changed(here(id=1), id=(1,))):
            back = codec_for(there).decode(codec_for(here).encode(value))
            assert type(back) is there
            assert back.id == value.id


def test_a_class_that_only_the_codec_knows_is_not_made_as_another_kind() -> None:
    model = LOCAL["LocalModel"]
    codec = codec_for(model)
    payload = codec.encode(changed(model(id=1), id=(1,)))
    assert b'{"$model":[0,' in payload
    with pytest.raises(DecodeError):
        codec.decode(payload.replace(b"$model", b"$dataclass"))


def test_names_and_fingerprints_tell_types_apart() -> None:
    annotations = [annotation for annotation, _, _ in CASES] + [annotation for annotation, _ in BUILT_IN]
    by_name: dict[str, Any] = {}
    for annotation in annotations:
        codec = codec_for(annotation)
        bare = annotation.__origin__ if get_origin(annotation) is Annotated else annotation
        assert by_name.setdefault(codec.name, bare) == bare or codec is codec_for(), codec.name
        assert codec.fingerprint == codec_for(annotation).fingerprint
    assert "0x" not in "".join(by_name)


def test_names_are_those_that_another_process_gives() -> None:
    assert codec_for(list[int]).name == "tagged-1 list[int]"
    assert codec_for(dict[str, int | None]).name == "tagged-1 dict[str, int | None]"
    assert codec_for(Literal["a", 1, None]).name == "tagged-1 Literal['a', 1, None]"
    assert codec_for(Optional[int]).name == "tagged-1 int | None"  # noqa: UP045
    assert codec_for(samples.Colour).name.startswith("tagged-1 tests.unit.serializers_samples.Colour#")
    assert " list[tests.unit.serializers_samples.Item]#" in codec_for(list[samples.Item]).name
    assert codec_for(Annotated[list[int], object()]).name == "tagged-1 list[int]"


def version(**fields: Any) -> type[BaseModel]:
    """One more version of a class, as a deploy brings it."""
    return create_model("Versioned", __module__="app.models", **fields)


def test_an_older_version_of_a_class_has_another_fingerprint() -> None:
    class Wrapper(BaseModel):
        inner: Any

    versions = [
        version(id=int),
        version(id=str),
        version(id=int, name=(str, "")),
        version(id=int, name=(str, "x")),  # an unset field would come back as another value
        version(id=int, tags=(list[str], [])),
        version(id=int, tags=(list[str], Field(default_factory=list))),
        version(id=(int | None, None)),
        version(id=(Any, {"a": 1})),
        version(id=(Any, {"a": 2})),
        version(id=(Any, {"a": (2,)})),
        version(id=(Any, samples.Colour.RED)),
    ]
    assert len({codec_for(cls).fingerprint for cls in versions}) == len(versions)
    assert len({codec_for(dict[str, list[cls]]).fingerprint for cls in versions}) == len(versions)  # type: ignore[valid-type]
    assert codec_for(version(id=int)).fingerprint == codec_for(version(id=int)).fingerprint


def test_a_default_that_has_no_lasting_name_keeps_a_class_from_pydantic() -> None:
    cls = version(id=int, thing=(Any, samples.Custom()))
    codec = codec_for(cls)
    with pytest.raises(EncodeError):
        codec.encode(cls(id=1))
    assert same(codec.decode(codec.encode(cls(id=1, thing=2))), cls(id=1, thing=2))


@pytest.mark.parametrize("annotation", [samples.Item, samples.Packed, int, list[samples.Plain]])
@pytest.mark.parametrize(
    "payload",
    [b"", b"P", b"M", b"T", b"X", b"P{}", b"P[1]", b"Prubbish", b"M\xc1", b"M\x90", b"T[", b"T$", b"\xff", b"P[" * 99],
    ids=repr,
)  # fmt: skip
def test_damaged_bytes_are_a_decode_error(annotation: Any, payload: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        codec_for(annotation).decode(payload)
    assert caught.value.__cause__ is None


def test_a_decode_error_does_not_quote_what_was_stored() -> None:
    for payload in (b'P{"id":"hunter2"}', b'T{"hunter2'):
        with pytest.raises(DecodeError) as caught:
            codec_for(samples.Item).decode(payload)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__suppress_context__


def test_a_schema_of_pydantic_alone_is_proved_and_one_with_the_users_code_is_not() -> None:
    def marks(annotation: Any, value: Any) -> bytes:
        return codec_for(annotation).encode(value)[:1]

    class WithUrl(BaseModel):
        url: HttpUrl
        path: Path

    class WithOwnType(BaseModel):
        text: Annotated[str, AfterValidator(str.upper)]

    assert marks(WithUrl, WithUrl(url=HttpUrl("https://example.com"), path=Path("a"))) == PYDANTIC
    assert marks(WithOwnType, WithOwnType(text="a")) == b"$"
    assert TypeAdapter(WithOwnType).validate_json('{"text":"a"}').text == "A"


@pytest.mark.parametrize(
    "name", ["type", "config", "metadata", "cls", "default", "computed_fields", "missing", "function"]
)
def test_a_field_may_be_called_like_a_part_of_a_schema(name: str) -> None:
    runs = []

    def validator(text: str) -> str:
        runs.append(text)
        return text

    watched = create_model("Watched", **{name: (Annotated[str, AfterValidator(validator)], ...)})  # type: ignore[call-overload]
    value, plain = watched(**{name: "a"}), create_model("Plain", **{name: (str, "x")})  # type: ignore[call-overload]
    runs.clear()
    codec = codec_for(watched)
    assert same(codec.decode(codec.encode(value)), value)
    assert runs == []
    assert codec_for(plain).encode(plain(**{name: "a"}))[:1] == PYDANTIC


def test_nothing_is_imported_on_the_word_of_bytes() -> None:
    codec = codec_for(samples.Importing)
    assert "antigravity" not in sys.modules
    for payload in (b'P{"thing":"antigravity"}', b'T{"thing":"antigravity"}', b'{"thing":"antigravity"}'):
        with contextlib.suppress(DecodeError):
            codec.decode(payload)
    assert "antigravity" not in sys.modules
    assert codec_for(samples.Importing).name.startswith("tagged-1 ")


def test_codecs_are_found_by_fingerprint_while_somebody_holds_them() -> None:
    codec: Codec | None = codec_for(dict[str, samples.Item])
    assert codec is not None
    fingerprint = codec.fingerprint
    assert decoder_of(fingerprint) is codec
    assert codec_for(dict[str, samples.Item]) is codec
    codec = None
    assert decoder_of(fingerprint) is None
    assert decoder_of(codec_for().fingerprint) is codec_for()
