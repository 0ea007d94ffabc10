"""What does each latent mean, and how well do we know?"""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from components.export import calls
from components.report.tables import REPORT
from components.store.artifact import Artifact
from components.store.tables import (
    CONCEPTS_FOUND,
    CONTEXTS,
    EXPLANATION_SCORES,
    EXPLANATION_STRATA,
    EXPLANATIONS,
    LATENTS,
    NEIGHBOURS,
    WRITERS,
)
from dashboards import (
    charts,
    documents,
    listing,
    measures,
    notes,
    own_text,
    runs,
    selection,
    tokens,
    views,
)
from dashboards.app import let_draw, show
from dashboards.markdown import code, plain
from dashboards.runs import Experiment

ROWS = 100
SORTS = {
    "score, best first": ("score", True),
    "score, worst first": ("score", False),
    "density, highest first": ("density", True),
    "density, lowest first": ("density", False),
    "largest activation": ("maximum", True),
    "number": ("latent", False),
}
COLUMNS: dict[str, Any] = {
    "latent": st.column_config.NumberColumn(pinned=True, width="small", format="%d"),
    "name": st.column_config.TextColumn(help="what the file of the vectors calls it"),
    "explanation": st.column_config.TextColumn(width="large"),
    "score": st.column_config.NumberColumn(
        format="%.3f", help="score of the explanation, mean over predictors"
    ),
    "cosine": st.column_config.NumberColumn(
        format="%.3f", help="of the two decoder directions, -1 to 1"
    ),
    "density": st.column_config.NumberColumn(
        format="%.3g", help="share of tokens on which it is active"
    ),
    "maximum": st.column_config.NumberColumn(
        "max",
        format="%.3g",
        help="largest activation, in units of the activations at the hook point",
    ),
    "promoted": st.column_config.ListColumn("promotes", help="tokens whose logits it raises most"),
    "concept": st.column_config.TextColumn(
        "best latent for", help="concepts that it was chosen for on select"
    ),
}


def page(shown: Experiment) -> None:
    """A list to search, and below it the latent that was picked."""
    st.title("Latents")
    if "encode" not in shown.artifacts:
        st.info(
            "The encode artifact of this experiment is not in this store. `latentflow encode` "
            "makes it."
        )
        return
    rows = _list(shown)
    asked = selection.chosen("latent")
    if asked is None and rows.height:
        asked = str(rows["latent"][0])
    if asked is not None:
        _latent(shown, asked)


