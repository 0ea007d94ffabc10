"""What DVC sees: stages with the same names and sections, metrics by dotted name, pointer files
without digests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from components.config import Config
from components.errors import MissingArtifactError, ServiceError
from components.experiment import STAGES, ExperimentConfig, parents, rests_on
from components.report.tables import REPORT
from components.store.artifact import Store
from components.store.stage import GIVEN, Facts, Inputs, Stage, Work
from flows import pipeline, queries
from flows.__main__ import app
from flows.parameters import resolve
from flows.plan import Plan
from flows.stack import environment
from flows.steps import write_reference
from tests.report.rows import found, score, steered

REPOSITORY = Path(__file__).resolve().parents[2]


class Nothing(Config):
    """A stage without choices."""


def report(store: Store) -> Store:
    def make(folder: Path, config: Nothing, inputs: Inputs, settings: None) -> Work:
        rows = [
            score("fvu", 0.25),
            score("fvu", 0.3, hook_point="resid_post.2"),
            found(0.5, concept_kind="all"),
            found(0.75, concept_kind="surface"),
            steered(0.4, "composite", concept="value", concept_kind="all"),
            steered(None, reason="no concept passed"),
        ]
        REPORT.write(folder, rows)
        facts: Facts = {}
        return facts
        yield

    store.ensure(Stage("report", 1, make), Nothing(), {})
    return store


def test_the_pinned_artifacts_are_those_that_this_code_would_make(tmp_path: Path) -> None:
    """When this fails, run `dvc repro`, then benchmarks/readme.py."""
    planned = Plan(resolve([f"execution.store={tmp_path}"], REPOSITORY / "params.yaml"))
    planned.artifact("report")
    keys = {step.label: step.key for step in planned.steps}
    pinned = {
        name: json.loads((REPOSITORY / "data" / "refs" / f"{name}.json").read_text())["key"]
        for name in STAGES
    }
    assert {name: keys[name] for name in STAGES} == pinned


def test_dvc_stages_are_the_stages_and_their_sections() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert set(stages) == set(STAGES)
    for name, stage in stages.items():
        assert f"flows {name} --plain --ref data/refs/{name}.json" in stage["cmd"]
        assert set(stage["params"]) <= set(ExperimentConfig.model_fields)
        assert name in stage["params"]
        refs = {path.removeprefix("data/refs/").removesuffix(".json") for path in stage["deps"]} - {
            "data/demo"
        }
        needed = {parent.stage for parent in parents(name).values()} - set(GIVEN)
        assert all(rests_on(name, ref) for ref in refs)
        assert all(any(rests_on(ref, parent) for ref in refs) for parent in needed), name


def test_dvc_asks_for_every_stage_where_only_the_pointers_are(tmp_path: Path) -> None:
    """A fresh clone holds the pointers and not one artifact."""
    for name in ("dvc.yaml", "dvc.lock", "params.yaml", ".dvcignore"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    shutil.copytree(
        REPOSITORY / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache")
    )
    for folder in ("demo", "refs"):
        shutil.copytree(REPOSITORY / "data" / folder, tmp_path / "data" / folder)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "dvc", "repro", "--dry"]
    told = subprocess.run(
        command, cwd=tmp_path, capture_output=True, check=False, encoding="utf-8", errors="replace"
    )
    assert told.returncode == 0, told.stderr
    assert re.findall(r"Running stage '(\w+)'", told.stdout) == list(
        yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    ), told.stdout


def test_metrics_stand_by_dotted_name_and_leave_out_what_was_not_measured(
    store: Store, tmp_path: Path
) -> None:
    artifact = next(report(store).artifacts("report"))
    pipeline.write_metrics(tmp_path / "metrics.json", artifact)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == {
        "evaluate.fvu": 0.25,
        "evaluate.fvu.resid_post.2": 0.3,
        "evaluate.concepts_found.latent": 0.5,
        "evaluate.concepts_found.latent.surface": 0.75,
        "steer.add_direction.kl_0.1.composite.concept.value": 0.4,
    }


def test_a_pointer_file_holds_keys_and_no_digest(store: Store, tmp_path: Path) -> None:
    artifact = next(report(store).artifacts("report"))
    write_reference(tmp_path / "refs" / "report.json", artifact)
    assert json.loads((tmp_path / "refs" / "report.json").read_text()) == {
        "stage": "report",
        "key": artifact.key,
        "parents": {},
    }


def test_sql_reads_every_runs_tables(store: Store) -> None:
    answer = queries.run(
        report(store),
        "select name, value from report where value > 0.4 and stage = 'evaluate' order by value",
    )
    assert answer.rows() == [
        ("evaluate.concepts_found.latent", 0.5),
        ("evaluate.concepts_found.latent", 0.75),
    ]


def test_sql_and_publish_take_the_store_of_the_resolved_parameters(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTFLOW_STORE", str(tmp_path / "shown"))
    query = ["sql", "select name from report where value = 0.25", "--json"]

    def told(*arguments: str) -> str:
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False).stdout

    assert json.loads(told(*query, f"execution.store={store.root}")) == [{"name": "evaluate.fvu"}]
    (tmp_path / "other.yaml").write_text(f"execution: {{store: {store.root}}}")
    assert json.loads(told(*query, "--params", "other.yaml")) == [{"name": "evaluate.fvu"}]
    (tmp_path / "params.yaml").write_text(f"execution: {{store: {store.root}}}")
    assert json.loads(told(*query)) == [{"name": "evaluate.fvu"}]
    for arguments, wanted in (
        (["execution.store=empty"], "no report in .*/empty to publish"),
        (["nokey"], f"no artifact report/nokey in {store.root}"),
        (["nokey", "execution.store=empty"], "no artifact report/nokey in .*/empty"),
    ):
        with pytest.raises((ServiceError, MissingArtifactError), match=wanted):
            told("publish", *arguments)


def test_publish_says_what_to_add_to_git_wherever_the_store_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = report(Store(tmp_path / "my own" / "artifacts"))
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True, cwd=tmp_path)
    said = list(pipeline.publish(store))
    command = said[-1].removeprefix("next: ").partition(" && ")[0]
    assert command == "git add 'my own/artifacts'/*/*.dvc 'my own/artifacts'/*/.gitignore"
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    listed = subprocess.run(
        ["git", "ls-files", "my own"], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    (made,) = store.artifacts("report")
    assert listed.split("\n")[:-1] == [
        "my own/artifacts/report/.gitignore",
        f"my own/artifacts/report/{made.key}.dvc",
    ]


def test_a_run_whose_store_the_pages_do_not_show_says_so_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LATENTFLOW_STORE", str(tmp_path / "shown"))
    environment.warn_of_another_store(tmp_path / "there" / ".." / "shown")
    assert not caplog.messages
    environment.warn_of_another_store(tmp_path / "used")
    (line,) = caplog.messages
    assert line.startswith(
        f"this run keeps its artifacts in {tmp_path / 'used'}, and the pages show "
        f"{tmp_path / 'shown'}"
    )
    assert "set execution.store in params.yaml, or LATENTFLOW_STORE" in line


def test_git_ignores_artifacts_and_neither_git_nor_dvc_ignores_what_publishes_them() -> None:
    from dvc.scm import Git

    scm = Git(str(REPOSITORY))
    stage = REPOSITORY / "data" / "artifacts" / "read"
    assert scm.is_ignored(f"{stage / 'abc'}/")
    # DVC walks past a folder that is ignored, and the pins in it
    assert not scm.is_ignored(f"{stage}/")
    assert not scm.is_ignored(str(stage / "abc.dvc"))
