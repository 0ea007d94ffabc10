"""Pure functions: DataFrame -> chart. Colours near those of Okabe and Ito, dark enough for white,
light enough for black; colour never speaks alone (axis labels and shapes say the same), and every
interval is drawn where there is one.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import altair as alt
import polars as pl

from components.report import frontiers
from components.report.measure import Measures
from components.report.scores import KINDS
from dashboards.views.scores import ROLES, UNITS
from dashboards.views.steering import AXES, METHOD

BLUE, ORANGE, GREY, GREEN, PURPLE, RED = (
    "#2b83ba",
    "#e08a00",
    "#8f8f8f",
    "#00a37a",
    "#c2669b",
    "#d95f02",
)
UNIT_COLOURS = dict(zip(UNITS, (BLUE, ORANGE, GREY, GREEN), strict=True))
ROLE_COLOURS = [BLUE, GREY, GREEN, ORANGE, PURPLE, RED, "#7a5195", "#5b8c5a", "#b8860b"]
"""Of `ROLES`, in their order; so are the next two."""
ROLE_SHAPES = [
    *("circle", "square", "diamond", "triangle", "cross"),
    *("triangle-down", "triangle-left", "triangle-right", "stroke"),
]
ROLE_DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 1], [1, 3], [10, 3], [5, 5], [3, 1]]
CURVE_TITLES = {
    "fvu": "Variance unexplained (FVU)",
    "l0": "Active latents a token (L0)",
    "dead_share": "Dead latents, share",
    "loss": "Loss",
    "learning_rate": "Learning rate",
}
METHOD_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, "#7a5195", "#5b8c5a", "#b8860b")
METHOD_SHAPES = (
    *("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"),
)
"""Of the steering methods of a page in alphabetical order, again from the first: of 56, no two are
alike."""
ROW, FRAME = 22, 110
"""Pixels for one row of a chart, and for its axis, legend and margins."""
LEGEND_ROW = 30
"""Pixels for one row of a legend below a chart, which takes them from the chart."""
METHODS_NAMED = 10
"""Methods that each of several small charts names in a legend of its own, at most."""


def curve(panel: pl.DataFrame, name: str) -> alt.Chart:
    """One measure against tokens seen; logarithmic where it spans more than a factor of twenty
    above zero."""
    low, high = panel["value"].min(), panel["value"].max()
    wide = name != "learning_rate" and low is not None and low > 0 and high / low > 20  # type: ignore[operator]
    one = panel["name"].n_unique() == 1
    return (
        alt.Chart(
            panel.with_columns(pl.col("name").str.strip_prefix(f"{name}.")).select(
                "step", "name", "value", pl.col("tokens") / 1e6
            )
        )
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("tokens:Q", title="million tokens seen", axis=alt.Axis(tickCount=5)),
            y=alt.Y(
                "value:Q",
                title=None,
                scale=alt.Scale(type="log") if wide else alt.Scale(type="linear", zero=True),
                axis=alt.Axis(values=_decades(low, high)) if wide else alt.Axis(tickCount=4),  # type: ignore[arg-type]
            ),
            color=alt.value(BLUE)
            if one
            else alt.Color(
                "name:N",
                title=None,
                legend=alt.Legend(orient="bottom", symbolType="stroke"),
                scale=alt.Scale(range=[BLUE, ORANGE, GREEN, PURPLE, GREY]),
            ),
            strokeDash=alt.value([1, 0]) if one else alt.StrokeDash("name:N", title=None),
            tooltip=[
                "name:N",
                alt.Tooltip("tokens:Q", format=".3f"),
                "step:Q",
                alt.Tooltip("value:Q", format=".4g"),
            ],
        )
        .properties(height=240, title=CURVE_TITLES.get(name, name))
    )


def concepts(found: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Concepts found, by kind of concept, one bar for each kind of unit, with intervals."""
    share = all(value <= 1 for value in found["value"])
    kinds = [kind for kind in KINDS if kind in set(found["concept_kind"])]
    base = alt.Chart(found).encode(
        x=alt.X(
            "concept_kind:N", sort=kinds, title=None, axis=alt.Axis(labelAngle=0, labelFontSize=13)
        ),
        xOffset=alt.XOffset("unit_kind:N", sort=list(UNITS)),
        tooltip=[
            "concept_kind:N",
            "unit_kind:N",
            _figure("value"),
            _figure("low"),
            _figure("high"),
            "n:Q",
        ],
    )
    bars = base.mark_bar(cornerRadiusEnd=2).encode(
        y=alt.Y(
            "value:Q",
            title="share of concepts found" if share else "concepts found",
            scale=alt.Scale(domain=[0, 1]) if share else alt.Undefined,
            axis=alt.Axis(format="%", tickCount=5) if share else alt.Axis(tickCount=5),
        ),
        color=alt.Color(
            "unit_kind:N",
            title=None,
            sort=list(UNITS),
            scale=alt.Scale(domain=list(UNITS), range=list(UNIT_COLOURS.values())),
            legend=alt.Legend(orient="top"),
        ),
    )
    return alt.layer(bars, _interval(base, "y")).properties(height=340)


