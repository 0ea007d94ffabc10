from __future__ import annotations

import re

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
        {
            "unsteered": None,
            "steered": "b",
            "composite": 0.0,
            "uplift": -0.25,
            "fluency": 0.5,
            "reason": None,
        },
    ]
    html = tokens.pairs(pl.DataFrame(rows))
    assert "no text: out of &lt;time&gt;" in html
    assert "<i>" not in html
    assert "−0.25" in html


def test_the_space_before_a_token_is_not_shaded() -> None:
    assert tokens.span(" sea", 1.0, 1.0).startswith(" <span")
    assert tokens.span("  ", 1.0, 1.0).endswith(">  </span>")


def test_an_uplift_of_nothing_has_no_sign() -> None:
    row = {
        "unsteered": "a",
        "steered": "b",
        "composite": 0.0,
        "uplift": -0.001,
        "fluency": 1.0,
        "reason": None,
    }
    assert ">0.00<" in tokens.pairs(pl.DataFrame([row]))


SUN = ["<0xE6>", "<0x97>", "<0xA5>"]


def shown(html: str) -> str:
    return re.sub("<[^>]*>", "", html)


def test_tokens_that_make_a_character_are_shown_as_it_each_with_its_value() -> None:
    html = tokens.line([" It", "<0xE2><0x80>", "<0x99>", "s"], [0, 2.0, 1.0, 0], 4.0)
    assert shown(html) == " It’s"
    assert "2 tokens make this together: 2, 1" in html
    assert "rgba(230,159,0,0.30) 0% 50%,rgba(230,159,0,0.15) 50% 100%" in html
    assert "dotted" in html
    assert html.count("underline;") == 1
    quiet = tokens.line(SUN, [0, 0, 0], 4.0)
    assert shown(quiet) == "日"
    assert "gradient" not in quiet and "dotted" in quiet


def test_text_without_spaces_is_not_parted() -> None:
    assert shown(tokens.line([*SUN, "本", "語"], [0] * 5, 1.0)) == "日本語"
    assert tokens.line(["猫", "が"], [0, 0], 1.0) == "猫が"
    assert shown(tokens.passage(["Un", "believ", "able"], [0] * 3, [0] * 3, 1.0)) == "Unbelievable"


def test_a_byte_alone_is_marked_as_part_of_a_character() -> None:
    assert shown(tokens.line(["a", "<0xE6>", "<0x97>"], [0, 1.0, 0], 1.0)) == "a‹E6›‹97›"
    assert tokens.visible(" <0xE6><0x97>") == "‹E6 97›"
    assert tokens.in_text(["a", *SUN], 2) == "日 ‹97›"
    assert tokens.in_text(["a", "<0xE6>", "b"], 1) == "‹E6›"
    assert tokens.in_text([" a", "b"], 0) == "a"


@given(st.lists(st.sampled_from([*SUN, "<0xF0>", "<b>", " a", '"', "<0x80><0xE6>"]), max_size=12))
def test_no_bytes_whatever_can_open_a_tag(words: list[str]) -> None:
    html = tokens.line(words, [float(i % 3) for i in range(len(words))], 2.0)
    bare = re.sub(r'<span title="[^"<]*" style="[^"<]*">|</span>', "", html)
    assert "<" not in bare
