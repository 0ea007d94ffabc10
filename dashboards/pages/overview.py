"""What was run, what came out, and what is running now?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from components.report.measure import Measures
from components.report.reasons import absent
from components.report.tables import REPORT
from dashboards import charts, panels, runs, views
from dashboards.app import show
from dashboards.markdown import code, plain
from dashboards.measures import estimate, number
from dashboards.runs import Experiment


def page(shown: Experiment) -> None:
    """The experiment from the headline numbers down to every score and parameter."""
    report = runs.table(REPORT, shown.report)
    links = _title(shown)
    if report.is_empty():
        st.info(
            "This run has no score: no stage that measures anything was part of it. `latentflow "
            "experiment` runs all."
        )
        _further(shown)
        return _links(links, shown)
    _headlines(report, shown.measures)
    _told(shown, report)
    with st.container(border=True):
        _table(report, shown.measures)
    left, right = st.columns(2)
    with left, st.container(border=True):
        _concepts(report)
    with right, st.container(border=True):
        _steering(report)
    _further(shown)
    _links(links, shown)


def _title(shown: Experiment) -> DeltaGenerator:
    train = shown.artifacts.get("train")
    facts = train.facts if train else {}
    st.title(plain(facts.get("name", "Experiment")))
    said = [
        _place(facts),
        f"activations of the file {code(shown.file)}" if shown.file else "",
        f"{facts['d_sae']:,} latents of {facts['d_in']} dimensions"
        if "d_sae" in facts and "d_in" in facts
        else "",
        f"trained on {facts['tokens'] / 1e6:.2g} million tokens" if facts.get("tokens") else "",
        f"report `{shown.key}` of "
        f"{shown.report.manifest['made']['at'].replace('T', ' ').rstrip('Z')} UTC",
    ]
    st.markdown(" · ".join(part for part in said if part))
    links = st.empty()
    if shown.missing:
        st.warning(
            "Not in this store, though this experiment rests on it: "
            f"{plain(', '.join(shown.missing))}. `dvc pull` fetches what "
            "was published; `latentflow experiment` makes it again."
        )
    return links


def _place(facts: Mapping[str, Any]) -> str:
    """Where the dictionary stands in the model: what it reads, and what it reconstructs where that
    is something else."""
    if "reads" not in facts or facts["reads"] == facts["reconstructs"]:
        return (
            f"at {', '.join(map(code, facts.get('reads', [facts['hook_point']])))}"
            if "hook_point" in facts
            else ""
        )
    reads, reconstructs = (", ".join(map(code, facts[role])) for role in ("reads", "reconstructs"))
    return f"reads {reads}, reconstructs {reconstructs}"


def _links(place: DeltaGenerator, shown: Experiment) -> None:
    """Where the other two windows show this run; last, for the first question to MLflow loads its
    library."""
    if links := [
        f"[open in {name}]({address})" for name, address in runs.tracked(shown.key).items()
    ]:
        place.markdown(" · ".join(links))


def _headlines(report: pl.DataFrame, measures: Measures) -> None:
    cards = views.scores.headlines(report, measures)
    for start in range(0, len(cards), 4):
        for column, row in zip(st.columns(4), cards[start : start + 4], strict=False):
            value, interval = estimate(row["value"], row["low"], row["high"])
            with column.container(border=True, height="stretch"):
                label = plain(row["label"])
                st.metric(label, value, help=f"{label}. {row['about']}")
                st.caption(_beside(row, interval))


def _beside(row: dict, interval: str) -> str:
    parts = [f"95%: {interval}" if row["low"] is not None else "", row["unit"]]
    parts = [" · ".join(part for part in parts if part)]
    if row["baseline"] is not None:
        parts.append(f"{row['baseline_name']}: {number(row['baseline'])}")
    if row["n"] is not None:
        failed = f", {row['n_failed']} failed" if row["n_failed"] else ""
        kind = (
            f", {row['concept_kind']} kinds"
            if row["concept_kind"] == "all"
            else f", {row['concept_kind']}"
            if row["concept_kind"]
            else ""
        )
        parts.append(f"n = {row['n']:,} {row['unit_of_replication'] or 'replicate'}s{kind}{failed}")
    if row["value"] is None:
        parts.append(row["reason"] or "not measured")
    return "  \n".join(plain(part) for part in parts)


def _told(shown: Experiment, report: pl.DataFrame) -> None:
    """What the report says in sentences: against us first, then for us, then what is open, then
    what has no value."""
    facts = shown.report.facts
    if facts.get("training"):
        st.caption(plain(facts["training"]))
    for heading, sentences in (
        ("What came out against us", facts.get("against_us")),
        ("What came out for us", facts.get("for_us")),
        ("No difference can be told at this n", facts.get("undecided")),
        ("Not measured", absent(report, shown.measures)),
    ):
        if sentences:
            with st.expander(f"{heading} ({len(sentences)})"):
                st.markdown("\n".join(f"- {plain(sentence)}" for sentence in sentences))


def _table(report: pl.DataFrame, measures: Measures) -> None:
    head, switch = st.columns([4, 1], vertical_alignment="center")
    head.subheader("Every score", anchor="scores")
    everything = switch.toggle("all rows", help="Also the rows that the short table leaves out.")
    frame = views.scores.scores(report, measures, everything)
    st.dataframe(
        views.scores.greyed(frame),
        hide_index=True,
        height=min(560, 38 + 35 * frame.height),
        column_config={
            "measure": st.column_config.TextColumn(pinned=True, width="medium"),
            "n": st.column_config.NumberColumn(
                format="localized", help="replicates, failures included"
            ),
            "of": st.column_config.TextColumn(help="what one replicate is"),
            "seeds": st.column_config.NumberColumn(help="training seeds"),
            "name": st.column_config.TextColumn(
                help="the name in MLflow, DVC and `latentflow report --json`"
            ),
        },
    )


def _concepts(report: pl.DataFrame) -> None:
    st.subheader("Concepts found", anchor="concepts")
    found = views.scores.concepts_by_kind(report)
    if found.is_empty():
        lacking = report.filter(pl.col("entry") == "concepts_found")
        panels.absent(lacking, "This report has no score `evaluate.concepts_found`")
        return
    st.altair_chart(charts.concepts(found), width="stretch")
    st.caption(
        "Of the concepts that a probe decodes: found when the unit that is best on select reaches "
        "the average precision asked for on test. Latents of the dictionary, raw neurons, latents "
        "of an untrained dictionary of equal size, and the full probe. Bars with 95% intervals."
    )


def _steering(report: pl.DataFrame) -> None:
    st.subheader("Steering by concept", anchor="steering")
    panels.steering_by_concept(report)


def _further(shown: Experiment) -> None:
    address = f"?report={shown.key}"
    st.markdown(
        f"[Training: curves, dead latents, densities](training{address}) · "
        f"[Latents](latents{address}) · [Compare with other runs](compare{address}) · [Lineage: "
        f"from a number to the bytes](lineage{address})"
    )
    with st.expander("Configuration: every parameter under its dotted name"):
        configs = {
            stage: artifact.config for stage, artifact in reversed([*shown.artifacts.items()])
        }
        st.dataframe(views.lineage.parameters(configs), hide_index=True)


show(page, always=panels.running)