def steering(frame: pl.DataFrame, everyone: Sequence[str] = ()) -> alt.LayerChart | alt.FacetChart:
    """Steering by concept: a point with interval for each method, a bar from zero for the largest
    random direction.

    Args:
        frame: `views.scores.steering`.
        everyone: all methods of the page (`views.scores.methods`).
    """
    order = frame["concept"].unique(maintain_order=True).to_list()
    methods = sorted(frame["method"].unique())
    y = alt.Y(
        "concept:N", sort=order, title=None, axis=alt.Axis(labelLimit=220, labelOverlap=False)
    )
    offset = alt.YOffset("method:N", sort=methods)
    base = alt.Chart(frame).encode(
        y=y,
        yOffset=offset,
        tooltip=[
            "concept:N", "concept_kind:N", "method:N", _figure("mean"), _figure("low"), _figure("high"), "n:Q",
            "n_failed:Q", _figure("largest_random"), "control:N",
        ],
    )  # fmt: skip
    floor = (
        alt.Chart(frame.unique("concept", maintain_order=True))
        .mark_bar(color=GREY, opacity=0.45, height=ROW - 8)
        .encode(
            y=y,
            x=alt.X("largest_random:Q"),
            tooltip=["concept:N", _figure("largest_random"), "control:N"],
        )
    )
    colour_scale, shape_scale = _method_scales(everyone, methods)
    colours = alt.Color("method:N", title=None, scale=colour_scale)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X(
            "mean:Q",
            title="composite of concept gained and fluency",
            axis=alt.Axis(tickCount=5, orient="top"),
        ),
        # above a narrow chart a third column is cut off
        color=colours.legend(orient="bottom", columns=2, labelLimit=240, symbolLimit=0),
        shape=alt.Shape("method:N", title=None, scale=shape_scale),
    )
    rules = base.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q", color=colours)
    row = max(ROW + 4, 8 * len(methods) + 6)
    legend = LEGEND_ROW * math.ceil(len(methods) / 2)
    return alt.layer(floor, rules, points).properties(height=row * len(order) + FRAME + legend)


