"""The examples of docs/extending.md, and a copy of the sources that holds them and nothing else
that is new."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from components.report.tables import REPORT
from components.store.artifact import Artifact, Store

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(
    r"^`(?P<path>components/\S+\.py)`\n\n```python\n(?P<code>.*?)```\n\n"
    r"```sh\nlatentflow experiment --params examples/tiny\.yaml (?P<arguments>.*?)\n```",
    re.DOTALL | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Example:
    """One example of the page.

    Attributes:
        path: where it is to be saved.
        code: the whole file.
        arguments: the overrides of the command that uses it.
    """

    path: str
    code: str
    arguments: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The entry's name, which is the file's."""
        return Path(self.path).stem

    @property
    def n_lines(self) -> int:
        """Lines that are not blank."""
        return sum(bool(line.strip()) for line in self.code.splitlines())


EXAMPLES = {
    example["path"]: Example(
        example["path"], example["code"], tuple(shlex.split(example["arguments"]))
    )
    for example in EXAMPLE.finditer(PAGE)
}


@dataclasses.dataclass(frozen=True)
class Tree:
    """A copy of the sources with every example of the page in its place; made once for all tests of
    a session.

    Attributes:
        folder: where it is, a repository of git.
        added: path of each example -> what `git status` said when it alone had been added.
    """

    folder: Path
    added: Mapping[str, list[str]]

    @classmethod
    def planted(cls, folder: Path) -> Tree:
        """Copies the sources and writes the examples, one after another."""
        without = shutil.ignore_patterns("__pycache__")
        for name in ("components", "flows", "tests", "examples", "data/demo"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=without)
        for name in ("pyproject.toml", ".gitignore"):
            shutil.copy(REPOSITORY / name, folder)
        tree = cls(folder, {})
        tree.git("init", "-q")
        tree.git("add", "-A")
        added = {}
        for example in EXAMPLES.values():
            (folder / example.path).write_text(example.code, encoding="utf-8")
            added[example.path] = tree.changes()
            tree.git("add", "-A")
        return cls(folder, added)

    def git(self, *arguments: str) -> str:
        """What git prints in the copy."""
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout

    def changes(self) -> list[str]:
        """The files that differ from what was last added to git's index, those that git ignores
        left out."""
        changed = (
            self.git("diff", "--name-only"),
            self.git("ls-files", "--others", "--exclude-standard"),
        )
        return [line for part in changed for line in part.splitlines()]

    def python(self, *arguments: str, seconds: float = 280) -> str:
        """What Python prints with these arguments, run in the copy; it must end well."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def experiment(self, *overrides: str) -> pl.DataFrame:
        """The report of `latentflow experiment` on examples/tiny.yaml; stages that an earlier one
        made are found."""
        store = self.store
        given = (
            "--plain",
            "--params",
            "examples/tiny.yaml",
            f"execution.store={store}",
            "execution.threads=1",
        )
        self.python("-m", "flows", "experiment", *given, *overrides)
        return REPORT.read(self.newest("report"))

    @property
    def store(self) -> Path:
        """Where experiments leave their artifacts."""
        return self.folder / "data" / "artifacts"

    def newest(self, stage: str) -> Artifact:
        """The artifact of a stage that was made last."""
        return max(Store(self.store).artifacts(stage), key=lambda artifact: artifact.age)
