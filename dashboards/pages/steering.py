"""Does steering bring the concept into the text, at what cost, and against which baselines?"""

from __future__ import annotations

import polars as pl
import streamlit as st

from components.errors import StoreError
from components.report.measure import Measures
from components.report.scores import KINDS
from components.report.tables import REPORT
from components.store.artifact import Artifact
from components.store.judgements import UNSTEERED, judged, off_target
from components.store.tables import (
    BATTERY,
    CONTRASTS,
    GENERATIONS,
    HOOK_POINTS,
    JUDGEMENTS,
    STEERED,
    STRENGTHS,
    TARGETS,
)
from dashboards import (
    charts,
    measures,
    panels,
    playground,
    runs,
    selection,
    text_ratings,
    tokens,
    views,
)
from dashboards.app import show
from dashboards.markdown import code, plain
from dashboards.runs import Experiment

PAIRS = 20
CHARTS = 4
"""Charts in a row."""


def page(shown: Experiment) -> None:
    """Every concept's composite, then one concept's texts side by side."""
    st.title("Steering")
    steer = shown.artifacts.get("steer")
    if steer is None:
        st.info(
            "The steer artifact of this experiment is not in this store. `latentflow steer` makes "
            "it."
        )
        playground.section(shown)
        return
    report = runs.table(REPORT, shown.report)
    kind, everyone = _kind(report), views.scores.methods(report)
    if kind is not None:
        _tradeoff(report, shown.measures, steer, kind, everyone)
        _budgets(report, shown.measures, kind, everyone)
    _hook_points(steer, everyone)
    left, right = st.columns([1.3, 1], gap="large")
    with left:
        st.subheader("By concept", anchor="concepts")
        frame = panels.steering_by_concept(report)
    with right:
        st.subheader("Means over concepts", anchor="means")
        columns = [
            "measure",
            "concepts",
            "value",
            "95% interval",
            "baseline",
            "baseline is",
            "n",
            "failed",
        ]
        means = views.scores.scores(report.filter(pl.col("stage") == "steer"), shown.measures)
        st.dataframe(means.select(columns), hide_index=True)
    _contrasts(steer)
    _off_target(steer)
    _battery(report, steer)
    text_ratings.beside_judges(steer)
    _targets(steer)
    if not frame.is_empty():
        _texts(steer, frame)
    playground.section(shown)


def _kind(report: pl.DataFrame) -> str | None:
    """The kind of concept that the charts are about; None where no method has a value."""
    there = {*views.scores.budgets(report)["concept_kind"], *views.steering.kinds(report)}
    kinds = [kind for kind in KINDS if kind in there]
    if not kinds:
        return None
    return (
        st.segmented_control("Concepts of the kind", kinds, default=kinds[0], key="kind")
        or kinds[0]
    )


def _tradeoff(
    report: pl.DataFrame, declared: Measures, steer: Artifact, kind: str, everyone: list[str]
) -> None:
    """Success against cost, and against fluency, as charts and as a table."""
    reached, why = _reached(steer)
    points = views.steering.tradeoff(report, reached, steer.facts, kind)
    if points.is_empty():
        return
    st.subheader("What steering reaches, and what it costs", anchor="tradeoff")
    measure = views.steering.headline(report)
    label = declared["steer", measure].label if ("steer", measure) in declared else measure
    controls = views.steering.floors(report)
    cloud = _cloud(steer, steer.key, tuple(controls), measure, kind)
    titles = {
        "cost": "cost: KL(steered, plain) on steered text, nats a token",
        "fluency": "fluency, 0 to 1",
    }
    there = [axis for axis in titles if points[axis].null_count() < points.height]
    for column, axis in zip(st.columns(2, gap="large"), there, strict=False):
        named = titles[axis], f"{label} ({measure}), 0 to 1"
        column.altair_chart(charts.tradeoff(points, cloud, axis, named, everyone), width="stretch")
    st.caption(
        "Means over concepts on test prompts with 95% intervals, a point for each KL budget; what "
        "has no strength has one point, at its own cost. Dashed: what no other method exceeds. "
        "Grey: controls, named where a mark is pointed at (their intervals may leave the chart)"
        + (f", and as dots {cloud.height} single control steerings." if cloud.height else ".")
        + (f" No cost is known: {plain(why)}." if why else "")
    )
    with st.expander("The same as a table"):
        st.dataframe(views.steering.told(points, label), hide_index=True)


