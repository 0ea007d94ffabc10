"""What a model wrote, judged by a person who does not see what steered it, and beside that what the
judges of the run say.

Answers lie with the notes on the dictionary (`components/store/notes.py`), so nothing that was
computed changes, and a page that is opened anew goes on with the next text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import streamlit as st

from components.errors import InputError, MissingArtifactError
from components.report.blind_texts import blind_texts
from components.report.text_agreement import FEWEST_RATINGS, between_people, text_agreement
from components.store import lineage
from components.store.artifact import Artifact
from components.store.notes import Notes
from components.store.tables import JUDGEMENTS
from dashboards import notes, runs, selection, tokens, views
from dashboards.markdown import code, plain, sentence
from dashboards.runs import Experiment

YES_OR_NO = {"yes": True, "no": False}
QUESTIONS = {
    "has_target": ("Is the target in the text?", {**YES_OR_NO, "cannot say": None}),
    "fluent": ("Is it fluent?", YES_OR_NO),
    "goes_on": ("Does it go on from its beginning?", YES_OR_NO),
}
"""Column of TEXT_RATINGS -> what is asked, and what each answer means."""
ADDRESS = "rate?what=texts"


def section(shown: Experiment) -> None:
    """One text after the other, then the agreement with each judge."""
    steer = _pick(shown)
    if steer is None:
        return
    try:
        order = _order(steer, steer.key)
    except (InputError, MissingArtifactError) as error:
        st.info(sentence(error))
        return
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    with left:
        notes.ask_author()
    kept = _kept(steer)
    ratings = kept.text_ratings().filter(pl.col("steer") == steer.key)
    mine = ratings.filter(pl.col("author") == notes.author())
    done = set(mine.select("generation", "concept").iter_rows())
    skipped = st.session_state.setdefault(f"skipped {steer.key}", set())
    passed = done | skipped
    places = order.select("generation", "concept").iter_rows()
    waiting = [i for i, place in enumerate(places) if place not in passed]
    right.caption(
        f"{len(done):,} of {order.height:,} texts rated by you. Steered text, text of controls and "
        "plain text come mixed, in an order that is drawn, and nothing says which is which; a "
        "person may stop anywhere."
    )
    if waiting:
        _text(kept, steer, order.row(waiting[0], named=True), waiting[0], skipped)
    else:
        st.info("Nothing is left to rate.")
    _agreement(steer, ratings)


def beside_judges(steer: Artifact) -> None:
    """How far people and judges agree on the texts of one artifact, or that nobody has rated one."""
    ratings = _kept(steer).text_ratings().filter(pl.col("steer") == steer.key)
    if ratings.is_empty():
        st.subheader("People and judges", anchor="agreement")
        st.caption(
            "No person has rated texts of this run yet, so how far its judges agree with people is "
            f"not known; [rate some blind]({ADDRESS}&steer={steer.key})."
        )
    else:
        _agreement(steer, ratings)


def _agreement(steer: Artifact, ratings: pl.DataFrame) -> None:
    st.subheader("People and judges", anchor="agreement")
    times = ratings.group_by("author").len()
    enough = times.filter(pl.col("len") >= FEWEST_RATINGS)["author"]
    if enough.is_empty():
        st.caption(
            f"Agreement with each judge stands here once one person has rated {FEWEST_RATINGS} "
            f"texts; so far it is {max(times['len'].to_list(), default=0)}."
        )
        return
    ratings = ratings.filter(pl.col("author").is_in(enough.implode()))
    of_rated = pl.col("generation").is_in(ratings["generation"].unique().implode())
    judgements = runs.scan(JUDGEMENTS, steer).filter(of_rated).drop("off_target").collect()
    told = text_agreement(ratings, judgements, steer.key)
    st.dataframe(views.steering.people(told), hide_index=True)
    st.caption(
        "A judge stands beside the question that it answers; one that is made of several parts "
        "beside all of those, where a person says yes to each. Kappa: Cohen's, 0 is chance, 1 is "
        "always alike; the judge says yes where its value is above the threshold. AUROC: how often "
        "a text with a yes has more of the judge's value than one with a no, 0.5 is chance; it "
        "needs no threshold. 95% intervals from resampling targets. Of the rated texts alone, in "
        f"which half are steered, and of people who rated {FEWEST_RATINGS} or more."
    )
    if enough.len() > 1:
        st.markdown("**People among themselves**")
        st.dataframe(
            views.steering.pairs_of_people(between_people(ratings, steer.key)), hide_index=True
        )
        st.caption("On texts that both have rated: more than this no judge can be asked to agree.")


def _pick(shown: Experiment) -> Artifact | None:
    """The steer artifact that the address names, else the experiment's own; None after a sentence
    where there is none."""
    known = {artifact.key: artifact for artifact in runs.steered()}
    own = shown.artifacts.get("steer")
    if not known:
        st.info("No steer artifact is in this store. `latentflow steer` makes one.")
        return None
    if st.session_state.setdefault("steer picked under", shown.key) != shown.key:
        selection.forget("steer")  # another experiment was chosen: its own texts are meant
        st.session_state["steer picked under"] = shown.key
    asked = selection.chosen("steer")
    if asked and asked not in known:
        st.warning(
            f"No steer artifact {code(asked[:40])} in this store; if it was published, `dvc pull` "
            "fetches it."
        )
        selection.forget("steer")
        asked = None
    key = asked or (own.key if own else next(iter(known)))
    st.session_state["texts of"] = key
    st.selectbox(
        "Texts of the steer artifact",
        list(known),
        format_func=lambda key: runs.titled(known[key]),
        key="texts of",
        on_change=lambda: selection.choose("steer", st.session_state["texts of"]),
    )
    selection.choose("steer", key)
    return known[key]


def _text(
    kept: Notes, steer: Artifact, row: Mapping[str, Any], number: int, skipped: set[tuple[int, str]]
) -> None:
    """One text with its target and its beginning, and the three questions."""
    st.subheader("A text", anchor=False)
    st.markdown(f"Target: **{plain(row['words'])}**")
    st.html(tokens.continued(str(row["prompt"]), str(row["text"])))
    st.caption("Grey: the beginning that the model was given. It may stop in mid-sentence.")
    with st.form(f"rate text {number} {notes.author()}", border=True):
        said = {}
        for column, (name, (question, answers)) in zip(
            st.columns(len(QUESTIONS)), QUESTIONS.items(), strict=True
        ):
            said[name] = column.segmented_control(
                question, list(answers), key=f"{name} {number} {notes.author()}"
            )
        keep, skip = st.columns([1, 1])
        sent = keep.form_submit_button("Keep and go on", type="primary")
        passed = skip.form_submit_button("Skip this text")
    if passed:
        skipped.add((row["generation"], row["concept"]))
        st.rerun()
    if sent and all(said.values()):
        kept.rate_text(
            steer.key,
            row["generation"],
            row["concept"],
            text=row["text"],
            author=notes.author(),
            **{name: QUESTIONS[name][1][answer] for name, answer in said.items()},
        )
        st.rerun()
    if sent:
        st.warning("Answer all three questions, or skip this text.")


def _kept(steer: Artifact) -> Notes:
    """The notes on the dictionary that the artifact was made with."""
    return Notes(runs.store(), lineage.inputs(steer.manifest)["dictionary"][1])


@st.cache_data(max_entries=16, show_spinner="Drawing the texts …")
def _order(_steer: Artifact, key: str) -> pl.DataFrame:
    """The texts to be rated; `key`, the artifact's, is the cache's."""
    return blind_texts(_steer)
