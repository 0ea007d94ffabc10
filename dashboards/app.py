"""Navigation: which pages there are, and the frame that every page is drawn in.

Run with `streamlit run dashboards/app.py` or `latentflow up`. Two things are notable. Titles carry no Material icons:
Streamlit would fetch those from a foreign host. And a folder named `pages` makes Streamlit run a page without this file
when a deep link is the first thing a new server sees, so the frame is drawn by the page (`show`), not around it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from components.errors import LatentflowError
from dashboards import runs, selection

# Section -> name of the page (its file and its address) -> title. A comment: Streamlit would print a string.
PAGES = {
    "What came out": {"overview": "Overview", "latents": "Latents"},
    "How well": {"explanations": "Explanations", "steering": "Steering"},
}
STYLE = "<style>.stMainBlockContainer {padding-top: 3.2rem}</style>"


def navigation() -> None:
    """Names the pages, and runs the one that the address asks for."""
    _pages().run()


def show(page: Callable[[runs.Experiment], None]) -> None:
    """Draws one page for the chosen experiment; what goes wrong is a sentence on the page, never a traceback."""
    if "navigated" not in st.session_state:
        _pages()
    st.html(STYLE)
    try:
        selection.pick_experiment()
        if shown := selection.experiment():
            page(shown)
    except (LatentflowError, FileNotFoundError) as error:
        st.error(str(error).replace("*", r"\*"))
    st.sidebar.caption(
        f"[Prefect]({runs.prefect_url()}) runs it · [MLflow]({runs.mlflow_url()}) holds its numbers · "
        "both are up with `make up`"
    )


def _pages():
    st.set_page_config(page_title="Latentflow", layout="wide")
    st.session_state["navigated"] = True
    folder = Path(__file__).resolve().parent / "pages"
    return st.navigation(
        {
            section: [
                st.Page(folder / f"{name}.py", title=title, url_path=name, default=name == "overview")
                for name, title in pages.items()
            ]
            for section, pages in PAGES.items()
        }
    )


if __name__ == "__main__":
    navigation()
