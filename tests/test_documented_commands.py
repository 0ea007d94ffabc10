"""Commands with parameters that README and docs show: each is one that the parameters accept."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from flows.parameters import resolve

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?<![\w-])(?:latentflow|python -m flows) [a-z]+ [^`\n]*=[^`\n]*")
PARAMETER = re.compile(r"(?:name|[a-z_]+(?:\.\w+)+)=")
ADDED = {"extending.md", "my_method"}
"""Commands that name an entry which the page adds; tests/test_extending.py runs those."""


def _commands() -> list[str]:
    shown = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        commands = (found[0].partition(" #")[0] for found in COMMAND.finditer(text))
        shown += [
            f"{page.name}: {command}"
            for command in commands
            if not any(entry in f"{page.name}: {command}" for entry in ADDED)
        ]
    return shown


@pytest.mark.parametrize("shown", _commands())
def test_the_parameters_of_a_documented_command_are_accepted(
    shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(shown.partition(": ")[2])
    params = words[words.index("--params") + 1] if "--params" in words else "params.yaml"
    # a name in angle brackets or capitals stands for a file of the reader's
    path = Path(params) if Path(params).is_file() else Path("params.yaml")
    resolve([word for word in words if PARAMETER.match(word)], path)


def test_commands_were_found() -> None:
    assert len(_commands()) > 30
