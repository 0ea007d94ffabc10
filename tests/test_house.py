"""The rules of the house, kept true by the machine: names, imports, pins, privacy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import LONGEST, ONE_EXPERIMENT

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("components", "flows", "dashboards")
SOURCES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
TABLES = {
    "components/client/clients",
    "components/world/families",
    "components/corpus/corpora",
    "components/dictionary/architectures",
    "components/dictionary/interchange/formats",
    "components/interpretation/explainers",
    "components/interpretation/scorers",
    "components/interpretation/latent_scorers",
    "components/interpretation/dictionary_scorers",
    "components/interpretation/predictors",
    "components/steering/methods",
    "components/steering/judges",
    "components/evaluation/evaluations",
    "components/export/targets",
}
ONE_DOOR = {
    "transformers": {"components/model/loading.py", "components/world"},
    "huggingface_hub": {"components/model"},
    "prefect": {"flows"},
    "mlflow": {"flows/tracking", "flows/stack/mlflow_server.py", "dashboards/runs.py"},
    "openai": {"components/client/clients/endpoint.py"},
    "streamlit": {"dashboards"},
    "dvc": {"flows/pipeline.py"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("library", ONE_DOOR)
def test_a_foreign_library_has_one_door(library: str) -> None:
    doors = ONE_DOOR[library]
    users = {
        name(path)
        for path in SOURCES
        if any(m == library or m.startswith(f"{library}.") for m in imports(path))
    }
    assert {
        user
        for user in users
        if not any(user == door or user.startswith(f"{door}/") for door in doors)
    } == set()


@pytest.mark.parametrize("folder", sorted(TABLES))
def test_entries_of_a_table_do_not_import_their_siblings(folder: str) -> None:
    package = folder.replace("/", ".")
    entries = [path for path in (REPOSITORY / folder).glob("*.py") if path.name != "__init__.py"]
    assert entries, f"{folder} has no entry"
    for path in entries:
        assert not {module for module in imports(path) if module.startswith(f"{package}.")}, name(
            path
        )


def test_no_file_is_called_after_nothing() -> None:
    forbidden = {"utils", "helpers", "common", "core", "base", "misc"}
    assert {
        name(path) for path in SOURCES if path.stem in forbidden or path.parent.name in forbidden
    } == set()


def test_nothing_reads_or_writes_pickle() -> None:
    words = re.compile(
        r"\bimport pickle\b|\btorch\.load\(|\btorch\.save\(|\bjoblib\.|allow_pickle=True"
    )
    assert {name(path) for path in SOURCES if words.search(path.read_text())} == set()


def _as_the_locale_has_it(path: Path) -> list[int]:
    """Lines that read or write text without naming its encoding."""
    found = []
    for call in (
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ):
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        called = (
            call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        )
        modes = [
            value.value
            for value in (*call.args, named.get("mode"))
            if isinstance(value, ast.Constant)
        ]
        modes = [
            mode for mode in modes if isinstance(mode, str) and mode and set(mode) <= set("rwabxt+")
        ]
        text = isinstance(named.get("text"), ast.Constant) and named["text"].value is True
        opened = called in ("open", "fdopen") and not any("b" in mode for mode in modes)
        # a method `open` without a mode is no file's
        opened = opened and (bool(modes) or isinstance(call.func, ast.Name))
        before = {"read_text": 0, "write_text": 1}.get(called)  # arguments before the encoding
        method = (
            isinstance(call.func, ast.Attribute) and before is not None and len(call.args) <= before
        )
        if (method or opened or text) and "encoding" not in named:
            found.append(call.lineno)
    return found


@pytest.mark.parametrize(
    "code",
    [
        "p.read_text()",
        "p.write_text(t)",
        "p.read_text(errors='strict')",
        "open(p)",
        "p.open('w')",
        "run(c, text=True)",
    ],
)
def test_text_without_an_encoding_is_noticed(tmp_path: Path, code: str) -> None:
    (tmp_path / "code.py").write_text(
        f"import os\n{code}\n{code[:-1]}, encoding='utf-8')\n".replace("(,", "(")
    )
    assert _as_the_locale_has_it(tmp_path / "code.py") == [2]


def test_text_is_read_and_written_as_utf_8_whatever_the_locale() -> None:
    sources = [*SOURCES, *sorted((REPOSITORY / "benchmarks").rglob("*.py"))]
    assert {name(path): lines for path in sources if (lines := _as_the_locale_has_it(path))} == {}


def test_no_host_of_a_package_registry_and_no_path_of_a_machine_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout
    words = re.compile(
        r"pypi\.org|pythonhosted|registry\.npmjs|/work/|/opt/pypi|file:///" + r"home"
    )
    for file in listed.split():
        path = REPOSITORY / file
        if (
            path.suffix in {".py", ".md", ".toml", ".yaml", ".txt", ".json"}
            and path != Path(__file__)
            and path.exists()
        ):
            assert not words.search(path.read_text(errors="ignore")), file


def test_the_page_of_peers_has_no_digit_that_another_machine_would_change() -> None:
    from benchmarks import oracle

    generated = (
        oracle.DOC.read_text(encoding="utf-8").partition(oracle.BEGIN)[2].partition(oracle.END)[0]
    )
    told = re.findall(r"\| ([^|]+) \|$", generated, re.MULTILINE)
    assert len(told) > 100
    bounds = {f"{bound:.0e}" for bound in oracle.BOUNDS}
    assert set(told) == {"largest deviation below", *bounds, "not compared"}
    rows = [
        oracle.Row("peer", "theirs / ours", "codes", each, "as they are")
        for each in (0.0, 2.9e-8, 3.1e-8, 7e-5, None)
    ]
    assert [row.bounded for row in rows] == ["1e-10", "1e-06", "1e-06", "1e-03", "not compared"]
    # too large for any
    assert oracle.Row("peer", "theirs / ours", "codes", 0.2, "as they are").bounded == "2.0e-01"


def test_every_dependency_is_pinned_inside_its_range() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = dict(
        line.split("==")
        for line in (REPOSITORY / "constraints.txt").read_text().split()
        if "==" in line
    )
    pinned = {package.lower(): version for package, version in pinned.items()}
    for need in map(
        Requirement, [*project["dependencies"], *project["optional-dependencies"]["test"]]
    ):
        assert need.name.lower() in pinned, need
        assert need.specifier.contains(pinned[need.name.lower()], prereleases=True), (
            need,
            pinned[need.name.lower()],
        )
    assert "+cpu" not in (REPOSITORY / "constraints.txt").read_text()


def test_the_prefect_server_can_be_created_with_the_pinned_versions() -> None:
    code = "from prefect.server.api.server import create_app; create_app()"
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr


def test_dashboards_do_not_import_torch() -> None:
    modules = sorted(
        path.stem
        for path in (REPOSITORY / "dashboards").glob("*.py")
        if path.stem not in ("__init__", "app")
    )
    code = (
        f"import sys; import {', '.join(f'dashboards.{name}' for name in modules)}; "
        "sys.exit('torch' in sys.modules or 'prefect' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], cwd=REPOSITORY, check=False
        ).returncode
        == 0
    )


def test_the_readme_draws_the_chain_of_stages() -> None:
    from components.experiment import STAGES

    assert f"\n    {' -> '.join(STAGES)}\n" in (REPOSITORY / "README.md").read_text()


def test_every_folder_has_its_phrase_in_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    folders = {path.parent.name for path in SOURCES} | {
        "tests",
        "benchmarks",
        "examples",
        "docs",
        "data",
    }
    assert {folder for folder in folders if f"{folder}/" not in readme} == set()


def test_tests_that_look_at_one_experiment_run_in_one_process() -> None:
    asking = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "tests" / "flows").glob("test_*.py")
        if re.search(r"\bfirst: dict\[str, str\]", path.read_text("utf-8"))
    }
    assert asking - {"tests/flows/test_faults.py"} <= set(ONE_EXPERIMENT)  # that one is run alone
    assert all((REPOSITORY / path).exists() for path in LONGEST)
