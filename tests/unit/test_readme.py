"""Every block of code in the README runs, and does what it says.

The Python blocks under one ``##`` heading are one program, in the order in which they stand; each program runs in a
process of its own, as a reader's would, with warnings as errors and a Redis where the README says there is one. What
it defines is used: every endpoint is requested, every cached function called, each twice, and the second time has to
be a hit. A comment after an expression that reads as values, ``f(1)  # 34.9``, is what the expression is or prints.
Tests that a program defines are run by pytest. Types are checked, and commands name targets that the Makefile has.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fast_cache import NotInitialisedError, cache

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
REDIS_IN_README = "redis://localhost:6379/0"

_FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,})(?P<language>\w*)")
_COMMANDS = {"bash", "console", "sh", "shell"}
_COMMENT = re.compile(rb" +# (.+)")


@dataclass
class Section:
    """What stands under one ``##`` heading. Blank lines stand for the text between, so that line numbers agree."""

    title: str
    python: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @property
    def program(self) -> str:
        return "\n".join(self.python)

    @property
    def module(self) -> str:
        """A name for the program: the heading, with nothing that it would shadow."""
        return "readme_" + re.sub(r"\W+", "_", self.title.lower())

    @property
    def defines_tests(self) -> bool:
        body = ast.parse(self.program).body
        names = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        return any(name.startswith(("test_", "Test")) for name in names)


def sections(text: str) -> list[Section]:
    """Split a README into sections, with their blocks of code."""
    found = [Section("(top)")]
    block: re.Match[str] | None = None
    for number, line in enumerate(text.splitlines()):
        fence = _FENCE.match(line)
        if block is not None:
            if line.strip() == block["ticks"]:
                block = None
            elif block["language"] == "python":
                program = found[-1].python
                program += [""] * (number - len(program))
                program.append(line.removeprefix(block["indent"]))
            elif block["language"] in _COMMANDS:
                found[-1].commands.append(line.strip())
        elif fence:
            block = fence
        elif line.startswith("## "):
            found.append(Section(line.removeprefix("## ").strip()))
    assert block is None, "a block of code in the README never ends"
    return found


SECTIONS = sections(README.read_text()) if README.exists() else []
PROGRAMS = [section for section in SECTIONS if section.python]

# What is added to a program. Its first line is blank, because a heading stands there.
_BEFORE: Final = "from tests.unit.test_readme import prints as _prints, returns as _returns, use as _use"
_AFTER: Final = '\n\nif __name__ == "__main__":\n    _use(dict(globals()))\n'


def instrumented(program: str) -> str:
    """The program, with its results checked and what it defines used. Line numbers stay what they are."""
    first, _, rest = checking_results(program).partition("\n")
    assert not first, "a program begins below the title of the README"
    return f"{_BEFORE}\n{rest}{_AFTER}"


def checking_results(program: str) -> str:
    """Put a check around each expression whose result is given in a comment behind it."""
    lines = program.encode().split(b"\n")  # as bytes, because that is how ast counts columns
    for node in ast.walk(ast.parse(program)):
        if not isinstance(node, ast.Expr) or node.end_lineno is None or node.end_col_offset is None:
            continue
        first, last, column = node.lineno - 1, node.end_lineno - 1, node.end_col_offset
        comment = _COMMENT.fullmatch(lines[last], column)
        result = comment[1].decode() if comment else ""
        if not reads_as_values(result):
            continue
        prints = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "print"
        if not prints:
            lines[last] = lines[last][:column] + b")"
        before, code = lines[first][: node.col_offset], lines[first][node.col_offset :]
        check = f"_prints({result!r})".encode() if prints else f"_returns({result!r})(".encode()
        lines[first] = before + check + (code.removeprefix(b"print") if prints else code)
    return b"\n".join(lines).decode()


def reads_as_values(text: str) -> bool:
    """Whether a comment is a Python value, or several with spaces between, as ``print`` writes them."""

    def is_value(text: str) -> bool:
        try:
            ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return False
        return True

    return is_value(text) or (bool(text.split()) and all(map(is_value, text.split())))


def returns(result: str) -> Callable[[object], None]:
    """In a program: the check of a value."""

    def check(value: object) -> None:
        assert repr(value) == result, f"the README says {result}, and it is {value!r}"

    return check


def prints(result: str) -> Callable[..., None]:
    """In a program: the check of what is printed."""

    def check(*values: object) -> None:
        printed = " ".join(map(str, values))
        assert printed == result, f"the README says {result}, and it prints {printed}"

    return check


def use(names: dict[str, Any]) -> None:
    """In a program: use what it defined."""
    try:
        cache.get_cache()
    except NotInitialisedError:
        cache.init_app(FastAPI())
    for app in [value for value in names.values() if isinstance(value, FastAPI)]:
        with TestClient(app) as client:
            request_everything(client, app.openapi()["paths"])
        endpoints: list[Any] = [getattr(route, "endpoint", None) for route in app.routes]
        for endpoint in filter(is_cached, endpoints):
            assert endpoint.stats().hits, f"{endpoint} was requested twice, and not cached"
    for value in names.values():
        if is_cached(value):
            call(value)
        elif isinstance(value, type) and value.__module__ == "__main__":
            for method in [name for name, attribute in vars(value).items() if is_cached(attribute)]:
                call(getattr(example_of(value), method))


def is_cached(value: Any) -> bool:
    return hasattr(value, "invalidate") and hasattr(value, "refresh")


