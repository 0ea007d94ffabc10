"""Data on pages is never markup: what a name says is what a reader sees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from streamlit.testing.v1 import AppTest

from components.store.artifact import Store
from dashboards.markdown import code, plain, sentence
from tests.dashboards import conftest
from tests.dashboards.pages import PAGES

HOSTILE = "[/b] _g_ $x$ <b>q</b> **s** `c` ~~d~~ :smile: :red[h] | [l](http://e.com) &amp; \\"
TEXTS = [
    HOSTILE, "**bold", "_a", "__init__", "`", "``x`` `", "\\", "a\\_b", "1. one", "12) x", "# h", "- l", "+ l", "> q", "===",
    "---", "&#42; & a&b", "$5 and $6", "<!-- c -->", "![i](x)", "topic:red word:cat:x", ":heart_eyes: a:100:", "line\n\n# two",
    "log_odds", "12:30:45", "it's 50% – ö 日本語", "",
]  # fmt: skip
MARKDOWN = MarkdownIt("commonmark").enable(["strikethrough", "table"])
JOINER = "\N{WORD JOINER}"
SHOWN_AS_MARKDOWN = ("body", "label", "help", "text", "value", "options")
PLAIN_OPTIONS = ("selectbox", "multiselect")
"""Their options are shown as they are."""
MARKED = {
    "overview": {"title.body", "markdown.body", "caption.body"},
    "training": {"metric.help"},
    "steering": {"caption.body"},
    "lineage": {"markdown.body"},
}
"""Where the marks are met at least."""


def seen(source: str) -> str:
    """The words that a reader of this markdown sees; HTML that is no text any more is not among
    them."""
    words = []
    for block in MARKDOWN.parse(source):
        assert block.type not in ("html_block", "fence", "code_block", "hr"), source
        words += [
            token.content
            for token in block.children or ()
            if token.type in ("text", "text_special", "code_inline")
        ]
    return "".join(words).replace(JOINER, "")


def without_code(source: str) -> str:
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", source)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("shown", [plain, lambda text: f"before {plain(text)} after", code])
def test_data_is_shown_as_it_is(text: str, shown: Callable[[str], str]) -> None:
    source, line = shown(text), " ".join(text.split())
    assert seen(source).strip().removeprefix("before ").removesuffix(" after").strip() == line
    if shown is not code:  # Streamlit's own marks, which the parser of this test does not know
        assert not re.search(r"(?<!\\)(?:\\\\)*\$|(?<!\\):[\w+-]+:|(?<!\\):[a-z-]+\[", source)


def test_a_message_of_this_program_keeps_its_commands_and_addresses_and_nothing_else() -> None:
    said = "Prefect does not answer at http://127.0.0.1:9/a_b (no *way*); `make up` starts it, not `x_y` [z]"
    assert (
        "`make up`" in sentence(said)
        and "`x_y`" in sentence(said)
        and "http://127.0.0.1:9/a_b " in sentence(said)
    )
    assert seen(sentence(said)) == said.replace("`", "")
    assert seen(sentence("one ` alone")) == "one ` alone"


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> conftest.Invented:
    """An invented experiment whose every name, concept, explanation and reason is full of marks."""
    topics = tuple(f"{topic} {HOSTILE}" for topic in conftest.TOPICS)
    monkeypatch.setattr(conftest, "TOPICS", topics)
    monkeypatch.setattr(conftest, "KINDS", {f"topic.{topic}": "document" for topic in topics})
    rows = conftest.report_rows

    def marked(keys: Any, name: str, *rest: Any) -> list[dict[str, Any]]:
        found = [
            row | {"baseline_name": f"base {HOSTILE}", "hook_point": f"at {HOSTILE}"}
            for row in rows(keys, name, *rest)
        ]
        absent = {"value": None, "low": None, "high": None, "reason": f"why {HOSTILE}"}
        headline = next(row for row in found if row["measure"] == "cross_entropy_rise")
        unknown = found[0] | {"measure": HOSTILE}
        return [row if row is not headline else headline | absent for row in found] + [unknown]

    monkeypatch.setattr(conftest, "report_rows", marked)
    make = conftest.make

    def making(store: Any, stage: str, inputs: Any, facts: Any, write: Any, **config: Any) -> Any:
        if "hook_point" in facts:
            facts = facts | {"hook_point": f"at {HOSTILE}", "held_out": f"held {HOSTILE}"}
        if stage == "report":
            facts = facts | {"against_us": [f"against {HOSTILE}", f"again {HOSTILE}"]}
        return make(store, stage, inputs, facts, write, **config)

    monkeypatch.setattr(conftest, "make", making)
    return conftest.written(Store(tmp_path / "marked"), seed=77, name=f"named {HOSTILE}")


def markdown_of(app: AppTest) -> Iterator[tuple[str, str]]:
    """(kind of element, source) of everything that Streamlit reads as markdown on a page."""
    for element in [*app.main, *app.sidebar]:
        for field, value in element.proto.ListFields() if element.proto is not None else ():
            if element.type in (
                "html",
                "arrow_data_frame",
                "arrow_vega_lite_chart",
                "graphviz_chart",
            ):
                continue
            if field.name not in SHOWN_AS_MARKDOWN or (
                field.name == "options" and element.type in PLAIN_OPTIONS
            ):
                continue
            values = value if field.name == "options" else [value]
            for each in values:
                text = each if isinstance(each, str) else getattr(each, "content", "")
                if text and not (
                    field.name == "value" and element.type in ("text_area", "text_input")
                ):
                    yield f"{element.type}.{field.name}", text


@pytest.mark.parametrize("page", PAGES)
def test_no_page_reads_a_name_as_markup(
    page: str, hostile: conftest.Invented, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("LATENTFLOW_PREFECT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LATENTFLOW_STORE", str(hostile.report.folder.parent.parent))
    folder = Path(__file__).resolve().parents[2] / "dashboards" / "pages"
    app = AppTest.from_file(str(folder / f"{page}.py"), default_timeout=60)
    if page == "lineage":
        picker = app.run().selectbox(key=f"number {hostile.report.key}")
        picker.set_value(next(n for n, option in enumerate(picker.options) if "smile" in option))
    app.run()
    assert not app.exception and not app.error
    marked = [(kind, source) for kind, source in markdown_of(app) if "smile" in source]
    for kind, source in marked:
        assert HOSTILE in seen(source), (kind, source)
        left = without_code(source)
        assert not re.search(
            r"(?<!\\)(?:\\\\)*\$|(?<!\\):(?!\d+:)[\w+-]+:|(?<!\\):[a-z-]+\[", left
        ), (kind, source)
    assert {kind for kind, _ in marked} >= MARKED.get(page, set())