def scores(frame: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Scores of one latent: who wrote the explanation on one axis, the value with its interval on
    the other.

    Args:
        frame: explainer, scorer, role (one of `ROLES`), value, low, high, n.
    """
    y = alt.Y(
        "row:N",
        sort=frame["row"].to_list(),
        title=None,
        axis=alt.Axis(labelLimit=240, labelOverlap=False),
    )
    base = alt.Chart(frame).encode(
        y=y,
        tooltip=[
            "explainer:N",
            "scorer:N",
            "predictor:N",
            _figure("value"),
            _figure("low"),
            _figure("high"),
            "n:Q",
        ],
        color=alt.Color(
            "role:N",
            title=None,
            scale=alt.Scale(domain=list(ROLES), range=ROLE_COLOURS),
            legend=None,
        ),
    )
    rules = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=alt.X("value:Q", title="score", scale=alt.Scale(zero=False, nice=True)),
        shape=alt.Shape(
            "role:N",
            legend=None,
            scale=alt.Scale(domain=list(ROLES), range=ROLE_SHAPES),
        ),
    )
    return alt.layer(rules, points).properties(height=ROW * frame.height + FRAME)


def histogram(bins: pl.DataFrame, maximum: float) -> alt.Chart:
    """How strongly a latent fires where it fires; counts on a scale that shows one token beside ten
    thousand."""
    return (
        alt.Chart(bins)
        .mark_bar(color=ORANGE)
        .encode(
            x=alt.X(
                "from:Q", bin="binned", title="activation", scale=alt.Scale(domain=[0, maximum])
            ),
            x2="to:Q",
            y=alt.Y(
                "tokens:Q",
                title="tokens",
                scale=alt.Scale(type="symlog"),
                axis=alt.Axis(tickCount=4, format="~s"),
            ),
            tooltip=[_figure("from"), _figure("to"), "tokens:Q"],
        )
        .properties(height=220)
    )


def logits(frame: pl.DataFrame, side: str) -> alt.Chart:
    """The tokens that a step along the decoder direction makes likelier, or less likely."""
    shown = frame.filter(pl.col("side") == side).sort("rank")
    return (
        alt.Chart(shown.with_columns(pl.format("{} {}", pl.col("rank") + 1, "token").alias("row")))
        .mark_bar(color=GREEN if side == "promoted" else PURPLE, cornerRadiusEnd=2)
        .encode(
            x=alt.X("logit:Q", title=None, axis=alt.Axis(tickCount=3)),
            y=alt.Y(
                "row:N",
                title=None,
                sort=alt.EncodingSortField("rank"),
                axis=alt.Axis(
                    labelExpr="slice(datum.label, indexof(datum.label, ' ') + 1)",
                    labelLimit=110,
                    labelOverlap=False,
                ),
            ),
            tooltip=["token:N", _figure("logit")],
        )
        .properties(height=ROW * max(1, shown.height) + 50)
    )


def distribution(frame: pl.DataFrame) -> alt.Chart:
    """Scores of all latents by role, as steps, so that explanation, floor, ceiling and control can
    be seen apart.

    Args:
        frame: role, from, to, latents (counts already made).
    """
    dashes = dict(zip(ROLES, ROLE_DASHES, strict=True))
    colours = dict(zip(ROLES, ROLE_COLOURS, strict=True))
    present = [role for role in ROLES if role in set(frame["role"])]
    return (
        alt.Chart(frame)
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X("from:Q", title="score of a latent"),
            y=alt.Y("latents:Q", title="latents"),
            color=alt.Color(
                "role:N",
                title=None,
                scale=alt.Scale(domain=present, range=[colours[role] for role in present]),
                legend=alt.Legend(orient="top"),
            ),
            strokeDash=alt.StrokeDash(
                "role:N",
                title=None,
                scale=alt.Scale(domain=present, range=[dashes[role] for role in present]),
            ),
            tooltip=["role:N", _figure("from"), _figure("to"), "latents:Q"],
        )
        .properties(height=300)
    )


def _interval(base: alt.Chart, axis: str) -> alt.Chart:
    """Thin rules from low to high over the marks of `base`."""
    return base.mark_rule(strokeWidth=1.5, color="#808080").encode(
        **{axis: "low:Q", f"{axis}2": "high:Q"}
    )


def _figure(name: str) -> alt.Tooltip:
    return alt.Tooltip(f"{name}:Q", format=".4g")


def _decades(low: float, high: float) -> list[float]:
    """The powers of ten around an interval: the only lines a logarithmic axis needs."""
    return [
        10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ]


SERIES = (BLUE, ORANGE, GREEN, PURPLE, GREY, RED)
"""Colours of things that have no colour of their own, in order."""
NAMED = 6
"""Points beyond which names on a chart would cover one another."""


def sweep_frontier(
    comparison: pl.DataFrame, measures: Measures, title: str
) -> alt.LayerChart | alt.FacetChart | None:
    """One measure against L0: a line for each label and width through its sparsities, bars for the
    interval over seeds, a single mark for each baseline; None where nothing was measured."""
    drawn = frontiers.points(comparison, measures, title)
    if drawn.is_empty():
        return None
    several = drawn.filter(~pl.col("is_baseline"))["d_sae"].n_unique() > 1
    called = pl.format("{} {}", "label", "d_sae") if several else pl.col("label")
    drawn = drawn.with_columns(
        called.alias("dictionary"), pl.col("low", "high").fill_null(pl.col("value"))
    )
    kinds = drawn["dictionary"].unique(maintain_order=True).to_list()
    # beside a narrow chart the last of many are cut off
    below = alt.Legend(orient="bottom", columns=2, symbolLimit=0)
    colour = alt.Color(
        "dictionary:N",
        title=None,
        sort=kinds,
        scale=alt.Scale(domain=kinds, range=list(frontiers.COLOURS)),
        legend=below,
    )
    base = alt.Chart(
        drawn.select("dictionary", "is_baseline", "l0", "value", "low", "high", "n", "sparsity_name", "sparsity")
    ).encode(
        x=alt.X("l0:Q", title="active latents a token (L0)", scale=alt.Scale(type="log", nice=False, padding=12)),
        color=colour,
        tooltip=[
            "dictionary:N", alt.Tooltip("l0:Q", format=".3g"), alt.Tooltip("value:Q", format=".4g"),
            alt.Tooltip("low:Q", format=".4g"), alt.Tooltip("high:Q", format=".4g"), "n:Q", "sparsity_name:N", "sparsity:Q",
        ],
    )  # fmt: skip
    # an untrained dictionary's FVU is a hundred times a good one's
    least, most = (drawn["low"].min(), drawn["high"].max())
    over_decades = isinstance(least, float) and isinstance(most, float) and 0 < least < most / 20
    scale = alt.Scale(type="log", nice=False) if over_decades else alt.Scale(zero=False)
    y = alt.Y("value:Q", title=title, scale=scale)
    lines = base.transform_filter("!datum.is_baseline").mark_line(strokeWidth=1.5).encode(y=y)
    rules = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q"
    )
    marks = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=y, shape=alt.Shape("is_baseline:N", legend=None, scale=alt.Scale(domain=[False, True], range=["circle", "diamond"]))
    )  # fmt: skip
    return alt.layer(lines, rules, marks).properties(height=480, title=title)


def frontier(
    points: pl.DataFrame, title: str, percent: bool = False
) -> alt.LayerChart | alt.FacetChart:
    """One measure against L0: a point with both intervals for each run, runs of one architecture
    joined by a line.

    Args:
        points: `views.runs.frontier`.
        title: of the measure, with its unit.
        percent: whether the measure is a share that reads best as percent.
    """
    kinds = sorted(points["architecture"].unique())
    low, high = points["l0"].min(), points["l0"].max()
    wide = low is not None and low > 0 and high / low > 8  # type: ignore[operator]
    colour = alt.Color(
        "architecture:N",
        title=None,
        scale=alt.Scale(domain=kinds, range=list(SERIES)),
        legend=alt.Legend(orient="top") if len(kinds) > 1 else None,
    )
    base = alt.Chart(points).encode(
        color=colour,
        tooltip=[
            "run:N",
            "hook_point:N",
            _figure("l0"),
            _figure("value"),
            _figure("low"),
            _figure("high"),
            "n:Q",
        ],
    )
    x = alt.X(
        "l0:Q",
        title="L0, active latents a token",
        scale=alt.Scale(type="log", nice=True) if wide else alt.Scale(zero=False, padding=20),
        axis=alt.Axis(tickCount=5),
    )
    y = alt.Y(
        "value:Q",
        title=None,
        scale=alt.Scale(zero=False, padding=10),
        axis=alt.Axis(tickCount=5, **({"format": "~%"} if percent else {})),
    )
    lines = (
        alt.Chart(points)
        .mark_line(strokeWidth=1, strokeDash=[3, 3], opacity=0.6)
        .encode(x=x, y=y, color=colour, detail="hook_point:N")
    )
    up = base.mark_rule(strokeWidth=1.5).encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    across = base.mark_rule(strokeWidth=1.5).encode(y=y, x=alt.X("l0_low:Q"), x2="l0_high:Q")
    marks = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=x, y=y, shape=alt.Shape("architecture:N", title=None, legend=None)
    )
    names = (
        alt.Chart(points)
        .mark_text(dy=-12, fontSize=11, color=GREY)
        .encode(x=x, y=y, text=alt.Text("dictionary:N"))
    )
    return alt.layer(
        lines, across, up, marks, *([names] if points.height <= NAMED else [])
    ).properties(height=260, title=title)


def densities(frame: pl.DataFrame) -> alt.Chart:
    """How many latents are active on which share of tokens, as steps; trained beside untrained.

    Args:
        frame: dictionary (whose latents), from, to, latents.
    """
    names = frame["dictionary"].unique(maintain_order=True).to_list()
    return (
        alt.Chart(frame)
        .mark_line(interpolate="step-after", strokeWidth=2, point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X(
                "from:Q",
                title="density, share of tokens on which a latent is active",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(
                    format=".0e",
                    values=_decades(float(frame["from"].min()), float(frame["to"].max())),
                ),  # type: ignore[arg-type]
            ),
            y=alt.Y("latents:Q", title="latents", axis=alt.Axis(tickCount=5)),
            color=alt.Color(
                "dictionary:N",
                title=None,
                scale=alt.Scale(domain=names, range=[BLUE, GREY]),
                legend=alt.Legend(orient="top", symbolType="stroke"),
            ),
            strokeDash=alt.StrokeDash(
                "dictionary:N", title=None, scale=alt.Scale(domain=names, range=[[1, 0], [6, 3]])
            ),
            tooltip=[
                "dictionary:N",
                alt.Tooltip("from:Q", format=".2e"),
                alt.Tooltip("to:Q", format=".2e"),
                "latents:Q",
            ],
        )
        .properties(height=280)
    )


def budgets(
    frame: pl.DataFrame, title: str, everyone: Sequence[str] = ()
) -> alt.LayerChart | alt.FacetChart:
    """One measure of steering over KL budgets, a line with intervals for each method; beyond
    METHODS_NAMED of them without a legend, which would be longer than the chart.

    Args:
        frame: `views.scores.budgets`, of one measure and one kind of concept.
        title: of the measure, with its unit.
        everyone: all methods of the page (`views.scores.methods`).
    """
    methods = _methods_first(frame, pl.col("role").is_in(["entry", "baseline"]))
    several = frame["budget"].n_unique() > 1
    colour_scale, shape_scale = _method_scales(everyone, *methods)
    methods = [name for part in methods for name in part]
    named = len(methods) <= METHODS_NAMED
    legend = (
        alt.Legend(orient="bottom", labelLimit=240, columns=1, symbolLimit=0) if named else None
    )
    colour = alt.Color("method:N", title=None, scale=colour_scale, legend=legend)
    base = alt.Chart(frame).encode(
        color=colour,
        tooltip=[
            *("method:N", "budget:Q", _figure("value"), _figure("low"), _figure("high")),
            *("n:Q", "n_failed:Q", _figure("baseline"), "baseline_name:N"),
        ],
    )
    values = frame["budget"].unique().sort().to_list()
    x = (
        alt.X(
            "budget:Q",
            title="KL budget, nats a token",
            scale=alt.Scale(type="log", padding=12),
            axis=alt.Axis(values=values, format="~g"),
        )
        if several
        else alt.X("budget:N", title="KL budget, nats a token", axis=alt.Axis(labelAngle=0))
    )
    y = alt.Y("value:Q", title=None, axis=alt.Axis(tickCount=5))
    offset = {} if several else {"xOffset": alt.XOffset("method:N", sort=methods)}
    rules = base.mark_rule(strokeWidth=1.5).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", **offset)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        y=y,
        shape=alt.Shape("method:N", title=None, scale=shape_scale, legend=legend),
        **offset,
    )
    layers = [rules, points]
    if several:
        layers.insert(0, base.mark_line(strokeWidth=1.5).encode(x=x, y=y))
    height = 260 + (LEGEND_ROW * len(methods) if named else 0)
    return alt.layer(*layers).properties(height=height, title=title)


def hook_points(
    swept: pl.DataFrame, measure: str, title: str, everyone: Sequence[str] = ()
) -> alt.LayerChart | alt.FacetChart:
    """The hook point sweep at one budget: what each method reaches on validate text at each hook
    point, with intervals; a ring around what was chosen.

    Args:
        swept: `views.steering.hook_points`, of one budget.
        measure: what chose: composite or uplift.
        title: of the chart.
        everyone: all methods of the page (`views.scores.methods`).
    """
    names = _methods_first(swept, pl.col("standing") == METHOD)
    colour_scale, shape_scale = _method_scales(everyone, *names)
    both = [name for part in names for name in part]
    legend = alt.Legend(orient="bottom", labelLimit=240, columns=2, symbolLimit=0)
    colour = alt.Color("method:N", title=None, scale=colour_scale, legend=legend)
    x = alt.X(
        "hook_point:N",
        title="hook point",
        sort=swept["hook_point"].unique(maintain_order=True).to_list(),
        axis=alt.Axis(labelAngle=0, labelLimit=160),
    )
    offset = alt.XOffset("method:N", sort=both)
    y = alt.Y("value:Q", title=f"{measure} on validate text", axis=alt.Axis(tickCount=5))
    tooltip = [
        *("method:N", "hook_point:N", "budget:Q", _figure("value"), _figure("low")),
        *(_figure("high"), "n:Q", "unit:N", "n_failed:Q", "n_chosen:Q"),
    ]
    base = alt.Chart(swept).encode(x=x, xOffset=offset, color=colour, tooltip=tooltip)
    lines = base.mark_line(strokeWidth=1, opacity=0.6).encode(y=y)
    rules = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        y=y, shape=alt.Shape("method:N", title=None, scale=shape_scale)
    )
    rings = (
        base.transform_filter("datum.chosen")
        .mark_point(shape="circle", filled=False, size=320, strokeWidth=2)
        .encode(y=y)
    )
    height = 360 + LEGEND_ROW * math.ceil(len(both) / 2)
    return alt.layer(lines, rules, points, rings).properties(height=height, title=title)


def off_target(matrix: pl.DataFrame) -> alt.Chart:
    """What text gains of every concept, as a map: a row for each concept that is steered towards, a
    column for each that is judged for. Blue is a gain, orange a loss.

    Args:
        matrix: `components.store.judgements.off_target` of one method at one budget.
    """
    names = matrix["other"].unique().sort().to_list()
    largest = max(
        (abs(value) for value in matrix["uplift"].drop_nulls() if math.isfinite(value)),
        default=1.0,
    )
    colour = alt.Color(
        "uplift:Q",
        title="uplift",
        scale=alt.Scale(domain=[-largest, 0, largest], range=[ORANGE, "#f4f4f4", BLUE]),
    )
    # every concept is named, also where there are many
    axis = alt.Axis(labelLimit=160, labelOverlap=False)
    turned = alt.Axis(labelLimit=160, labelOverlap=False, labelAngle=-90)
    return (
        alt.Chart(matrix)
        .mark_rect()
        .encode(
            x=alt.X("other:N", sort=names, title="judged for", axis=turned),
            y=alt.Y("concept:N", sort=names, title="steered towards", axis=axis),
            color=colour,
            tooltip=["concept:N", "other:N", _figure("uplift")],
        )
        .properties(height=FRAME + 16 * matrix["concept"].n_unique())
    )


def tradeoff(
    points: pl.DataFrame,
    cloud: pl.DataFrame,
    axis: str,
    titles: tuple[str, str],
    everyone: Sequence[str] = (),
) -> alt.LayerChart | alt.FacetChart:
    """Success of steering against its cost, or against fluency: a point with both intervals for
    each method at each budget, joined over budgets; single control directions as a grey cloud; what
    no method exceeds joined by a dashed line. The legend names the methods.

    Args:
        points: `views.steering.tradeoff`.
        cloud: `views.steering.cloud`.
        axis: cost or fluency, a column of both.
        titles: of the axis, and of success.
        everyone: all methods of the page (`views.scores.methods`).
    """
    drawn = points.filter(pl.col(axis).is_not_null())
    names = _methods_first(drawn, pl.col("standing") == METHOD)
    colour_scale, shape_scale = _method_scales(everyone, *names)
    values = pl.concat([drawn[axis], cloud[axis]]).drop_nulls().to_list()
    low, high = min(values, default=0.0), max(values, default=0.0)
    wide = axis == "cost" and 0 < low < high / 4
    # an interval that reaches 0 has no place on a logarithmic axis
    edge = pl.col(f"{axis}_low").clip(lower_bound=low / 2 if wide else None)
    drawn = drawn.with_columns(edge.alias("from"))
    scale = (
        alt.Scale(type="log", nice=False, padding=14)
        if wide
        else alt.Scale(zero=axis == "cost", padding=14)
    )
    x = alt.X(f"{axis}:Q", title=titles[0], scale=scale, axis=alt.Axis(tickCount=5, format="~g"))
    # intervals of controls may leave the chart: they would press all else to its floor
    of_methods = drawn.filter(pl.col("standing") == METHOD)["success_high"]
    reaching = pl.concat([drawn["success"], of_methods, cloud["success"]]).drop_nulls().to_list()
    top = min(1.0, 1.05 * max(reaching, default=1.0)) or 1.0
    y = alt.Y(
        "success:Q",
        title=titles[1],
        scale=alt.Scale(domain=[0, top], nice=False),
        axis=alt.Axis(tickCount=5),
    )
    strength = alt.condition(f"datum.standing === '{METHOD}'", alt.value(0.9), alt.value(0.35))
    # controls are many, and all grey: what each is, a mark says that is pointed at
    named = names[0] or names[1]
    legend = alt.Legend(orient="bottom", labelLimit=180, columns=2, symbolLimit=0, values=named)
    colour = alt.Color("method:N", title=None, scale=colour_scale, legend=legend)
    about = [alt.Tooltip("budget:Q", title="KL budget", format="~g")]
    singles = (
        alt.Chart(cloud.filter(pl.col(axis).is_not_null()))
        .mark_circle(size=18, color=GREY, opacity=0.4)
        .encode(x=x, y=y, tooltip=["method:N", "replicate:Q", *about, *map(_figure, AXES)])
    )
    ends = [f"{name}{end}" for name in ("success", axis) for end in ("", "_low", "_high")]
    base = alt.Chart(drawn).encode(
        color=colour, tooltip=["method:N", *about, *map(_figure, ends), "n:Q", "n_failed:Q"]
    )
    frontier = (
        alt.Chart(drawn.filter(f"best_{axis}").sort(axis))
        .mark_line(strokeDash=[5, 4], strokeWidth=1.5, color=GREY)
        .encode(x=x, y=y, order=alt.Order(f"{axis}:Q"))
    )
    over_budgets = (
        alt.Chart(drawn.filter(pl.col("budget").is_not_null()))
        .mark_line(strokeWidth=1)
        .encode(x=x, y=y, color=colour, order=alt.Order("budget:Q"))
    )
    up = base.mark_rule(strokeWidth=1.5, clip=True).encode(
        x=x, y=alt.Y("success_low:Q"), y2="success_high:Q", opacity=strength
    )
    across = base.mark_rule(strokeWidth=1, clip=True).encode(
        y=y, x=alt.X("from:Q"), x2=f"{axis}_high:Q", opacity=strength
    )
    marks = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=x, y=y, shape=alt.Shape("method:N", title=None, scale=shape_scale)
    )
    layers = alt.layer(singles, frontier, over_budgets, across, up, marks)
    return layers.properties(height=380 + LEGEND_ROW * math.ceil(len(named) / 2))


def _methods_first(frame: pl.DataFrame, is_method: pl.Expr) -> tuple[list[str], list[str]]:
    """Names of methods, then of controls, each in alphabetical order."""
    of = frame.select("method", is_method.fill_null(False).alias("is_method")).unique()
    methods = sorted(of.filter("is_method")["method"].unique())
    return methods, sorted(set(of["method"].drop_nulls()) - set(methods))


def _method_scales(
    everyone: Sequence[str], methods: Sequence[str], controls: Sequence[str] = ()
) -> tuple[alt.Scale, alt.Scale]:
    """Colours and shapes of a chart's steering methods, by their place among all of the page;
    controls are grey."""
    names = [*methods, *controls]
    place = {name: number for number, name in enumerate(dict.fromkeys([*everyone, *names]))}
    colours = [METHOD_COLOURS[place[name] % len(METHOD_COLOURS)] for name in methods]
    shapes = [METHOD_SHAPES[place[name] % len(METHOD_SHAPES)] for name in names]
    return (
        alt.Scale(domain=names, range=[*colours, *(GREY for _ in controls)]),
        alt.Scale(domain=names, range=shapes),
    )


def raster(png: bytes, box: tuple[float, float, float, float]) -> alt.Chart:
    """A part of a map that was drawn as a picture; a box can be drawn on it (`box`).

    Args:
        png: `views.plane.raster`.
        box: x from and to, y from and to.
    """
    address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    x0, x1, y0, y1 = box
    rows = pl.DataFrame({"x": [x0], "x2": [x1], "y": [y0], "y2": [y1], "url": [address]})
    return (
        alt.Chart(rows)
        .mark_image(aspect=False)
        .encode(
            x=alt.X("x:Q", title=None, scale=alt.Scale(domain=[x0, x1], nice=False)),
            x2="x2:Q",
            y=alt.Y("y:Q", title=None, scale=alt.Scale(domain=[y0, y1], nice=False)),
            y2="y2:Q",
            url="url:N",
            tooltip=alt.value(None),
        )
        .add_params(alt.selection_interval(name="box"))
        .properties(height=640)
    )
