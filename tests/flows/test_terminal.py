"""What is printed: data is never markup, and a locale without UTF-8 ends no command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import terminal

REPOSITORY = Path(__file__).resolve().parents[2]
HOSTILE = "[/b] [red]r[/] [link=http://e.com]l[/link] :smile: _g_ \\[x] [INST]"
C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LC_", "PYTHONIOENCODING"))
    }
    given |= {
        "PYTHONPATH": str(REPOSITORY),
        "LATENTFLOW_STATE": str(folder / "state"),
        **environment,
    }
    command = [sys.executable, "-m", "flows", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        cwd=folder,
        env=given,
        check=False,
        encoding="utf-8",
        errors="replace",
    )


@pytest.mark.parametrize("text", [HOSTILE, "[/INST] hi", "[link] hi", "[bold]", ":cat:"])
def test_a_cell_of_a_query_is_shown_as_it_is(tmp_path: Path, text: str) -> None:
    quoted = text.replace("'", "''")
    done = run("sql", f"select '{quoted}' as \"{text.replace(chr(34), '')}\"", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(text) == 2, done.stdout


def test_a_cell_cannot_command_the_terminal(tmp_path: Path) -> None:
    done = run("sql", "select 'a\x1b[31mred\x07\x9b2J' as x", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", done.stdout.replace("\n", "")), (
        done.stdout
    )
    assert r"a\x1b[31mred\x07\x9b2J" in done.stdout


def test_every_console_of_the_flows_is_one_that_shows_text_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for console in (terminal.console, terminal.for_tables()):
        console.print(HOSTILE, soft_wrap=True)
        assert capsys.readouterr().out == HOSTILE + "\n"
    terminal.aside.print(HOSTILE, soft_wrap=True)
    assert capsys.readouterr().err == HOSTILE + "\n"
    made = re.compile(r"\bConsole\(|\bfrom_markup\b|\[/\]|\bmarkup=True\b|rich import print")
    where = {
        path.name
        for path in (REPOSITORY / "flows").glob("*.py")
        if made.search(path.read_text(encoding="utf-8")) and path.name != "terminal.py"
    }
    assert where == set()


@pytest.mark.timeout(900)  # a whole experiment
def test_a_locale_without_utf_8_prints_and_writes_everything(tmp_path: Path) -> None:
    """One experiment with letters beyond ASCII in its parameters, from the first stage to the
    table."""
    params = yaml.safe_load((REPOSITORY / "examples" / "tiny.yaml").read_text(encoding="utf-8"))
    params["name"] = "größer – 日本"
    written = yaml.safe_dump(params, allow_unicode=True)
    (tmp_path / "params.yaml").write_text(written, encoding="utf-8")
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    store = f"execution.store={tmp_path / 'store'}"
    printed = run("params", folder=tmp_path, **C_LOCALE)
    assert printed.returncode == 0, printed.stderr
    assert yaml.safe_load(printed.stdout)["name"] == params["name"]
    given = run("params", "name=größer", folder=tmp_path, **C_LOCALE)
    assert yaml.safe_load(given.stdout)["name"] == "größer", given.stderr
    made = run("experiment", "--plain", store, folder=tmp_path, **C_LOCALE)
    assert made.returncode == 0, made.stderr
    assert "Traceback" not in made.stderr and "Error" not in made.stderr
    assert "higher is better" in made.stdout and "?" not in made.stdout
    assert made.stdout.isascii()
    report = next((tmp_path / "store" / "report").glob("*/report.md"))
    assert "95% interval" in report.read_text(encoding="utf-8")
    table = run("sql", "select 'größer ↑' as x", store, folder=tmp_path, **C_LOCALE)
    assert table.returncode == 0 and "gr\\xf6\\xdfer ^" in table.stdout, table.stderr
    rows = run("sql", "--json", "select 'größer ↑' as x", store, folder=tmp_path, **C_LOCALE)
    assert json.loads(rows.stdout) == [{"x": "größer ↑"}]
    latin = run("sql", "select 'größer ↑' as x", store, folder=tmp_path, PYTHONIOENCODING="latin-1")
    assert latin.returncode == 0, latin.stderr


def test_a_file_name_that_the_locale_cannot_hold_is_a_sentence(tmp_path: Path) -> None:
    done = run("read", "--plain", f"execution.store={tmp_path}/größe", folder=tmp_path, **C_LOCALE)
    assert done.returncode == 2 and done.stderr.startswith(
        "Locale: this locale (ascii) has no letter"
    ), done.stderr
    assert "set LC_ALL=C.UTF-8" in " ".join(done.stderr.split())
