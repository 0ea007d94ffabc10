from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from components.store import tables
from dashboards import tokens


def test_a_token_is_text_and_never_markup() -> None:
    assert "<b>" not in tokens.span("<b>", 1.0, 1.0)
    assert "&lt;b&gt;" in tokens.span("<b>", 1.0, 1.0)


@given(st.lists(st.text(max_size=8), max_size=8))
def test_no_token_whatever_can_open_a_tag(words: list[str]) -> None:
    html = tokens.line(words, [float(i) for i in range(len(words))], 5.0)
    for tag in ("<span ", "</span>"):
        html = html.replace(tag, "")
    assert "<" not in html


def test_depth_follows_the_activation_and_zero_is_plain() -> None:
    assert tokens.span("a", 0.0, 4.0) == "a"
    assert "0.30)" in tokens.span("a", 2.0, 4.0)
    assert "0.60)" in tokens.span("a", 9.0, 4.0)
    assert 'title="2"' in tokens.span("a", 2.0, 4.0)


def test_only_the_strongest_token_of_a_line_is_underlined() -> None:
    html = tokens.line([" a", " b", " c"], [1.0, 3.0, 2.0], 3.0)
    assert html.count("underline;") == 1
    assert html.index("underline;") < html.index(">b<")
    assert "underline" not in tokens.line([" a"], [0.0], 3.0)


def test_word_level_tokens_are_parted_and_others_keep_their_own_spaces() -> None:
    assert tokens.line(["the", "sea"], [0, 0], 1.0) == "the sea"
    assert tokens.line(["The", " sea", "s"], [0, 0, 0], 1.0) == "The seas"
    assert tokens.line(["Ġthe", "▁sea"], [0, 0], 1.0) == " the sea"


def test_line_breaks_are_seen() -> None:
    assert tokens.plain("\n") == tokens.plain("Ċ") == "↵"
    assert tokens.visible(" ") == "␣"


def test_windows_show_value_split_and_document() -> None:
    row = {
        "latent": 1,
        "window": 0,
        "split": "test",
        "document": 7,
        "tokens": ["a"],
        "activations": [2.5],
        "maximum": 2.5,
    }
    html = tokens.windows(tables.CONTEXTS.frame([row]), 5.0)
    assert "2.5" in html
    assert "test · doc 7" in html


def test_a_failed_text_is_told_with_its_reason_and_nothing_is_markup() -> None:
    rows = [
        {
            "unsteered": "<i>a",
            "steered": None,
            "composite": None,
            "uplift": None,
            "fluency": None,
            "reason": "out of <time>",
        },
        {"unsteered": None, "steered": "b", "composite": 0.0, "uplift": -0.25, "fluency": 0.5, "reason": None},
    ]
    html = tokens.pairs(pl.DataFrame(rows))
    assert "no text: out of &lt;time&gt;" in html
    assert "<i>" not in html
    assert "−0.25" in html


def test_the_space_before_a_token_is_not_shaded() -> None:
    assert tokens.span(" sea", 1.0, 1.0).startswith(" <span")
    assert tokens.span("  ", 1.0, 1.0).endswith(">  </span>")


def test_an_uplift_of_nothing_has_no_sign() -> None:
    row = {"unsteered": "a", "steered": "b", "composite": 0.0, "uplift": -0.001, "fluency": 1.0, "reason": None}
    assert ">0.00<" in tokens.pairs(pl.DataFrame([row]))
