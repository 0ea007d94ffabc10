"""From a number back to the bytes: what made it, from what, with which settings, how long, how
large."""

from __future__ import annotations

import streamlit as st

from components.report.tables import REPORT
from components.store.lineage import controls, inputs
from dashboards import measures, runs, selection, views
from dashboards.app import show
from dashboards.markdown import code, plain
from dashboards.runs import Experiment


def page(shown: Experiment) -> None:
    """A number to start from, the graph of artifacts behind it, and everything about the one that
    is chosen."""
    st.title("Lineage")
    known = {(artifact.stage, artifact.key): artifact for artifact in shown.closure}
    _from_a_number(shown)
    asked = selection.chosen("artifact") or f"report/{shown.key}"
    stage, _, key = asked.partition("/")
    if (stage, key) not in known:
        st.warning(
            f"No artifact {code(asked[:60])} behind this report; showing the report. If it was "
            "published, `dvc pull` fetches it; `latentflow experiment` makes it again."
        )
        selection.forget("artifact")
        stage, key = "report", shown.key
    manifests = [artifact.manifest for artifact in shown.closure]
    dot = views.lineage.graph(
        manifests,
        (stage, key),
        f"lineage?report={shown.key}&artifact=",
        dark=st.context.theme.type == "dark",
        controls=controls(shown.closure),
    )
    st.graphviz_chart(dot, width="stretch")
    total = sum(file["bytes"] for manifest in manifests for file in manifest["files"].values())
    seconds = sum(manifest["made"]["seconds"] for manifest in manifests)
    st.caption(
        f"{len(manifests)} artifacts, {views.lineage.readable_bytes(total)}, made in "
        f"{views.lineage.readable_seconds(seconds)} in all. "
        "Click a box to open it; drawn strongly is what the chosen one rests on."
    )
    _artifact(shown, known, stage, key)
    st.subheader("All of them", anchor="all")
    st.dataframe(
        views.lineage.lineage(manifests),
        hide_index=True,
        column_config={
            "MB": st.column_config.NumberColumn(format="%.1f"),
            "seconds": st.column_config.NumberColumn(format="%.1f"),
        },
    )


def _from_a_number(shown: Experiment) -> None:
    report = runs.table(REPORT, shown.report)
    if report.is_empty():
        st.info("This run has no score; the graph shows what it made.")
        return
    every = views.scores.scores(report, shown.measures, everything=True)
    rows = {number: row for number, row in enumerate(every.iter_rows(named=True))}

    def title(number: int) -> str:
        row = rows[number]
        kind = "" if row["concepts"] == measures.NOTHING else f" ({row['concepts']})"
        return f"{row['measure']}{kind} = {row['value']}"

    picked = st.selectbox(
        "From the number",
        list(rows),
        format_func=title,
        index=None,
        placeholder="pick a score to see what it was measured on",
        key=f"number {shown.key}",
        on_change=lambda: _follow(shown, rows),
    )
    if picked is not None:
        row = rows[picked]
        st.markdown(
            f"**{plain(title(picked))}**, 95% interval {row['95% interval']}, n = {row['n']} · "
            f"{code(row['name'])} measured by {code(row['artifact'])} on {plain(row['split'])}"
        )


def _follow(shown: Experiment, rows: dict[int, dict]) -> None:
    picked = st.session_state[f"number {shown.key}"]
    if picked is not None:
        selection.choose("artifact", rows[picked]["artifact"])


def _artifact(shown: Experiment, known: dict, stage: str, key: str) -> None:
    artifact = known[stage, key]
    manifest, made = artifact.manifest, artifact.manifest["made"]
    st.header(plain(f"{stage} {key[:8]}"), anchor="artifact")
    size = sum(file["bytes"] for file in manifest["files"].values())
    memory = made.get("peak_memory_bytes")
    figures = (
        ("Time", views.lineage.readable_seconds(made["seconds"]), "to make it"),
        ("Size", views.lineage.readable_bytes(size), f"{len(manifest['files'])} files"),
        (
            "Peak memory",
            views.lineage.readable_bytes(memory) if memory else measures.NOTHING,
            "resident, whole process",
        ),
        (
            "Commit",
            (made.get("git_commit") or measures.NOTHING)[:8],
            "of the code; + where the tree differed from it",
        ),
    )
    for column, (label, value, about) in zip(st.columns(len(figures)), figures, strict=True):
        column.metric(label, plain(value), help=about)
    versions = ", ".join(
        f"{name} {number}" for name, number in (made.get("versions") or {}).items()
    )
    entries = ", ".join(
        f"{name} {number}" for name, number in (manifest.get("entries") or {}).items()
    )
    st.markdown(
        f"made {made['at'].replace('T', ' ').rstrip('Z')} UTC · key {code(key)} · version "
        f"{manifest['version']} of the stage"
        + (f" · entries {code(entries)}" if entries else "")
        + (f" · {plain(versions)}" if versions else "")
        + f"  \nin {code(artifact.folder)}"
    )
    parents = [
        f"{plain(role)}: {_link(shown, *place, known)}" for role, place in inputs(manifest).items()
    ]
    users = [
        _link(shown, other.stage, other.key, known)
        for other in shown.closure
        if (stage, key) in inputs(other.manifest).values()
    ]
    st.markdown(
        f"made from {' · '.join(parents) or 'nothing in the store'}  \nused by "
        f"{' · '.join(users) or 'nothing yet'}"
    )
    settings, facts, files = st.tabs(["Settings", "Facts", "Files"])
    with settings:
        if artifact.config:
            st.dataframe(views.lineage.parameters({stage: artifact.config}), hide_index=True)
        else:
            st.caption("This stage has no parameters.")
    with facts:
        if artifact.facts:
            st.dataframe(views.lineage.flat(artifact.facts), hide_index=True)
        else:
            st.caption("This stage recorded no facts.")
    with files:
        st.dataframe(
            views.lineage.files(manifest).sort("MB", descending=True).head(500),
            hide_index=True,
            column_config={"MB": st.column_config.NumberColumn(format="%.3f")},
        )
        st.caption("Digests are checked whenever a file is read.")


def _link(shown: Experiment, stage: str, key: str, known: dict) -> str:
    if (stage, key) not in known:
        return f"{plain(stage)} {code(key[:8])}" + (
            "" if stage == "model" else " (not in this store)"
        )
    return f"[{plain(stage)} {key[:8]}](lineage?report={shown.key}&artifact={stage}/{key})"


show(page)
