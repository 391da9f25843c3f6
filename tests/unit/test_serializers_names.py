"""From stored names to classes: only classes that are there already, of the right kind and version; no code runs."""

from __future__ import annotations

import gc
import importlib
import sys
import types
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from pydantic import BaseModel

from fast_cache.errors import DecodeError
from fast_cache.serializers import TaggedCodec
from fast_cache.serializers.kinds import Kind
from fast_cache.serializers.names import class_of, name_of
from tests.unit import serializers_samples as samples

CODEC = TaggedCodec()
KINDS: list[tuple[type, Kind]] = [
    (samples.Colour, Kind.ENUM),
    (samples.Item, Kind.MODEL),
    (samples.Plain, Kind.DATACLASS),
    (samples.Point, Kind.NAMEDTUPLE),
    (samples.Packed, Kind.STRUCT),
]


class Outer:
    """Holds a class: names may lead through classes."""

    class Inside(BaseModel):
        id: int


@pytest.mark.parametrize(("cls", "kind"), KINDS)
def test_a_name_leads_back_to_its_class(cls: type, kind: Kind) -> None:
    name = name_of(cls)
    assert name.startswith(f"{cls.__module__}:{cls.__qualname__}#")
    assert class_of(name, kind) is cls


def test_a_name_leads_through_classes() -> None:
    assert class_of(name_of(Outer.Inside), Kind.MODEL) is Outer.Inside


@pytest.mark.parametrize(("cls", "kind"), KINDS)
def test_a_class_of_another_kind_is_refused(cls: type, kind: Kind) -> None:
    for other in Kind:
        if other is not kind:
            with pytest.raises(DecodeError):
                class_of(name_of(cls), other)
            with pytest.raises(DecodeError):
                class_of(name_of(samples.local_classes()["LocalModel"]), Kind.ENUM)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "os",
        "os:",
        "os:path",
        "os:system#00000000",
        "builtins:dict#00000000",
        "subprocess:Popen#00000000",
        "no_such_module:Item#00000000",
        "tests.unit.serializers_samples:Nothing#00000000",
        "tests.unit.serializers_samples:Item",
        "tests.unit.serializers_samples:Item#00000000",
        "tests.unit.serializers_samples:Item.__class__#00000000",
        "tests.unit.serializers_samples:Item.model_config#00000000",
        "tests.unit.serializers_samples:local_classes.<locals>.LocalModel#00000000",
        "\ud800:\ud800#\ud800",
    ],
)
def test_names_that_lead_to_no_such_class_are_refused(name: str) -> None:
    for kind in Kind:
        with pytest.raises(DecodeError):
            class_of(name, kind)


def test_nothing_is_imported_on_the_word_of_bytes() -> None:
    assert "antigravity" not in sys.modules
    for name in ("antigravity:Thing#00000000", "xml.dom.pulldom:Thing#00000000"):
        with pytest.raises(DecodeError):
            class_of(name, Kind.MODEL)
        assert name.partition(":")[0] not in sys.modules


def test_no_code_of_a_module_or_class_runs_while_a_name_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Watchful(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            asked.append(name)
            return super().__getattribute__(name)

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            asked.append(name)
            return super().__getattribute__(name)

    module = Watchful("watchful")
    module.Thing = Meta("Thing", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "watchful", module)
    asked.clear()
    with pytest.raises(DecodeError):
        class_of("watchful:Thing.Inner#00000000", Kind.MODEL)
    with pytest.raises(DecodeError):
        class_of("watchful:nothing#00000000", Kind.MODEL)
    assert asked == []


def test_a_second_name_of_a_class_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "Alias", samples.Item, raising=False)
    with pytest.raises(DecodeError):
        class_of(name_of(samples.Item).replace(":Item#", ":Alias#"), Kind.MODEL)