def _list(shown: Experiment) -> pl.DataFrame:
    known = listing.read(shown)
    words, which, sort, density, least, scored, turn = st.columns([2.4, 1.4, 1.9, 2, 1.2, 1.1, 1])
    text = words.text_input(
        "Search",
        placeholder="name, explanation, concept or note",
        key="words",
        bind="query-params",
        help="Every word must be there.",
    )
    token = which.text_input(
        "Token",
        placeholder="a whole token",
        key="token",
        bind="query-params",
        help="Latents that promote this token, or whose strongest windows peak on it.",
    )
    order, descending = SORTS[
        sort.selectbox("Sort by", list(SORTS), key="sort", bind="query-params")
    ]
    low, high = density.select_slider(
        "Density, share of tokens",
        listing.DENSITIES,
        value=("0", "1"),
        key="density",
        bind="query-params",
        help="On how many tokens a latent is active.",
    )
    minimum = least.number_input(
        "Activation ≥", 0.0, value=0.0, help="The latent's largest activation."
    )
    lowest = scored.number_input(
        "Score ≥", value=None, step=0.05, key="least score", placeholder="any",
        help="Score of the explanation; latents without one are then left out.",
    )  # fmt: skip
    found = views.latents.narrowed(
        known.frame,
        text=text,
        noted=notes.searched(shown) if text.strip() else None,
        token=token,
        index=listing.tokens(shown) if token.strip() else None,
        density=(float(low), float(high)),
        minimum=minimum,
        least=lowest,
        sort=order,
        descending=descending,
    )
    if found.is_empty():
        st.info(f"None of the {known.frame.height:,} latents passes these filters.")
        return found
    pages = -(-found.height // ROWS)
    number = int(turn.number_input(f"Page, of {pages:,}", 1, pages, 1))
    rows = views.latents.page_of(found, number, ROWS)
    named = ["name"] if known.frame["name"].count() else []
    key = f"rows {text} {token} {order} {descending} {low} {high} {minimum} {lowest} {number} {shown.key}"
    st.dataframe(
        views.latents.readable(
            rows.select(
                "latent",
                *named,
                "explanation",
                "concept",
                "score",
                "density",
                "maximum",
                "promoted",
            )
        ),
        hide_index=True,
        column_order=[
            "latent",
            *named,
            "explanation",
            "score",
            "density",
            "maximum",
            "promoted",
            "concept",
        ],
        height=min(300, 38 + 35 * rows.height),
        key=key,
        on_select=lambda: _pick(key, rows),
        selection_mode="single-row",
        column_config=COLUMNS,
    )
    of_score = f", score: {plain(known.scorer)} of {plain(known.explainer)}" if known.scorer else ""
    st.caption(
        f"{found.height:,} of {known.frame.height:,} latents, rows {(number - 1) * ROWS + 1:,} to "
        f"{(number - 1) * ROWS + rows.height:,}; {known.explained:,} of all have an "
        f"explanation{of_score}; statistics of {plain(known.split)}. Click the box at the left of a "
        "row to open that latent."
    )
    return rows


def _pick(key: str, rows: pl.DataFrame) -> None:
    chosen = st.session_state[key].selection.rows
    if chosen:
        selection.choose("latent", int(rows["latent"][chosen[0]]))


def _latent(shown: Experiment, asked: str) -> None:
    encode = shown.artifacts["encode"]
    known = listing.read(shown).frame
    top = known.height - 1
    number = int(asked) if asked.isdecimal() and len(asked) < 10 else -1
    mine = runs.rows(LATENTS, encode, latent=number, split=listing.split_of(encode))
    if mine.is_empty():
        st.warning(f"No latent {code(asked[:20])} in this dictionary; it has 0 to {top}.")
        return
    row = mine.row(0, named=True)
    interpret, evaluate = shown.artifacts.get("interpret"), shown.artifacts.get("evaluate")
    st.divider()
    name = known.filter(pl.col("latent") == number)["name"].item()
    _head(row, name, interpret, top)
    left, right = st.columns([1.45, 1], gap="large")
    with left:
        if shown.file:
            documents.section(shown, row)
        else:
            own_text.section(shown, row)
            _contexts(row, interpret)
    with right:
        notes.section(shown, row["latent"])
        _meaning(shown, row, interpret)
        _concepts(row, evaluate)
        _shape(row)
        _neighbours(shown, row)


def _head(row: dict, name: str | None, interpret: Artifact | None, top: int) -> None:
    number = row["latent"]
    title, before, after = st.columns([8, 1, 1], vertical_alignment="bottom")
    title.header(f"Latent {number}" + (f": {plain(name)}" if name else ""), anchor="latent")
    let_draw()
    before.button(
        "← prev",
        on_click=selection.choose,
        args=("latent", number - 1),
        disabled=number <= 0,
        width="stretch",
    )
    after.button(
        "next →",
        on_click=selection.choose,
        args=("latent", number + 1),
        disabled=number >= top,
        width="stretch",
    )
    if interpret:
        for said in runs.rows(EXPLANATIONS, interpret, latent=number).iter_rows(named=True):
            text = (
                said["explanation"] or f"no explanation: {said['reason'] or 'no reason was given'}"
            )
            st.html(
                f'<div style="font-size:1.15rem">{tokens.escape(text)} '
                f'<span style="opacity:.6;font-size:.8rem">explainer: {tokens.escape(said["explainer"])}</span></div>'
            )
        _calls(interpret, number)
    every = f"1 in {1 / row['density']:,.0f}" if row["density"] else "none"
    figures = (
        (
            "Active on, tokens",
            every,
            f"density {measures.number(row['density'])}; {row['n_active']:,} tokens of "
            f"{plain(row['split'])}",
        ),
        (
            "Largest activation",
            measures.number(row["maximum"]),
            "in units of the activations at the hook point",
        ),
        (
            "Mean where active",
            measures.number(row["mean_active"]),
            "in units of the activations at the hook point",
        ),
        ("Decoder norm", measures.number(row["decoder_norm"]), "norm of the decoder direction"),
    )
    for column, (label, value, about) in zip(st.columns(4), figures, strict=True):
        column.metric(label, value, help=about)


def _calls(interpret: Artifact, latent: int) -> None:
    """What a language model was asked for an explanation, and what it answered, where it was one
    and the sample of calls holds it."""
    if WRITERS.file not in interpret.files:
        return
    mine = calls.of_explanations(interpret).filter(pl.col("latent") == latent).collect()
    written = runs.rows(WRITERS, interpret, latent=latent).filter(pl.col("served").is_not_null())
    lost = written.join(mine, on="explainer", how="anti")["explainer"].sort().to_list()
    if lost:
        st.caption(
            f"The prompt of {plain(', '.join(lost))} for this latent is not in the sample of calls "
            "that was kept (interpret.client.sample)."
        )
    for row in mine.iter_rows(named=True):
        said = f"What {row['served_model'] or 'the model'} was asked as {row['explainer']}"
        with st.expander(plain(said)):
            st.caption("Prompt")
            st.code(row["prompt"], language=None, wrap_lines=True)
            st.caption("Answer")
            if row["answer"] is None:
                st.text(f"none: {row['reason'] or 'no reason was given'}")
            else:
                st.code(row["answer"], language=None, wrap_lines=True)
            cost = "" if row["usd"] is None else f", {row['usd']:.2g} USD"
            st.caption(
                f"{row['input_tokens'] or 0:,} tokens in, {row['output_tokens'] or 0:,} out{cost}"
                + (f"; {plain(row['reason'])}" if row["reason"] else "")
                + "."
            )


def _contexts(row: dict, interpret: Artifact | None) -> None:
    st.subheader("Where it fires", anchor="contexts")
    if interpret is None or CONTEXTS.file not in interpret.files:
        st.info(
            "The interpret artifact of this experiment is not in this store. `latentflow "
            "interpret` makes it."
        )
        return
    contexts = runs.rows(CONTEXTS, interpret, latent=row["latent"])
    if contexts.is_empty():
        n = len(runs.distinct(EXPLANATIONS, interpret, "latent"))
        dead = (
            "it is never active"
            if not row["n_active"]
            else f"interpret looked at a sample of {n:,} latents"
        )
        st.info(f"No windows of text were chosen for this latent: {dead}.")
        return
    largest = max([row["maximum"] or 0.0, *contexts["maximum"]])
    most = (
        st.segmented_control(
            "Windows of each interval", [3, 5, 10, "all"], default=3, key="windows"
        )
        or 3
    )
    st.html(tokens.legend(largest))
    for title, windows in views.latents.intervals(contexts):
        st.markdown(f"**{plain(title)}**")
        st.html(tokens.windows(windows if most == "all" else windows.head(int(most)), largest))


def _neighbours(shown: Experiment, row: dict) -> None:
    st.subheader("Its neighbours", anchor="neighbours")
    encode = shown.artifacts["encode"]
    if NEIGHBOURS.file not in encode.files:
        st.caption(
            "These codes were encoded before neighbours were kept; `latentflow experiment` "
            "encodes them again."
        )
        return
    near = runs.rows(NEIGHBOURS, encode, latent=row["latent"])
    if near.is_empty():
        st.caption("A dictionary of one latent has no neighbours.")
        return
    rows = views.latents.neighbours(near, listing.read(shown).frame)
    key = f"neighbours {row['latent']} {shown.key}"
    st.dataframe(
        views.latents.readable(rows),
        hide_index=True,
        key=key,
        on_select=lambda: _pick(key, rows),
        selection_mode="single-row",
        column_order=["latent", "cosine", "promoted", "explanation", "density"],
        column_config=COLUMNS | {"explanation": st.column_config.TextColumn(width="medium")},
    )
    st.caption(
        "The decoder directions that lie nearest, by cosine. Click the box at the left of a row "
        "to open it."
    )


def _meaning(shown: Experiment, row: dict, interpret: Artifact | None) -> None:
    st.subheader("How well the explanation foretells it", anchor="scores")
    if interpret is None:
        st.info("No scores here: `latentflow interpret` makes them.")
        return
    controls = views.scores.control_means(runs.table(REPORT, shown.report))
    scores = views.scores.scores_of(
        runs.rows(EXPLANATION_SCORES, interpret, latent=row["latent"]), row["latent"], controls
    )
    if scores.is_empty():
        st.caption("This latent was not scored.")
        return
    names = scores["scorer"].unique(maintain_order=True).to_list()
    shown_scorer = names[0]
    if len(names) > 1:
        shown_scorer = (
            st.segmented_control("Scorer", names, default=names[0], format_func=plain, key="scorer")
            or names[0]
        )
    scores = scores.filter(pl.col("scorer") == shown_scorer).with_columns(row="explainer")
    st.altair_chart(charts.scores(scores), width="stretch")
    st.caption(
        "Windows of the test split, 95% intervals. Detection: AUROC, chance 0.5. Simulation: "
        "Pearson r, chance 0. Grey square, the floor: another latent's explanation (shuffled). "
        "Green diamond, the ceiling: a probe."
        + (
            " Orange triangle: the mean over latents of a dictionary that learnt nothing."
            if controls.height
            else ""
        )
        + "".join(
            f" {plain(writer)}: {plain(what)}." for writer, what in views.scores.failures_of(scores)
        )
    )
    _strata(row, interpret)


def _strata(row: dict, interpret: Artifact) -> None:
    if EXPLANATION_STRATA.file not in interpret.files:
        return
    mine = views.scores.strata_of(
        runs.rows(EXPLANATION_STRATA, interpret, latent=row["latent"]), row["latent"]
    )
    if mine.is_empty():
        return
    figures = {name: st.column_config.NumberColumn(format="%.3f") for name in mine.columns[2:]}
    st.dataframe(mine, hide_index=True, column_config=figures)
    st.caption(
        "The same over part of the windows. `strongest`, `weakest`: active ones of the upper or "
        "lower three tenths by activation, and `decile_1` (the strongest) to `decile_10` those of "
        "one tenth, against all silent ones. `random`, `same_token`, `neighbour`, `near`: all "
        "active ones against one kind of silent ones: drawn at random, holding the word that it "
        "fires on most, with a neighbouring latent active, with activations like those of its "
        "active windows. `macro`: the mean over the kinds that every latent has. "
        "`average_precision` and `natural_density`: windows as often as the split has such. Latents "
        "differ in how many silent windows of a kind they have: compare them within a row, or by "
        "`macro`."
    )


def _concepts(row: dict, evaluate: Artifact | None) -> None:
    st.subheader("Concepts it is the best latent for", anchor="concepts")
    if evaluate is None:
        st.info("No ground truth here: `latentflow evaluate` makes it.")
        return
    if CONCEPTS_FOUND.file not in evaluate.files:
        st.caption("None: concepts were not looked for in this experiment.")
        return
    mine = views.latents.concepts_of(runs.table(CONCEPTS_FOUND, evaluate), row["latent"])
    if mine.is_empty():
        st.caption("None: on select, other latents were better for every labelled concept.")
        return
    precision = ("AP on select", "AP on test", "AUROC", *views.scores.UNITS[1:])
    st.dataframe(
        mine,
        hide_index=True,
        column_order=[
            "concept",
            "AP on test",
            *views.scores.UNITS[1:],
            "found",
            "AUROC",
            "AP on select",
            "concept_kind",
            "sign",
            "n_positive",
            "n",
        ],
        column_config={name: st.column_config.NumberColumn(format="%.3f") for name in precision},
    )
    st.caption(
        "Average precision at natural density; neuron, untrained and probe: what the best of "
        "those reaches on test."
    )


def _shape(row: dict) -> None:
    st.subheader("How strongly", anchor="histogram")
    bins = views.latents.histogram(row)
    if bins.is_empty() and row["n_active"]:
        st.caption("No histogram: codes were not stored (capture.from_model).")
    elif bins.is_empty():
        st.caption("Never active, so there is no histogram.")
    else:
        st.altair_chart(charts.histogram(bins, row["maximum"]), width="stretch")
    st.subheader("What it says next", anchor="logits")
    logits = views.latents.logits(row)
    if logits.is_empty():
        st.caption("No logits: the dictionary was encoded without a model.")
        return
    for column, side in zip(st.columns(2), ("promoted", "suppressed"), strict=True):
        column.caption(side)
        column.altair_chart(charts.logits(logits, side), width="stretch")
    st.caption("Logit that a unit step along the decoder direction adds, final norm left out.")


show(page)