def request_everything(client: TestClient, paths: dict[str, dict[str, Any]]) -> None:
    """Request each endpoint twice, with an example of whatever it requires; both answers are the same."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            required = [parameter for parameter in operation.get("parameters", []) if parameter["required"]]
            given: dict[str, dict[str, str]] = {"path": {}, "query": {}, "header": {}}
            for parameter in required:
                given[parameter["in"]][parameter["name"]] = "1"  # a number and a text
            url = path.format(**given["path"])
            sent: dict[str, Any] = {"params": given["query"], "headers": given["header"]}
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                assert schema["items"] == {"type": "string"}, f"{path}: make an example of its body here"
                sent["json"] = ["kettle", "cup"]
            answers = [client.request(method, url, **sent) for _ in range(2)]
            assert [answer.is_success for answer in answers] == [True, True], f"{method} {path}: {answers[0].text}"
            assert answers[0].content == answers[1].content, f"{method} {path}"


def call(cached: Any) -> None:
    """Call a cached function twice: the second time is a hit."""
    parameters = inspect.signature(cached, eval_str=True).parameters.values()
    hits = cached.stats().hits
    for _ in range(2):
        result = cached(*(example_of(parameter.annotation) for parameter in parameters))
        if inspect.isawaitable(result):
            asyncio.run(awaited(result))
    assert cached.stats().hits > hits, f"{cached.__qualname__} was called twice alike, and not cached"


async def awaited(result: Any) -> Any:
    return await result


def example_of(annotation: Any) -> Any:
    """A value of a type: an object of a class is made with examples of what its constructor takes."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if annotation in (int, float, str):
        return annotation(1)
    if typing.get_origin(annotation) in (list, Iterable):
        return [example_of(*typing.get_args(annotation))]
    required = [p for p in inspect.signature(annotation, eval_str=True).parameters.values() if p.default is p.empty]
    return annotation(**{parameter.name: example_of(parameter.annotation) for parameter in required})


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, with this checkout as the package, and warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def program(section: Section, redis_url: str, tmp_path: Path) -> Path:
    """The program of a section, in a folder of its own."""
    path = tmp_path / f"{section.module}.py"
    path.write_text(instrumented(section.program).replace(REDIS_IN_README, redis_url))
    return path


def by_title(chosen: list[Section]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("section", chosen, ids=lambda section: section.title)


def test_the_readme_has_code_to_run() -> None:
    assert PROGRAMS, "README.md is missing, or has no block of Python"


@by_title(PROGRAMS)
def test_the_code_of_a_section_runs(section: Section, program: Path) -> None:
    done = run(program.name, cwd=program.parent)
    assert done.returncode == 0, f"{section.title} (the numbers of lines are the README's):\n{done.stderr}"


@by_title([section for section in PROGRAMS if section.defines_tests])
def test_the_tests_of_a_section_pass(section: Section, program: Path) -> None:
    done = run("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", program.name, cwd=program.parent)
    assert done.returncode == 0, f"{section.title}:\n{done.stdout}"


def test_type_checkers_and_linters_have_no_complaint(tmp_path: Path) -> None:
    files = [f"{section.module}.py" for section in PROGRAMS]
    for name, section in zip(files, PROGRAMS, strict=True):
        (tmp_path / name).write_text(section.program + "\n")
    checks = (["mypy", "--strict", "--config-file", os.devnull], ["ruff", "check", "--isolated", "--select", "F"])
    for check in checks:
        done = run("-m", *check, *files, cwd=tmp_path)
        assert done.returncode == 0, f"the numbers of lines are the README's:\n{done.stdout}{done.stderr}"


def test_commands_name_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [command for section in SECTIONS for command in section.commands]
    named = {word for command in commands for word in re.findall(r"\bmake +([a-z-]+)", command)}
    assert named, "the README names no command of the Makefile"
    assert named <= targets


def test_sections_keep_the_readmes_numbers_of_lines() -> None:
    text = "# T\n\n```python\na = 1\n```\n## Two\ntext\n1. list\n   ```python\n   b = 2\n   ```\n```sh\nmake x\n```\n"
    top, second = sections(text)
    assert top.program.split("\n").index("a = 1") == text.split("\n").index("a = 1")
    assert second.program.split("\n").index("b = 2") == text.split("\n").index("   b = 2")
    assert instrumented(second.program).split("\n").index("b = 2") == text.split("\n").index("   b = 2")
    assert second.commands == ["make x"]


@pytest.mark.parametrize(
    ("line", "true"),
    [
        ("1 + 1  # 2", True),
        ("1 + 1  # 3", False),
        ("'é' + 'a'  # 'éa'", True),
        ("[1, 'a b']  # [1, 'a b']", True),
        ("[1, 'a b']  # [1, 'ab']", False),
        ("'a'  # \"a\"", False),
        ("print(1, 'a', 0.5)  # 1 'a' 0.5", False),
        ("print(1, None, 0.5)  # 1 None 0.5", True),
        ("print(\n    1,\n)  # 2", False),
        ("max(\n    1,\n    2,\n)  # 2", True),
        ("1 + 1  # any number of words", True),
    ],
)
def test_results_in_comments_are_checked(line: str, true: bool) -> None:
    code = checking_results(f"if True:\n    {line}\n")
    names = {"_prints": prints, "_returns": returns}
    if true:
        exec(code, names)
    else:
        with pytest.raises(AssertionError, match="the README says"):
            exec(code, names)