def test_classes_that_no_module_leads_to_are_found_in_this_process() -> None:
    one, other = samples.local_classes(), samples.local_classes()
    for name in one:
        assert name_of(one[name]) != name_of(other[name])
        assert name_of(one[name]) == name_of(one[name])
    value = [one["LocalModel"](id=1), other["LocalModel"](id=1), one["LocalData"](id=2), one["LocalStruct"](id=3)]
    back = CODEC.decode(CODEC.encode(value))
    assert [type(part) for part in back] == [type(part) for part in value]


def test_classes_are_not_kept_alive() -> None:
    classes = samples.local_classes()
    for name in ("LocalModel", "LocalData", "LocalStruct"):
        CODEC.decode(CODEC.encode(classes[name](id=1)))
    name = name_of(classes["LocalData"])
    gone = ref(classes["LocalData"])
    classes.clear()
    gc.collect()
    assert gone() is None
    with pytest.raises(DecodeError):
        class_of(name, Kind.DATACLASS)


MODULE = "from dataclasses import dataclass\n@dataclass\nclass Thing:\n    id: int\n"


def load(source: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module as it is after a deploy or a reload."""
    monkeypatch.syspath_prepend(directory)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (directory / "deployed_module.py").write_text(source)
    monkeypatch.delitem(sys.modules, "deployed_module", raising=False)
    importlib.invalidate_caches()
    return importlib.import_module("deployed_module")


def test_after_a_restart_a_class_of_an_imported_module_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = CODEC.encode(load(MODULE, tmp_path, monkeypatch).Thing(1))
    monkeypatch.delitem(sys.modules, "deployed_module")
    with pytest.raises(DecodeError):  # not imported yet, and not by us
        CODEC.decode(payload)
    again = load(MODULE, tmp_path, monkeypatch)
    assert type(CODEC.decode(payload)) is again.Thing


@pytest.mark.parametrize(
    "change",
    [
        ("id: int", "id: str"),
        ("id: int", "id: int\n    name: str = ''"),
        ("id: int", "key: int"),
        ("class Thing", "class Other"),
        ("@dataclass", "from pydantic.dataclasses import dataclass as other\n@other\nclass Base:\n    pass\n"),
    ],
)
def test_an_instance_of_another_version_of_the_class_is_refused(
    change: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = CODEC.encode(load(MODULE, tmp_path, monkeypatch).Thing(1))
    load(MODULE.replace(*change), tmp_path, monkeypatch)
    with pytest.raises(DecodeError):
        CODEC.decode(payload)


def test_an_instance_of_a_class_that_was_replaced_keeps_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = load(MODULE, tmp_path, monkeypatch)
    value = old.Thing(1)
    load(MODULE, tmp_path, monkeypatch)
    assert type(CODEC.decode(CODEC.encode(value))) is old.Thing


EARLY = "from pydantic import BaseModel\nclass Early(BaseModel):\n    late: 'Late | None' = None\n"
LATE = "class Late(BaseModel):\n    id: int\n"


def test_the_shape_is_that_of_the_finished_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that names a later class is unfinished when it is made, and a process may decode before it is used."""
    module = load(EARLY + LATE, tmp_path, monkeypatch)
    before = name_of(module.Early)
    module.Early(late=module.Late(id=1))
    assert name_of(module.Early) == before


def test_the_shape_of_an_unfinished_model_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = name_of(load(EARLY + LATE, tmp_path, monkeypatch).Early)
    module = load(EARLY, tmp_path, monkeypatch)
    assert name_of(module.Early) != finished
    exec(LATE, vars(module))
    assert name_of(module.Early) == finished


def test_classes_of_one_name_that_a_codec_knows_are_told_apart() -> None:
    one, other = (make_dataclass("Twin", [("id", int)], namespace={"__module__": "nowhere"}) for _ in range(2))
    for codec in (TaggedCodec(classes=[one]), TaggedCodec(classes=[one, other]), TaggedCodec()):
        back = codec.decode(codec.encode([one(1), other(2)]))
        assert [type(part) for part in back] == [one, other]
    assert TaggedCodec(classes=[one, other]).encode([one(1), other(2)]).count(b"@") == 2  # both by private names
