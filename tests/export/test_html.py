"""The page of chosen latents: what stands there, escaped, bounded, and asking for nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from components.errors import InputError
from components.export.contract import Findings, export
from components.export.targets import html
from components.store.artifact import Artifact, Store
from components.store.tables import EXPLANATION_SCORES
from tests.dashboards.conftest import DRAWN_BY_STRENGTH, Invented, written

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """The text of a page, its tags, and whether they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Invented:
    return written(Store(tmp_path_factory.mktemp("html") / "artifacts"))


def page(report: Artifact, to: Path, latents: list[int]) -> str:
    store = Store(report.folder.parent.parent)
    export(html.Html(), Findings.of(store, report.key), to, latents)
    assert [path.name for path in to.iterdir()] == [html.FILE]
    return (to / html.FILE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(invented: Invented, tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(invented.report, tmp_path_factory.mktemp("page") / "page", [5, 0, 7])


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_it_shows_each_latent_with_all_that_is_known(text: str, invented: Invented) -> None:
    words = " ".join(read(text).text)
    assert [int(n) for n in re.findall(r'<h2 id="latent-(\d+)">', text)] == [0, 5, 7]
    for wanted in ("the word 'harbour' after 'the'", "explainer: log_odds", "floor", "probe",
                   "promoted", "suppressed", "Strongest ·", "Interval 0 ·", "Interval 3 ·", "Silent",
                   "no explanation: no context: the latent is dead", "Never active"):  # fmt: skip
        assert wanted in words, wanted
    scores = EXPLANATION_SCORES.read(invented.artifacts["interpret"])
    mine = scores.filter(pl.col("latent") == 7, pl.col("scorer") == "detection")
    row = re.search(
        r"<tr><td>log_odds</td><td>detection</td>.*?</tr>", text.partition('id="latent-7"')[2]
    )
    assert row is not None
    for role in ("entry", "floor", "ceiling"):
        value = mine.filter(pl.col("role") == role)["value"][0]
        assert f">{value:.3f}</td>" in row[0]


def test_windows_drawn_by_strength_stand_among_the_active_ones(
    invented: Invented, tmp_path: Path
) -> None:
    text = page(invented.report, tmp_path / "page", [DRAWN_BY_STRENGTH])
    words = " ".join(read(text).text)
    reach = "largest activation 8 to 8 · 1 of 1 windows"
    titles = (
        "Strongest ·",
        f"Drawn by strength, interval 0 · {reach}",
        f"Interval 0 · {reach.replace('1', '2')}",
        "Silent ·",
    )
    places = [words.index(title) for title in titles]
    assert places == sorted(places) and words.count("Silent") == 1


def test_text_of_the_corpus_is_escaped(text: str) -> None:
    assert "<b>" not in text and "&lt;b&gt;sailor&lt;/b&gt;" in text


def test_it_asks_for_nothing_and_runs_nothing(text: str) -> None:
    reader = read(text)
    assert reader.tags & {"script", "link", "img", "iframe", "object", "form", "video"} == set()
    assert not {name for name in reader.attributes if name.startswith("on") or name == "src"}
    assert set(re.findall(r'href="(.)', text)) == {"#"}
    assert not re.search(r"https?://|url\(|@import", text)
    assert "default-src 'none'" in text


def test_both_themes_are_inside(text: str) -> None:
    assert "color-scheme:light dark" in text and "prefers-color-scheme:dark" in text


def test_its_size_is_bounded(
    invented: Invented, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "MOST_BYTES", 30_000)
    with pytest.raises(InputError, match=r"page of 20 latents would be larger than .*choose fewer"):
        page(invented.report, tmp_path / "page", list(range(20)))
    assert not any(tmp_path.iterdir())
