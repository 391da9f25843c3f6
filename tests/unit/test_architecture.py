"""Dependencies point one way, the flow knows no event loop, and optional packages are imported when they are used.

Read from the source, so that it also holds for imports inside functions.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fast_cache"

LAYERS = [
    {"testing"},
    {"__init__"},
    {"cache"},
    {
        "http",
        "binding",
        "current",
        "decorated",
        "decorator",
        "invalidating",
        "loading",
        "many",
        "method",
        "naming",
        "pages",
        "presets",
        "route_table",
        "targets",
        "transactions",
        "warming",
        "wrapper",
    },
    {"grouping"},
    {"batches"},
    {"explanation", "flow"},
    {"claim"},
    {"policy"},
    {"backends"},
    {"lockstep"},
    {"ports"},
    {"background", "serializers", "single_flight"},
    {"counts", "durations", "entry", "freshness", "keys", "once", "outcome", "stats", "watching"},
    {"errors"},
]
"""The package from top to bottom, by module or subpackage: each may import its own layer and those below."""

RANK = {part: len(LAYERS) - depth for depth, layer in enumerate(LAYERS) for part in layer}

OPTIONAL = ("hiredis", "httpx", "httpx2", "msgspec", "redis", "sqlalchemy", "sqlmodel", "uvicorn", "zstandard")
"""What an application may do without; redis is installed with the package, and imported by those who use it."""


def dotted(path: Path) -> str:
    """``fast_cache/http/__init__.py`` is ``fast_cache.http``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part(module: str) -> str:
    """The module or subpackage of the package that a dotted name lies in."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import; write the full name"
            assert node.module is not None
            # `from package import module` depends on that module alone.
            submodules = {f"{node.module}.{name.name}" for name in node.names} & MODULES.keys()
            found |= submodules or {node.module}
    return found


def is_own(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE.name


def test_every_module_has_its_layer() -> None:
    assert {part(name) for name in MODULES} <= RANK.keys(), "add the new module to LAYERS"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_from_above(module: str) -> None:
    rank = RANK[part(module)]
    assert [name for name in imports(MODULES[module]) if is_own(name) and RANK[part(name)] > rank] == []


@pytest.mark.parametrize("module", ["batches", "claim", "flow", "lockstep"])
def test_the_flow_never_touches_an_event_loop(module: str) -> None:
    used = {name.partition(".")[0] for name in imports(PACKAGE / f"{module}.py")}
    assert not used & {"asyncio", "anyio", "threading", "concurrent", "time", "select", "socket"}


PROBE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())

{program}
"""

USE_WITHOUT_THEM = """
from fast_cache import cache, InMemoryBackend
from fastapi import FastAPI

app = FastAPI()
cache.init_app(app, backend=InMemoryBackend())
calls = []

@app.get("/items/{item_id}")
@cache.cached(expire=60)
def item(item_id: int) -> list[int]:
    calls.append(item_id)
    return [item_id]

assert item(1) == item(1) == [1]
assert calls == [1], calls
cache.init_app(app, backend="memory://?max_size=10")
assert item(1) == item(1) == [1]
assert calls == [1, 1], calls
"""


def run(program: str) -> None:
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_works_with_no_optional_package_installed() -> None:
    run(PROBE.format(blocked=OPTIONAL, program=USE_WITHOUT_THEM))


def test_importing_the_package_imports_no_optional_package() -> None:
    """They are installed here, so this is about time and memory, not about absence."""
    loaded = f"import sys, fast_cache; loaded = sys.modules.keys() & {set(OPTIONAL)!r}; assert not loaded, loaded"
    run(loaded)