def _reached(steer: Artifact) -> tuple[pl.DataFrame | None, str | None]:
    """What each method reaches on each concept; or why that cannot be read."""
    if STEERED.file not in steer.files:
        return None, "the artifact has no table of methods by concept"
    try:
        return runs.table(STEERED, steer), None
    except StoreError as error:  # an earlier version, without the columns of costs
        return None, str(error)


@st.cache_data(max_entries=64, show_spinner=False)
def _cloud(
    _steer: Artifact, key: str, controls: tuple[str, ...], measure: str, kind: str
) -> pl.DataFrame:
    """Every single control steering; none where its texts cannot be read.

    Args:
        key: of the artifact: the cache's.
    """
    empty = {"method": pl.String, "replicate": pl.Int32, "budget": pl.Float64}
    nothing = pl.DataFrame(schema=empty | dict.fromkeys(charts.AXES, pl.Float64))
    if not {GENERATIONS.file, JUDGEMENTS.file, TARGETS.file} <= set(_steer.files):
        return nothing
    passed = runs.rows(TARGETS, _steer, passed=True)
    kind_of = dict(passed.select("concept", "concept_kind").iter_rows())
    try:
        texts, said = runs.scan(GENERATIONS, _steer), runs.scan(JUDGEMENTS, _steer)
    except StoreError:  # an earlier version
        return nothing
    return views.steering.cloud(texts, said, controls, kind_of, measure, kind)


def _budgets(report: pl.DataFrame, declared: Measures, kind: str, everyone: list[str]) -> None:
    of = views.scores.budgets(report).filter(pl.col("concept_kind") == kind)
    if of.is_empty():
        return
    st.subheader("Over KL budgets", anchor="budgets")
    drawn = views.training.curves(of, declared)
    for start in range(0, len(drawn), CHARTS):
        row = drawn[start : start + CHARTS]
        for column, measure in zip(st.columns(min(CHARTS, len(drawn))), row, strict=False):
            of_measure = of.filter(pl.col("what") == measure.name)
            title = f"{measure.label}, {measure.unit}"
            column.altair_chart(charts.budgets(of_measure, title, everyone), width="stretch")
    single = of["budget"].n_unique() == 1
    st.caption(
        "Means over concepts on test prompts, 95% intervals. Colours and shapes are those of the charts "
        "above; a mark under the pointer says its method."
        + (
            " One budget was steered at; more make curves: `latentflow steer "
            "steer.kl_budgets='[0.03, 0.1, 0.3]'`."
            if single
            else ""
        )
    )


def _hook_points(steer: Artifact, everyone: list[str]) -> None:
    """What each method reached at each hook point of the sweep, where one was asked for."""
    if HOOK_POINTS.file not in steer.files:
        return
    tried = runs.table(HOOK_POINTS, steer)
    if tried.is_empty():
        return
    st.subheader("Which hook point", anchor="hook-points")
    swept = views.steering.hook_points(tried, steer.facts.get("spoilt", {}))
    parts = swept.partition_by("budget", maintain_order=True)
    for start in range(0, len(parts), 2):
        row = parts[start : start + 2]
        for column, part in zip(st.columns(min(2, len(parts))), row, strict=False):
            budget = part["budget"][0]
            title = "own cost" if budget is None else f"KL budget {measures.number(budget)}"
            chart = charts.hook_points(part, tried["measure"][0], title, everyone)
            column.altair_chart(chart, width="stretch")
    chosen = steer.facts["hook_point_sweep"]["chosen"]
    told = [f"{code(method)} at {code(of)}" for method, of in chosen.items() if isinstance(of, str)]
    st.caption(
        f"Mean {tried['measure'][0]} over targets on text after validate prompts, 95% intervals; a "
        "ring: chosen, once for all targets and budgets, before any test prompt was written. "
        f"Steered: {', '.join(told)}. Of a control each direction chose for itself: the mean over "
        "directions, and the interval over these. Methods that read a dictionary stay where it "
        "writes."
    )
    with st.expander("The same as a table"):
        st.dataframe(views.steering.told_of_sweep(swept), hide_index=True)


