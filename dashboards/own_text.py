"""Your own text on a latent's page: where is this latent active on it, and which latents are
strongest?

The text goes to the live worker and stays in this browser's session; it follows from latent to
latent until another one is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import streamlit as st

from components.live import Read
from components.store.tables import EXPLANATIONS
from dashboards import measures, questions, runs, selection, tokens
from dashboards.markdown import plain
from dashboards.runs import Experiment

NAME = "own text"
TOP = 10
TALL = 1500
"""Tokens beyond which the text scrolls in a box of its own."""


def section(shown: Experiment, row: Mapping[str, Any]) -> None:
    """The field for a text, and below it the heat map of one latent on it.

    Args:
        shown: the experiment.
        row: the latent's row of the latents table.
    """
    st.subheader("Your own text", anchor="own-text")
    with st.form(NAME, border=False):
        text = st.text_area(
            "Text",
            key=f"{NAME} words",
            height=80,
            label_visibility="collapsed",
            placeholder="Write or paste a text",
        )
        sent = st.form_submit_button("Test this text")
    wanted = {"latent": row["latent"], "experiment": shown.key}
    before = questions.asked(NAME)
    if sent and not text.strip():
        questions.forget(NAME)
        st.info("Write a text first: a sentence is enough.")
    elif sent:
        _ask(text, wanted)
    elif before and {name: before.about[name] for name in wanted} != wanted:
        _ask(before.about["text"], wanted)
    questions.show(NAME, lambda answer, about: _draw(answer, row, shown))


def _ask(text: str, about: Mapping[str, Any]) -> None:
    question = {"text": text, "latents": [about["latent"]], "top": TOP}
    questions.ask(NAME, "read", about["experiment"], {**about, "text": text}, **question)


def _draw(answer: Read, row: Mapping[str, Any], shown: Experiment) -> None:
    values = answer.activations.get(row["latent"])
    if values is None:
        return  # the answer for another latent, shown for the moment until the new one is there
    words, contexts = answer.tokens, answer.contexts
    n_active, top = sum(value > 0 for value in values), max(values)
    largest = max(row["maximum"] or 0.0, top)
    if n_active:
        st.html(tokens.legend(largest))
    with st.container(height=420 if len(words) > TALL else "content", border=False):
        st.html(tokens.passage(words, values, contexts, largest))
    said = (
        f"Active on {n_active:,} of {len(words):,} tokens; largest activation here "
        f"{measures.number(top)}, on {plain(row['split'])} {measures.number(row['maximum'])}."
        if n_active
        else f"Latent {row['latent']} is not active on any of the {len(words):,} tokens."
    )
    if answer.n_unknown:
        said += f" The model's tokenizer has no word for {answer.n_unknown:,} of them (shown as its unknown token)."
    if answer.n_special:
        said += f" {answer.n_special:,} special tokens stand in the text; the model reads them, but they are no part of it."
    n_contexts = len(set(contexts))
    if n_contexts > 1:
        said += (
            f" Longer than a context of {answer.context_length} tokens, so read in {n_contexts}: "
            "behind a dashed rule the model sees nothing of what stands above."
        )
    st.caption(said)
    with st.expander(f"The {len(answer.strongest)} latents most active on this text"):
        _strongest(answer, shown)


def _strongest(answer: Read, shown: Experiment) -> None:
    rows = pl.DataFrame([active.model_dump() for active in answer.strongest], schema={"latent": pl.Int32, "maximum": pl.Float64, "token": pl.Int64,
                                                     "n_active": pl.Int64})  # fmt: skip
    words = pl.Series(
        [tokens.in_text(answer.tokens, number) for number in rows["token"]], dtype=pl.String
    )
    rows = rows.with_columns(words.alias("on the token"), explanation=pl.lit(measures.NOTHING))
    if interpret := shown.artifacts.get("interpret"):
        said = (
            runs.table(EXPLANATIONS, interpret)
            .select("latent", "explanation")
            .unique("latent", keep="first")
        )
        rows = rows.drop("explanation").join(said, on="latent", how="left", maintain_order="left")
        rows = rows.with_columns(pl.col("explanation").fill_null(measures.NOTHING))
    key = f"strongest {answer.hook_point} {rows['latent'].to_list()}"
    st.dataframe(
        rows,
        hide_index=True,
        key=key,
        on_select=lambda: _pick(key, rows),
        selection_mode="single-row",
        column_order=["latent", "maximum", "on the token", "n_active", "explanation"],
        column_config={
            "latent": st.column_config.NumberColumn(width="small", format="%d"),
            "maximum": st.column_config.NumberColumn(
                "activation", format="%.3g", help="largest on this text"
            ),
            "n_active": st.column_config.NumberColumn(
                "tokens", help="tokens of this text on which it is active"
            ),
            "explanation": st.column_config.TextColumn(width="large"),
        },
    )
    st.caption("Click the box at the left of a row to open that latent; the text comes along.")


def _pick(key: str, rows: pl.DataFrame) -> None:
    chosen = st.session_state[key].selection.rows
    if chosen:
        selection.choose("latent", int(rows["latent"][chosen[0]]))
