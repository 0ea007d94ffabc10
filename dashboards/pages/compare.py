"""Which dictionary, or which run, is better, at what sparsity, and is the difference larger than
its intervals?"""

from __future__ import annotations

import polars as pl
import streamlit as st

from components.report import frontiers
from components.report.measure import TENS, Measures
from components.report.tables import COMPARISON, REPORT
from components.store.artifact import Artifact
from dashboards import charts, runs, selection, views
from dashboards.app import show
from dashboards.markdown import plain
from dashboards.runs import Experiment

AT_FIRST, AT_MOST = 6, 12
ACROSS = 3
"""Charts beside one another."""


def page(shown: Experiment) -> None:
    """Runs to pick, then frontiers, then every score beside each other, then what was set
    differently."""
    st.header("Runs", anchor="runs")
    picked = _pick(shown)
    if not picked:
        st.info("Pick at least one run.")
        return
    reports = {each.label: runs.table(REPORT, each.report) for each in picked}
    without = [label for label, report in reports.items() if report.is_empty()]
    if without:
        st.warning(f"Without any score, so left out: {plain(', '.join(without))}.")
    measures = Measures.read(*(each.report for each in picked))
    scores = views.runs.compared(
        {label: report for label, report in reports.items() if not report.is_empty()}, measures
    )
    if scores.is_empty():
        st.info("None of these runs has a score. `latentflow experiment` measures everything.")
        return
    if len(picked) == 1:
        st.caption(
            "Only one run to show. Another sparsity makes a second point: `latentflow experiment "
            "train.dictionary.k=16`, or start it on the page Runs."
        )
    _frontiers(scores, measures)
    _tables(scores, measures)
    _configurations(picked)


def sweeps() -> None:
    """The newest sweep, or the one in the address: frontiers, scores at matched L0, who is best,
    every score."""
    st.title("Compare")
    known = {artifact.key: artifact for artifact in runs.sweeps()}
    if not known:
        st.caption(
            "No sweep in this store. `latentflow sweep --params examples/sweep.yaml` compares "
            "architectures."
        )
        return
    st.header("Sweeps", anchor="sweeps")
    asked = selection.chosen("sweep")
    if asked and asked not in known:
        st.warning("That sweep is not in this store; the newest is shown.")
    keys = list(known)
    key = st.selectbox(
        "Sweep",
        keys,
        index=keys.index(asked) if asked in known else 0,
        format_func=lambda key: _titled(known[key]),
        key="swept",
        on_change=lambda: selection.choose("sweep", st.session_state["swept"]),
    )
    comparison, measures = runs.table(COMPARISON, known[key]), Measures.read(known[key])
    drawn = frontiers.titles(comparison, measures, drawn=True)
    for start in range(0, len(drawn), ACROSS):
        for column, title in zip(st.columns(ACROSS), drawn[start : start + ACROSS], strict=False):
            if chart := charts.sweep_frontier(comparison, measures, title):
                column.altair_chart(chart, width="stretch")
            else:
                column.caption(f"{title}: not measured together with L0.")
    st.caption(
        "Test split; bars are 95% intervals over seeds, diamonds are baselines. Curves join the "
        "sparsities of one label."
    )
    st.subheader("At matched L0", anchor="matched")
    st.dataframe(frontiers.headline(comparison, measures), hide_index=True)
    st.caption(
        "Mean over seeds ± half the 95% interval, read off each curve between its sparsities; "
        "empty where a curve does not reach that L0 or nothing was measured. Baselines stand at "
        "their own L0."
    )
    best = frontiers.best(comparison, measures)
    if not best.is_empty():
        st.subheader("Who does best", anchor="best")
        st.dataframe(best, hide_index=True)
        st.caption(
            "apart: the intervals of the best and the next do not meet. Without it the order may "
            "be chance."
        )
    with st.expander("Every score over seeds, with reasons for what is absent"):
        st.dataframe(comparison, hide_index=True)


def _titled(sweep: Artifact) -> str:
    made = sweep.manifest["made"]["at"].replace("T", " ")[:16] + " UTC"
    facts = sweep.facts
    return f"{facts['n_dictionaries']} dictionaries: {', '.join(facts['labels'])} · {made} · {sweep.key[:6]}"


def _pick(shown: Experiment) -> list[Experiment]:
    known = {each.key: each for each in runs.experiments()}
    asked = [key for key in (selection.chosen("compare") or "").split(",") if key]
    lost = [key for key in asked if key not in known]
    if lost:
        st.warning(
            f"Not in this store: {len(lost)} of the reports in this address. `dvc pull` fetches "
            "what was published."
        )
    newest = list(dict.fromkeys([shown.key, *known]))[:AT_FIRST]
    st.session_state["compared"] = [key for key in asked if key in known][:AT_MOST] or newest
    keys = st.multiselect(
        "Runs",
        list(known),
        format_func=lambda key: known[key].title,
        key="compared",
        max_selections=AT_MOST,
        on_change=lambda: selection.choose("compare", ",".join(st.session_state["compared"])),
        help="The address of this page names them: copy it to share the comparison.",
    )
    return [known[key] for key in keys]


def _frontiers(scores: pl.DataFrame, measures: Measures) -> None:
    st.subheader("Frontiers", anchor="frontiers")
    listed = [
        m
        for (stage, _), m in measures.items()
        if stage == "evaluate" and m.short and m.better != "neither"
    ]
    drawn = []
    for measure in sorted((m for m in listed if m.rank < TENS), key=lambda measure: measure.rank):
        points = views.runs.frontier(scores, measures, measure)
        if not points.is_empty():
            drawn.append((f"{measure.label}, {measure.unit}", points))
    for start in range(0, len(drawn), ACROSS):
        for column, (title, points) in zip(
            st.columns(ACROSS), drawn[start : start + ACROSS], strict=False
        ):
            column.altair_chart(charts.frontier(points, title), width="stretch")
    if not drawn:
        st.caption("Nothing was measured together with L0.")
    if drawn:
        st.caption(
            "Test split; bars are 95% intervals in both directions; point at a mark for its run, "
            "n and hook point."
        )


def _tables(scores: pl.DataFrame, measures: Measures) -> None:
    st.subheader("Headlines", anchor="headlines")
    table = views.runs.run_list(scores, measures)
    st.dataframe(
        table,
        hide_index=True,
        column_config={
            "run": st.column_config.TextColumn(pinned=True),
            **{
                name: st.column_config.NumberColumn(format="%.4g")
                for name in table.columns
                if name != "run"
            },
        },
    )
    st.caption(
        "Click the head of a column to sort the runs by it. Intervals are in the table below."
    )
    st.subheader("Every score with its 95% interval", anchor="scores")
    beside = views.runs.side_by_run(scores, measures)
    st.dataframe(
        beside,
        hide_index=True,
        height=min(560, 38 + 35 * beside.height),
        column_config={"measure": st.column_config.TextColumn(pinned=True, width=330)},
    )


def _configurations(picked: list[Experiment]) -> None:
    if len(picked) < 2:
        return
    st.subheader("What was set differently", anchor="differences")
    configs = {
        each.label: {stage: artifact.config for stage, artifact in each.artifacts.items()}
        for each in picked
    }
    differ = views.runs.differences(configs)
    if differ.is_empty():
        st.caption(
            "Nothing: the same parameters in every stage. The code, the model or the corpus "
            "differs."
        )
        return
    st.dataframe(differ, hide_index=True)


show(page, sweeps)
