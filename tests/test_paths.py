"""`~` is the home folder wherever a path is taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.errors import ConfigError, DictionaryError
from components.model.reference import ModelConfig
from components.paths import expanded
from components.store.artifact import Store
from components.store.estimate import disk_free
from flows import __main__, interchange, parameters
from flows.stack import environment


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_tilde_is_the_home_folder_and_another_one_is_refused(home: Path) -> None:
    assert expanded("~/x") == home / "x"
    assert expanded("a/~/x") == Path("a/~/x")
    with pytest.raises(
        ConfigError,
        match=r"'~nobody-here/x': no home folder of that name is known here; write the whole",
    ):
        expanded("~nobody-here/x")


def test_stores_lie_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Store("~/store").root == home / "store"
    asked: list[Path] = []
    found = shutil.disk_usage(home)  # what is free changes while others write
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda folder: asked.append(folder) or found)
        assert disk_free("~/store") == found.free and asked == [home]
    params = home / "params.yaml"
    params.write_text("execution: {store: ~/other}\n")
    assert environment.store(params) == home / "other"
    monkeypatch.setenv("LATENTFLOW_STATE", "~/state")
    assert environment.state() == home / "state"


def test_parameter_files_and_folders_to_import_are_found_there(home: Path) -> None:
    (home / "mine.yaml").write_text("name: mine\n")
    result = CliRunner().invoke(__main__.app, ["params", "--params=~/mine.yaml"])
    assert "name: mine" in result.output
    (home / "weights").mkdir()
    assert interchange.local("~/weights", "saelens", ModelConfig()) == home / "weights"
    with pytest.raises(DictionaryError, match="no folder '~/none'"):
        interchange.local("~/none", "saelens", ModelConfig())
    assert parameters.resolve(["name=x"], home / "mine.yaml").name == "x"
