"""Every block of code in the README runs.

The Python blocks under one ``##`` heading are one program, in the order in which they stand; each program runs in a
process of its own, as a reader's would, with warnings as errors and a Redis where the README says there is one. If it
made an application, that application is started and stopped. Commands name targets that the Makefile has.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
REDIS_IN_README = "redis://localhost:6379/0"

_FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,})(?P<language>\w*)")
_COMMANDS = {"bash", "console", "sh", "shell"}

STARTS_ITS_APPLICATIONS = """
import fastapi.testclient
for _app in [value for value in list(globals().values()) if isinstance(value, fastapi.FastAPI)]:
    with fastapi.testclient.TestClient(_app):
        pass
"""


@dataclass
class Section:
    """What stands under one ``##`` heading. Blank lines stand for the text between, so that line numbers agree."""

    title: str
    python: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @property
    def program(self) -> str:
        return "\n".join(self.python)


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


def test_the_readme_has_code_to_run() -> None:
    assert any(section.python for section in SECTIONS), "README.md is missing, or has no block of Python"


@pytest.mark.parametrize(
    "section", [section for section in SECTIONS if section.python], ids=lambda section: section.title
)
def test_the_code_of_a_section_runs(section: Section, redis_url: str, tmp_path: Path) -> None:
    program = tmp_path / "README.py"
    program.write_text(section.program.replace(REDIS_IN_README, redis_url) + "\n" + STARTS_ITS_APPLICATIONS)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{section.title} (the numbers of lines are the README's):\n{done.stderr}"


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
    assert second.commands == ["make x"]