def _contrasts(steer: Artifact) -> None:
    """Every method against the controls and against each other method, paired by target."""
    if CONTRASTS.file not in steer.files:
        return
    frame = views.scores.contrasts(runs.table(CONTRASTS, steer))
    if frame.is_empty():
        return
    st.subheader("Against controls, and one against another", anchor="contrasts")
    st.dataframe(frame, hide_index=True)
    st.caption(
        "Differences are paired by target, over test prompts. p is of flips of sign; after Holm it "
        "is corrected over the methods against controls, or over all pairs, at the headline "
        "budget. Could be seen: the smallest difference that so many targets show with power 0.8; "
        "a smaller one is not told from none."
    )


def _off_target(steer: Artifact) -> None:
    """What text that is steered towards one concept gains of every other."""
    if not {GENERATIONS.file, JUDGEMENTS.file} <= set(steer.files):
        return
    matrix = _matrix(steer, steer.key)
    if matrix["concept"].n_unique() < 2:
        return
    st.subheader("What else steering brings", anchor="off-target")
    places = [*matrix.select("method", "kl_budget").unique(maintain_order=True).iter_rows()]
    method, budget = st.selectbox(
        "Method and budget",
        places,
        format_func=lambda place: (
            f"{place[0]}, "
            + ("own cost" if place[1] is None else f"KL budget {measures.number(place[1])}")
        ),
        key="off-target-place",
    )
    shown = matrix.filter(pl.col("method") == method, pl.col("kl_budget").eq_missing(budget))
    st.altair_chart(charts.off_target(shown), width="stretch")
    own = pl.col("concept") == pl.col("other")
    told = [measures.number(shown.filter(rows)["uplift"].mean()) for rows in (own, ~own)]
    st.caption(
        f"Mean uplift by the judge {code(steer.facts['measure'])} on test prompts: rows are "
        "concepts steered towards, columns are concepts judged for; texts that failed are left "
        f"out. On the diagonal {told[0]} in the mean, beside it {told[1]}; the score "
        "`specificity` is their difference, with an interval over concepts."
    )


@st.cache_data(max_entries=16, show_spinner=False)
def _matrix(_steer: Artifact, key: str) -> pl.DataFrame:
    """Mean uplifts of every concept under every method; empty where they cannot be read.

    Args:
        key: of the artifact: the cache's.
    """
    # nothing is judged where nothing was steered
    measure, judged_for = _steer.facts.get("measure", ""), _steer.facts.get("judged")
    empty = off_target(GENERATIONS.frame([]), JUDGEMENTS.frame([]), measure, [])
    if not judged_for:
        return empty
    try:
        said = runs.rows(JUDGEMENTS, _steer, judge=measure)
        return off_target(runs.table(GENERATIONS, _steer), said, measure, judged_for)
    except StoreError:  # an earlier version
        return empty


