"""The example of docs/dictionaries.md is one file, and one file is enough: registry, schema,
command line, sweep, laws."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.dictionary.contract import architectures

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "dictionaries.md").read_text()
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SEEN = """
from components.dictionary.contract import architectures
from components.experiment import ExperimentConfig
from components.sweep import cells
from flows.parameters import resolve

assert "group_max" in architectures.names()
definitions = ExperimentConfig.model_json_schema()["$defs"]
drawn = [entry["$ref"].rpartition("/")[2] for entry in definitions["TrainConfig"]["properties"]["dictionary"]["anyOf"]]
assert "GroupMaxConfig" in drawn, drawn
assert definitions["GroupMaxConfig"]["title"] == "group_max"
assert set(definitions["GroupMaxConfig"]["properties"]) == {"kind", "d_sae", "groups"}
config = resolve(["train.dictionary.kind=group_max", "train.dictionary.groups=6"])
assert config.train.dictionary == architectures["group_max"].config(groups=6)
swept = [cell for cell in cells(config.train, config.sweep) if cell.label == "group_max"]
assert sorted({cell.sparsity for cell in swept}) == [2.0, 4.0, 8.0] and len(swept) == 9
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the sources, with the example as one more file."""
    folder = tmp_path_factory.mktemp("checkout")
    without = shutil.ignore_patterns("__pycache__")
    for name in ("components", "flows", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=without)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    (folder / "components" / "dictionary" / "architectures" / "group_max.py").write_text(EXAMPLE)
    return folder


def python(folder: Path, *arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_it_is_in_the_registry_in_the_schema_of_the_form_and_on_the_command_line(checkout):
    python(checkout, "-c", SEEN)
    python(
        checkout,
        "-m",
        "flows",
        "params",
        "train.dictionary.kind=group_max",
        "train.dictionary.groups=6",
    )


def test_it_keeps_the_laws(checkout):
    laws = "tests/contracts/test_architectures.py"
    python(checkout, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", laws, "-k", "group_max")


def test_it_has_forty_lines():
    assert sum(bool(line.strip()) for line in EXAMPLE.splitlines()) <= 40


def test_every_registered_architecture_has_its_paragraph():
    assert [name for name in architectures.names() if f"\n**`{name}`**" not in PAGE] == []
