"""A folder as a table: one file is one entry, named by its file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import UnknownNameError
from components.registry import Registry, nearest

ENTRY = "import animals\n\n\n@animals.registry\nclass Animal:\n    {body}\n"


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A package of two entries and a private file."""
    package = tmp_path / "animals"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from components.registry import Registry\n\nregistry = Registry('animal', 'animals')\n"
    )
    (package / "cat.py").write_text(ENTRY.format(body="version = 4"))
    (package / "dog.py").write_text(ENTRY.format(body="pass"))
    (package / "_private.py").write_text("raise RuntimeError('not an entry')\n")
    monkeypatch.syspath_prepend(tmp_path)
    import animals as package_module

    yield package_module.registry
    for name in [name for name in sys.modules if name.partition(".")[0] == "animals"]:
        del sys.modules[name]


def test_names_are_those_of_the_files_and_nothing_is_imported_to_know_them(
    animals: Registry,
) -> None:
    assert animals.names() == list(animals) == ["cat", "dog"]
    assert "animals.cat" not in sys.modules


def test_an_entry_is_imported_when_asked_for_and_knows_its_name(animals: Registry) -> None:
    assert animals["cat"].kind == "cat"
    assert "animals.cat" in sys.modules and "animals.dog" not in sys.modules
    assert [(name, entry.kind) for name, entry in animals.items()] == [
        ("cat", "cat"),
        ("dog", "dog"),
    ]


def test_a_version_stands_beside_the_code_and_is_1_where_none_does(animals: Registry) -> None:
    assert (animals.version("cat"), animals.version("dog")) == (4, 1)


def test_an_unknown_name_is_told_with_the_known_ones_and_the_nearest(animals: Registry) -> None:
    with pytest.raises(
        UnknownNameError, match=r"^no animal named 'cta'; known: cat, dog; did you mean 'cat'\?$"
    ):
        animals["cta"]
    with pytest.raises(UnknownNameError, match=r"^no animal named 'zebra'; known: cat, dog$"):
        animals["zebra"]
    with pytest.raises(UnknownNameError, match="no animal named '_private'"):
        animals["_private"]


def test_where_nothing_is_known_the_sentence_says_so() -> None:
    assert nearest("a", []) == "known: none"
