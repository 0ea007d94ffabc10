"""Which experiment and which latent a page shows. The address bar is the truth, so every view has a
deep link.

A widget never holds the choice: it writes it into the address (`choose`), and pages read it from
there (`chosen`). Changing the page empties the address; what was last chosen is then written back.
"""

from __future__ import annotations

import streamlit as st

from dashboards.markdown import code
from dashboards.runs import Experiment, experiments


def chosen(name: str) -> str | None:
    """The choice of that name in the address, or, after a change of page, the one last made."""
    memory = f"chosen {name}"
    value = st.query_params.get(name) or st.session_state.get(memory)
    if value:
        st.session_state[memory] = value
        if st.query_params.get(name) != value:
            st.query_params[name] = value
    return value


def choose(name: str, value: str | int) -> None:
    """Makes a choice: the address changes with it."""
    st.session_state[f"chosen {name}"] = str(value)
    st.query_params[name] = str(value)


def forget(name: str) -> None:
    """Takes a choice back."""
    st.session_state.pop(f"chosen {name}", None)
    st.query_params.pop(name, None)


def pick_experiment() -> None:
    """The sidebar's list of experiments, newest first."""
    known = {experiment.key: experiment for experiment in experiments()}
    if not known:
        return
    asked = chosen("report")
    st.session_state["experiment"] = asked if asked in known else next(iter(known))
    st.sidebar.selectbox(
        "Experiment",
        list(known),
        format_func=lambda key: known[key].title,
        key="experiment",
        on_change=lambda: choose("report", st.session_state["experiment"]),
        help="Newest first. The address of this page names the experiment: copy it to share the view.",
    )


def experiment() -> Experiment | None:
    """The experiment that the page shows; None after a sentence on why there is none to show."""
    known = {experiment.key: experiment for experiment in experiments()}
    if not known:
        st.info(
            "No experiment has finished in this store yet. `make demo` runs the embedded one, "
            "about eight minutes."
        )
        return None
    asked = chosen("report")
    if asked and asked not in known:
        st.warning(
            f"No report {code(asked[:40])} in this store; showing the newest. If it was "
            "published, `dvc pull` fetches it."
        )
        forget("report")
        asked = None
    key = asked or next(iter(known))
    choose("report", key)
    return known[key]
