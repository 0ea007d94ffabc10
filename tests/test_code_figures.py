"""The figures of the code are those of files whose every line is known."""

from __future__ import annotations

from benchmarks.code_figures import FOLDERS, measured, revision, table

REPEATED = """
def {name}(x):
    a = x + 1
    b = a + 2

    # a reason
    c = b + 3
    d = c + 4
    e = d + 5
    return a + b + c + d + e
"""
ONE = f'''"""A module that says what it is."""

import os

from a import (
    b,
    c,
)


class Thing:
    """Words of a thing."""

    wide: str = "{"x" * 90}"
    """Words of a field."""


NAMES = r"evaluate\\.fvu", rf"steer\\.(\\w+)\\.({{BUDGET}})", r"\\.over_\\w+$", r"blocks\\.(\\d+)", "evaluate.fvu"
''' + REPEATED.format(name="first")
TWO = '"""Another."""\n\n\nclass Thing:\n    pass\n\n\nclass Other:\n    pass\n' + REPEATED.format(
    name="second"
)
FILES = {"components/one.py": ONE, "flows/two.py": TWO}


def test_each_figure_is_what_the_files_hold():
    figures = measured(FILES)
    values = figures.values
    assert values["files"] == 2
    assert values["lines"] == ONE.count("\n") + TWO.count("\n")
    assert (values["largest file"], values["which file"]) == (ONE.count("\n"), "components/one.py")
    assert values["longest function"] == 9
    assert values["own-line comments a thousand lines"] == round(2000 / values["lines"], 1)
    assert figures.lists["wide lines"] == [
        "components/one.py:14 (108)",
        "components/one.py:18 (104)",
    ]
    assert figures.lists["class names twice"] == ["Thing: components/one.py, flows/two.py"]
    assert [name.partition(" ")[2] for name in figures.lists["parsed names"]] == [
        'r"evaluate\\.fvu"', 'rf"steer\\.(\\w+)\\.({BUDGET})"', 'r"\\.over_\\w+$"',
    ]  # fmt: skip


def test_what_is_repeated_is_said_once_with_where_it_stood_first():
    """Six lines or more, comments and blank ones left out; the lines with the functions' names
    differ."""
    (repeated,) = measured(FILES).lists["duplicates"]
    first, second = (text.splitlines().index("    a = x + 1") + 1 for text in (ONE, TWO))
    assert repeated == f"flows/two.py:{second} as components/one.py:{first}"
    assert measured(FILES).values["lines in them"] == 6
    shorter = TWO.replace("    e = d + 5\n", "")
    assert measured({**FILES, "flows/two.py": shorter}).lists["duplicates"] == []


def test_tokens_are_of_the_code_alone():
    assert measured({"a.py": "x = 1  # one\n\n\n"}).values["tokens"] == 3
    assert (
        measured(
            {"a.py": '"""Words."""\n\n\ndef f():\n    """More."""\n    return "text"\n'}
        ).values["tokens"]
        == 7
    )


def test_a_revision_is_read_as_git_has_it():
    files = revision("HEAD", [*FOLDERS, "no-such-folder"])
    assert "components/device.py" in files and "class Execution" in files["components/device.py"]
    figures = measured(
        {path: text for path, text in files.items() if path.startswith("components/store")}
    )
    shown = table({"HEAD": figures, "again": figures}).splitlines()
    assert shown[0] == "|  | HEAD | again |" and len(shown) == 2 + len(figures.values)
