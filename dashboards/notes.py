"""A person's own notes on a latent's page: a label, tags and a vote.

They are the only thing that a page writes. They lie beside the artifacts (`components/store/
notes.py`), so nothing that was computed changes.
"""

from __future__ import annotations

import polars as pl
import streamlit as st

from components.errors import LatentflowError
from components.store.notes import LONGEST, Notes
from dashboards.markdown import plain, sentence
from dashboards.runs import Experiment, store

VOTES = {"worth a look": 1, "not": -1}


def of(shown: Experiment) -> Notes:
    """The notes on an experiment's dictionary."""
    return Notes(store(), shown.artifacts["train"].key)


def author() -> str:
    """What the person at this browser calls themselves; "" where they did not say."""
    return " ".join(str(st.session_state.get("who", "")).split())


def ask_author() -> None:
    """The field for a name; it stays for the session, on every page."""
    st.session_state["who"] = st.session_state.get("who", "")  # kept over a change of page
    st.text_input(
        "Your name",
        key="who",
        max_chars=60,
        placeholder="optional",
        help="Notes are kept by name, so that several people can disagree.",
    )


def section(shown: Experiment, latent: int) -> None:
    """The form for one latent, and what others said of it."""
    if "train" not in shown.artifacts:
        return
    st.subheader("Your notes", anchor="notes")
    notes = of(shown)
    said = notes.notes().filter(pl.col("latent") == latent)
    for row in said.filter(pl.col("author") != author()).iter_rows(named=True):
        vote = next((name for name, value in VOTES.items() if value == row["vote"]), None)
        parts = [row["label"], *row["tags"], vote]
        st.caption(
            f"{plain(row['author'] or 'Somebody')}: "
            + " · ".join(plain(part) for part in parts if part)
        )
    ask_author()
    mine = said.filter(pl.col("author") == author())
    before = mine.row(0, named=True) if mine.height else {"label": "", "tags": [], "vote": 0}
    slot = f"{latent} {author()} {shown.artifacts['train'].key}"
    with st.form(f"notes {slot}", border=False):
        label = st.text_input(
            "Label", before["label"] or "", key=f"label {slot}", max_chars=LONGEST,
            placeholder="what it means, in your words",
        )  # fmt: skip
        left, right = st.columns([1, 1.2])
        tags = left.text_input(
            "Tags", ", ".join(before["tags"]), key=f"tags {slot}", placeholder="with commas between"
        )
        vote = right.segmented_control(
            "Vote",
            list(VOTES),
            default=next((n for n, value in VOTES.items() if value == before["vote"]), None),
            key=f"vote {slot}",
        )
        sent = st.form_submit_button("Keep")
    if sent:
        try:
            notes.say(
                latent,
                label=label,
                tags=tags.split(","),
                vote=VOTES.get(vote or "", 0),
                author=author(),
            )
        except LatentflowError as error:
            st.error(sentence(error))
        else:
            st.caption("Kept.")
    st.caption(
        "Kept beside the artifacts, found by the search above, and exported with them; "
        "`latentflow export` with `--format notes` also writes labels as a file that the "
        "explainer `given` reads, so a label can be scored like any explanation."
    )


def searched(shown: Experiment) -> pl.DataFrame:
    """Of each latent that somebody noted something of, the words to find it by: latent, noted,
    label."""
    if "train" not in shown.artifacts:
        return pl.DataFrame(schema={"latent": pl.Int32, "noted": pl.String, "label": pl.String})
    said = of(shown).notes()
    words = pl.concat_str(
        pl.col("label").fill_null(""), pl.col("tags").list.join(" "), "author", separator=" "
    )
    return (
        said.with_columns(words.str.to_lowercase().alias("noted"))
        .group_by("latent", maintain_order=True)
        .agg(pl.col("noted").str.join("\n"), pl.col("label").drop_nulls().str.join(" / "))
    )