def _battery(report: pl.DataFrame, steer: Artifact) -> None:
    """Whether the judges fall for text that is made to please them."""
    st.subheader("Can the judges be gamed?", anchor="battery")
    if BATTERY.file not in steer.files:
        st.caption(
            "This run has no gaming battery: `steer.battery` is off, or an earlier version made it."
        )
        return
    tried = runs.table(BATTERY, steer)
    if tried["value"].null_count() == tried.height:
        why = next(iter(tried["reason"].drop_nulls()), "no trick was tried")
        st.caption(f"The gaming battery was not run: {plain(why)}.")
        return
    row = report.filter(pl.col("stage") == "steer", pl.col("measure") == "battery")
    for sentence in row["reason"].drop_nulls():
        st.markdown(f"Battery: {plain(sentence)}.")
    st.dataframe(views.steering.battery(tried), hide_index=True)
    law = views.steering.law_of(tried)
    st.caption(
        "Texts that have the target and are no steered text, judged beside real text that has it, "
        f"cell by cell. The law: on `{law}` real text is above every trick, with its whole "
        "interval over targets; not shown: the interval holds 0. (!): to this judge alone real "
        "text is not above it. A text without a value counts as 0."
    )


def _targets(steer: Artifact) -> None:
    """What is steered towards, and what the gate kept out, with the reason."""
    if TARGETS.file not in steer.files:
        return
    every = runs.table(TARGETS, steer)
    if every.is_empty():
        return
    n_passed = int(every["passed"].sum())
    st.subheader("Targets", anchor="targets")
    st.caption(f"{n_passed:,} of {every.height:,} passed the gate; the others stand first.")
    told = every.sort("passed", "concept").select(
        pl.col("concept").alias("target"),
        pl.col("concept_kind").alias("kind"),
        "passed",
        pl.col("reason").fill_null("").alias("why not"),
        *(
            c
            for c in ("latent", "text", "stratum", "density")
            if every[c].null_count() < every.height
        ),
        pl.col("n_with").alias("with it"),
        pl.col("n_without").alias("without"),
        pl.col("counted").alias("counted in"),
    )
    st.dataframe(told, hide_index=True, height=min(360, 38 + 35 * told.height))


def _texts(steer: Artifact, frame: pl.DataFrame) -> None:
    st.subheader("Texts side by side", anchor="texts")
    if JUDGEMENTS.file not in steer.files:
        st.info(
            "An earlier version wrote these texts, without a table of judgements. `latentflow "
            "steer` writes them anew."
        )
        return
    concepts = frame["concept"].unique(maintain_order=True).to_list()
    budget = next(iter(frame["budget"].drop_nulls()), None)
    asked = selection.chosen("concept")
    st.session_state["concept"] = asked if asked in concepts else concepts[0]
    left, right = st.columns(2)
    concept = left.selectbox(
        "Concept",
        concepts,
        key="concept",
        on_change=lambda: selection.choose("concept", st.session_state["concept"]),
    )
    judgements = runs.rows(JUDGEMENTS, steer, concept=concept)
    of = judged(runs.table(GENERATIONS, steer), judgements, steer.facts["measure"])
    methods = sorted(set(of["method"]) - {UNSTEERED})
    method = str(right.selectbox("Method", methods))
    # none but added vectors before
    scale = steer.facts.get("scales", {}).get(method, "mean activation norms")
    # of several candidates, the one whose texts follow
    used = views.scores.written_with(
        runs.table(STRENGTHS, steer), runs.table(GENERATIONS, steer), method, concept
    )
    used = used.filter((pl.col("kl_budget") == budget) | pl.col("kl_budget").is_null())
    for row in used.head(1).iter_rows(named=True):
        latent = f" · latent {row['latent']}" if row["latent"] is not None else ""
        st.caption(
            f"strength {measures.number(row['coefficient'])}{f' {plain(scale)}' if scale else ''} "
            f"· KL {measures.number(row['kl'])} nats a token{latent}"
            + (f" · {plain(row['reason'])}" if row["reason"] else "")
        )
    pairs = views.scores.side_by_side(of, method, budget)
    st.html(tokens.pairs(pairs.head(PAIRS)))
    st.caption(
        f"{min(PAIRS, pairs.height)} of {pairs.height} test continuations, largest composite "
        "first, failures last."
    )


show(page)
