"""Classes whose instances the serializers' tests store. Importable, as an application's own classes are."""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections import namedtuple
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar
from uuid import UUID

import msgspec
from pydantic import (
    AfterValidator,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    HttpUrl,
    ImportString,
    PrivateAttr,
    RootModel,
    SecretStr,
    Tag,
    computed_field,
    field_serializer,
    field_validator,
)
from typing_extensions import TypedDict

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = ("a", 1)
    CRIMSON = "red"  # noqa: PIE796  # another name for RED


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mood(enum.StrEnum):
    GOOD = "good"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2


class Renamed(enum.Enum):
    """An enum that covers ``name`` and ``value``."""

    FIRST = 1

    @enum.property
    def name(self) -> str:
        return "not the name"

    @enum.property
    def value(self) -> str:  # type: ignore[override]
        return "not the value"


class Open(enum.IntEnum):
    """Makes up members for numbers that it does not know."""

    KNOWN = 1

    @classmethod
    def _missing_(cls, value: object) -> Open:
        member = int.__new__(cls, typing.cast("int", value))
        member._name_, member._value_ = f"UNKNOWN_{value}", typing.cast("int", value)
        return cls._value2member_map_.setdefault(value, member)  # type: ignore[return-value]


class UrlKept(BaseModel):
    """URLs that are not made from their own text alone."""

    model_config = ConfigDict(url_preserve_empty_path=True)

    url: AnyUrl


class Point(NamedTuple):
    x: int
    y: Any = 0


Pair = namedtuple("Pair", ["left", "right"])


class LoosePoint(Pair):
    """A named tuple whose instances have a ``__dict__``."""


@dataclass
class Plain:
    id: int
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    id: int
    when: datetime | None = None


@dataclass(slots=True)
class Slotted:
    id: int
    name: str = "x"


@dataclass(frozen=True, slots=True)
class FrozenSlotted:
    id: int
    inner: Slotted | None = None


@dataclass(slots=True)
class SlottedChild(Slotted):
    extra: Any = None


class Undecorated(Plain):
    """A subclass of a dataclass that is none itself."""


@dataclass
class Counted:
    """Counts its constructions: decoding must not be one."""

    id: int
    made: typing.ClassVar[int] = 0

    def __post_init__(self) -> None:
        type(self).made += 1
        self.id += 1


@dataclass
class Memoised:
    side: int

    @cached_property
    def area(self) -> int:
        return self.side**2


@dataclass
class Boxed(Generic[T]):
    item: T


@dataclass
class Dangling:
    """Names a class that there is not."""

    thing: Nowhere  # type: ignore[name-defined]  # noqa: F821


@dataclass
class ListLike(list[int]):
    name: str


@dataclass
class Finalised:
    id: int

    def __del__(self) -> None:
        pass


@dataclass(slots=True)
class Covered:
    id: int


class Covering(Covered):
    id = 5  # hides the slot of the base


class Inner(BaseModel):
    name: str
    weight: float = 1.0


class Item(BaseModel):
    id: int
    name: str
    price: float
    active: bool = True
    tags: list[str] = []
    main: Inner | None = None


class Priced(BaseModel):
    amount: Decimal
    at: datetime
    ref: UUID
    colour: Colour = Colour.RED


class Secretive(BaseModel):
    password: SecretStr


class Excluding(BaseModel):
    shown: int
    hidden: int = Field(exclude=True)


class Private(BaseModel):
    id: int
    _note: str = PrivateAttr(default="none")
    _calls: int = PrivateAttr(default=0)


class Child(Inner):
    more: int = 0


class Shouting(BaseModel):
    """A validator that changes what it sees each time."""

    text: str
    runs: typing.ClassVar[int] = 0

    @field_validator("text")
    @classmethod
    def shout(cls, text: str) -> str:
        cls.runs += 1
        return text + "!"


class Masking(BaseModel):
    number: str

    @field_serializer("number")
    def mask(self, number: str) -> str:
        return "*" * len(number)


class Initialised(BaseModel):
    id: int
    inits: typing.ClassVar[int] = 0

    def model_post_init(self, context: Any, /) -> None:
        type(self).inits += 1


_serial = iter(range(10**9))


class Serial(BaseModel):
    number: int = Field(default_factory=lambda: next(_serial))


class Loose(BaseModel):
    """Fields of which the annotation says little."""

    anything: Any = None
    either: bytes | str = ""
    number: int | float | str = 0
    blob: bytes = b""


class Aliased(BaseModel):
    first_name: str = Field(alias="firstName")
    zip_code: str = Field(default="", validation_alias="zip", serialization_alias="postcode")


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: int


class Rectangle(BaseModel):
    width: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.width**2


class MemoisedModel(BaseModel):
    side: int

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def area(self) -> int:
        return self.side**2


class Deferred(BaseModel):
    model_config = ConfigDict(defer_build=True)

    id: int


class DeferredShouting(Shouting):
    model_config = ConfigDict(defer_build=True)


class Confusing(BaseModel):
    """Fields called like the parts of a schema."""

    type: str = "a"
    config: Annotated[str, AfterValidator(lambda text: text + "!")] = "b"


class Importing(BaseModel):
    thing: ImportString[Any]


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: int


class Names(RootModel[list[str]]):
    pass


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Owner(BaseModel):
    pet: Pet


discriminated: list[Any] = []


def animal(pet: Any) -> str:
    """A discriminator that tells when it is asked about JSON."""
    if isinstance(pet, dict):
        discriminated.append(pet)
    kind: str = pet["kind"] if isinstance(pet, dict) else pet.kind
    return kind


class Adopter(BaseModel):
    pet: Annotated[Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")], Discriminator(animal)]


class Page(BaseModel, Generic[T]):
    items: list[T]
    total: int


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Early(BaseModel):
    """Names a class that is defined below it."""

    late: Late | None = None


class Late(BaseModel):
    id: int


class Linked(BaseModel):
    url: HttpUrl


class Movie(TypedDict):
    title: str
    year: int


UserId = NewType("UserId", int)


class Packed(msgspec.Struct):
    id: int
    name: str = "x"


class PackedFrozen(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    first_name: str
    inner: Packed | None = None


class PackedChild(Packed):
    more: int = 0


class PackedLoose(msgspec.Struct):
    anything: Any = None
    optional: int | msgspec.UnsetType = msgspec.UNSET


class PackedHooked(msgspec.Struct):
    id: int

    def __post_init__(self) -> None:
        self.id = abs(self.id)


class PackedSparse(msgspec.Struct, omit_defaults=True):
    id: int = 1


class PackedOpen(msgspec.Struct, dict=True):
    id: int


class MyStr(str):
    __slots__ = ()


class MyInt(int):
    pass


class MyDict(dict[str, int]):
    pass


class MyList(list[int]):
    pass


class Custom:
    """No kind of class that can be stored."""


def with_attribute(thing: Any, name: str, value: Any) -> Any:
    """Set an attribute as careless code does, and return the thing."""
    setattr(thing, name, value)
    return thing


def local_classes() -> dict[str, type]:
    """Classes of which no module knows; new ones at each call."""

    @dataclass
    class LocalData:
        id: int

    class LocalModel(BaseModel):
        id: int

    class LocalEnum(enum.Enum):
        ONE = 1

    class LocalStruct(msgspec.Struct):
        id: int

    return {cls.__name__: cls for cls in (LocalData, LocalModel, LocalEnum, LocalStruct)}


assert dataclasses.is_dataclass(Undecorated)
