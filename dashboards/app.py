"""Navigation: which pages there are, and the frame that every page is drawn in.

Run with `streamlit run dashboards/app.py` or `latentflow up`. Two things are notable. Titles carry
no Material icons: Streamlit would fetch those from a foreign host. And a folder named `pages` makes
Streamlit run a page without this file when a deep link is the first thing a new server sees, so the
frame is drawn by the page (`show`), not around it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import streamlit as st
from polars.exceptions import PolarsError

from components.errors import LatentflowError
from dashboards import runs, selection, workflow
from dashboards.markdown import plain, sentence

# Section -> name of the page (its file and its address) -> title. A comment: Streamlit would print
# a string.
PAGES = {
    "What came out": {"overview": "Overview", "compare": "Compare"},
    "What it means": {
        "latents": "Latents",
        "explanations": "Explanations",
        "map": "Map",
        "rate": "Rate",
        "steering": "Steering",
    },
    "How it was made": {"training": "Training", "lineage": "Lineage", "runs": "Runs"},
}
START = "overview"
SECONDS_TO_DRAW = 0.8
STYLE = "<style>.stMainBlockContainer {padding: 3.2rem 2.6rem 4rem}</style>"


def navigation() -> None:
    """Names the pages, and runs the one that the address asks for."""
    _pages().run()


def show(page: Callable[[runs.Experiment], None], always: Callable[[], None] | None = None) -> None:
    """Draws one page for the chosen experiment; what goes wrong is a sentence on the page, never a
    traceback.

    Args:
        page: draws what belongs to the experiment; left out while there is none.
        always: draws, above it, what needs no experiment.
    """
    _frame(lambda: _with_experiment(page, always))


def show_alone(page: Callable[[], None]) -> None:
    """Draws a page that belongs to no one experiment, in the same frame."""
    _frame(page)


def let_draw() -> None:
    """Gives the browser time to draw what it was sent so far, once a session; call it before a
    page's long second half.

    A new session fetches the code of every kind of element it is told of, and draws none while it
    does: told of all of a page at once, it shows the first of it more than a second later.
    """
    if "drawn" not in st.session_state:
        st.session_state["drawn"] = True
        time.sleep(SECONDS_TO_DRAW)


def _with_experiment(
    page: Callable[[runs.Experiment], None], always: Callable[[], None] | None
) -> None:
    if always:
        always()
    selection.pick_experiment()
    if shown := selection.experiment():
        page(shown)


def _frame(draw: Callable[[], None]) -> None:
    if "navigated" not in st.session_state:
        _pages()
    st.html(STYLE)
    try:
        draw()
    except (
        PolarsError
    ) as error:  # a table of another version: a column is not there, or of another type
        first = (str(error).splitlines() or [""])[0]
        st.error(
            "A table of this artifact cannot be read as this version expects it "
            f"({plain(first)}). Run the stage again, or read the store with the version that "
            "wrote it."
        )
    except (LatentflowError, FileNotFoundError) as error:
        st.error(sentence(error))
    st.sidebar.caption(
        f"[Prefect]({workflow.url()}) runs it · [MLflow]({runs.mlflow_url()}) holds its numbers · "
        "both are up with `make up`"
    )


def _pages():
    st.set_page_config(page_title="Latentflow", layout="wide")
    st.session_state["navigated"] = True
    folder = Path(__file__).resolve().parent / "pages"
    # Streamlit serves the start page at "/" alone and keeps its own name from others: so its name
    # is another, and a hidden page answers at the name by which it is known
    pages = {
        section: [
            st.Page(
                folder / f"{name}.py",
                title=title,
                url_path="start" if name == START else name,
                default=name == START,
            )
            for name, title in titles.items()
        ]
        for section, titles in PAGES.items()
    }
    named = st.Page(
        folder / f"{START}.py", title=START.title(), url_path=START, visibility="hidden"
    )
    return st.navigation({**pages, "": [named]})


if __name__ == "__main__":
    navigation()
