"""A page of chosen latents that opens without a server: one file, no script, no outside request.

Everything from the tables is escaped, and a content security policy in the page forbids whatever an
escape could miss: scripts, images, fonts, requests. Styles and two drawings are inside. Light or
dark is the reader's browser's choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from components.errors import InputError
from components.export import heat
from components.export.contract import Findings, Target, targets
from components.store.artifact import Artifact
from components.store.notes import Notes
from components.store.tables import CONTEXTS, EXPLANATION_SCORES, EXPLANATIONS, NEIGHBOURS

FILE = "latents.html"
WINDOWS = 5
"""Windows shown of each interval of activation, and of each kind of silent ones."""
MOST_BYTES = 20_000_000
"""Largest page: what a browser opens without a pause."""
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1b1f;--paper:#fff;--line:#8884;--soft:#5c5c66;--up:#00795a;--down:#8a4b7d;--bar:#b87800}
@media(prefers-color-scheme:dark){:root{--ink:#ececf1;--paper:#131318;--soft:#a8a8b3;--up:#3fc79d;--down:#d18fc2;--bar:#e69f00}}
body{margin:0 auto;max-width:76rem;padding:1.5rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem}h2{margin-top:3rem;border-top:2px solid var(--line);padding-top:1rem}h3{margin:1.6rem 0 .4rem;font-size:1.05rem}
a{color:inherit}.soft{color:var(--soft);font-size:.88rem}nav a{margin-right:.8rem}.said{font-size:1.1rem;overflow-wrap:anywhere}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .7rem;text-align:left;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right}.wide{overflow-x:auto}.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:0 2.5rem}
.up{color:var(--up)}.down{color:var(--down)}svg{width:100%;max-width:32rem;height:auto}rect{fill:var(--bar)}text{fill:var(--soft);font-size:11px}
"""


@targets
class Html(Target):
    """Chosen latents on a page of their own."""

    about: ClassVar[str] = "a page of chosen latents that opens without a server"
    chosen: ClassVar[bool] = True

    def write(self, findings: Findings, folder: Path, latents: Sequence[int] | None) -> None:
        """Writes `latents.html`.

        Raises:
            InputError: the page would be larger than a browser opens well.
        """
        assert latents is not None, "a target that is told which"
        size = 0
        with (folder / FILE).open("w", encoding="utf-8") as file:
            for part in _page(findings, latents):
                size += len(part.encode("utf-8", "replace"))
                if size > MOST_BYTES:
                    raise InputError(
                        f"the page of {len(latents)} latents would be larger than "
                        f"{MOST_BYTES / 1e6:.0f} MB; choose fewer (--latents)"
                    )
                file.write(part.encode("utf-8", "replace").decode())


def _page(findings: Findings, latents: Sequence[int]) -> Iterator[str]:
    facts = findings.artifacts["train"].facts
    title = f"{facts['name']} at {facts['hook_point']}"
    encode, interpret = findings.artifacts["encode"], findings.artifacts.get("interpret")
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src '
        "'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="soft">{len(latents)} of {findings.d_sae:,} latents; model '
        f"{escape(findings.model)}; statistics of the split {escape(findings.split)}; codes "
        f"{escape(encode.key)}"
        + (f", explanations {escape(interpret.key)}" if interpret else "")
        + ".</p><nav>"
        + "".join(f'<a href="#latent-{latent}">{latent}</a>' for latent in latents)
        + "</nav>"
    )
    said = Notes(findings.store, findings.artifacts["train"].key).notes()
    rows = findings.latents().filter(pl.col("latent").is_in(latents)).sort("latent").collect()
    for row in rows.iter_rows(named=True):
        mine = said.filter(pl.col("latent") == row["latent"])
        yield from _latent(row, encode, interpret, set(latents), _notes(mine))
    yield "</body></html>\n"


def _latent(
    row: dict[str, Any], encode: Artifact, interpret: Artifact | None, here: set[int], notes: str
) -> Iterator[str]:
    latent = row["latent"]
    every = f"1 token in {1 / row['density']:,.0f}" if row["density"] else "never active"
    yield (
        f'<h2 id="latent-{latent}">Latent {latent}</h2><p class="soft">Density '
        f"{row['density']:.3g} ({every}); {row['n_active']:,} active tokens; largest activation "
        f"{row['maximum'] or 0:.3g}; norm of the decoder direction {row['decoder_norm']:.3g}.</p>"
    )
    yield notes
    if interpret is not None:
        mine = pl.col("latent") == latent
        yield _explanations(EXPLANATIONS.scan(interpret).filter(mine).collect())
        yield _scores(EXPLANATION_SCORES.scan(interpret).filter(mine).collect())
    yield '<div class="two"><div>' + _histogram(row) + "</div><div>" + _logits(row) + "</div></div>"
    yield _neighbours(NEIGHBOURS.scan(encode).filter(pl.col("latent") == latent).collect(), here)
    if interpret is not None and CONTEXTS.file in interpret.files:
        yield _contexts(CONTEXTS.scan(interpret).filter(mine).collect(), row["maximum"] or 0.0)


def _notes(said: pl.DataFrame) -> str:
    """Labels, tags and votes of people."""
    parts = []
    for row in said.iter_rows(named=True):
        vote = {1: "worth looking at", -1: "not worth looking at"}.get(row["vote"])
        more = [*row["tags"], *([vote] if vote else ()), f"said by {row['author'] or 'a person'}"]
        parts.append(
            f'<p class="said">{escape(row["label"] or "")} <span class="soft">'
            f"{escape(' · '.join(more))}</span></p>"
        )
    return "".join(parts)


def _explanations(said: pl.DataFrame) -> str:
    parts = []
    for row in said.sort("explainer").iter_rows(named=True):
        text = row["explanation"] or f"no explanation: {row['reason'] or 'no reason was given'}"
        parts.append(
            f'<p class="said">{escape(text)} <span class="soft">explainer: '
            f"{escape(row['explainer'])}</span></p>"
        )
    return "".join(parts)


def _scores(scores: pl.DataFrame) -> str:
    """Each score of an explanation beside its floor and the probe."""
    if scores.is_empty():
        return ""
    role = pl.col("role")
    of = ["explainer", "scorer", "predictor"]
    rivals = {
        "floor": scores.filter(role == "floor").select(*of, pl.col("value").alias("floor")),
        "probe": scores.filter(role == "ceiling").group_by("scorer").agg(pl.col("value").mean().alias("probe")),
    }  # fmt: skip
    rows = scores.filter(role.is_in(["entry", "control"])).join(rivals["floor"], on=of, how="left")
    rows = rows.join(rivals["probe"], on="scorer", how="left").sort(*of)
    body = "".join(
        f"<tr><td>{escape(row['explainer'] or '')}</td><td>{escape(row['scorer'])}</td>"
        f'<td>{escape(row["predictor"] or "")}</td><td class="n">{_number(row["value"])}</td>'
        f'<td class="n">{_number(row["low"])} to {_number(row["high"])}</td>'
        f'<td class="n">{_number(row["floor"])}</td><td class="n">{_number(row["probe"])}</td>'
        f'<td class="n">{row["n"]}</td><td>{escape(row["reason"] or "")}</td></tr>'
        for row in rows.iter_rows(named=True)
    )
    head = "".join(f"<th>{name}</th>" for name in ("explainer", "scorer", "read by"))
    head += "".join(
        f'<th class="n">{name}</th>' for name in ("score", "95% interval", "floor", "probe", "windows")
    )  # fmt: skip
    return (
        f'<h3>Scores</h3><div class="wide"><table><tr>{head}<th></th></tr>{body}</table></div>'
        '<p class="soft">Windows of the test split. Floor: another latent\'s explanation, read the '
        "same way. Probe: a linear model on the same windows, which reads no explanation.</p>"
    )


def _histogram(row: dict[str, Any]) -> str:
    counts = row["histogram"] or []
    if not any(counts):
        why = "Never active, so there is no histogram."
        if row["n_active"]:
            why = "No histogram: codes were not stored (capture.from_model)."
        return f'<h3>How strongly</h3><p class="soft">{why}</p>'
    top, width = math.log1p(max(counts)), 300 / len(counts)
    bars = "".join(
        f'<rect x="{40 + n * width:.1f}" y="{110 - 100 * math.log1p(count) / top:.1f}" '
        f'width="{width - 1:.1f}" height="{100 * math.log1p(count) / top:.1f}">'
        f"<title>{row['maximum'] * n / len(counts):.3g} to "
        f"{row['maximum'] * (n + 1) / len(counts):.3g}: {count:,} tokens</title></rect>"
        for n, count in enumerate(counts)
        if count
    )
    labels = (
        f'<text x="36" y="18" text-anchor="end">{max(counts):,}</text>'
        '<text x="40" y="126">0</text>'
        f'<text x="340" y="126" text-anchor="end">{row["maximum"]:.3g}</text>'
    )
    return (
        '<h3>How strongly</h3><svg viewBox="0 0 350 132" role="img" aria-label="Histogram of the '
        f'activations">{bars}{labels}</svg><p class="soft">Active tokens by activation, counts on '
        "a logarithmic scale.</p>"
    )


def _logits(row: dict[str, Any]) -> str:
    if not row["promoted"]:
        return '<h3>What it says next</h3><p class="soft">No logits: encoded without a model, or not at the residual stream.</p>'
    columns = ""
    for side, mark in (("promoted", "up"), ("suppressed", "down")):
        pairs = zip(row[side], row[f"{side}_logits"], strict=True)
        body = "".join(
            f'<tr><td>{escape(heat.visible(token))}</td><td class="n {mark}">{value:+.3g}</td></tr>'
            for token, value in pairs
        )
        columns += f'<table><tr><th>{side}</th><th class="n">logit</th></tr>{body}</table>'
    return f'<h3>What it says next</h3><div class="two">{columns}</div>'


def _neighbours(near: pl.DataFrame, here: set[int]) -> str:
    named = [
        f'<a href="#latent-{number}">{number}</a> ({cosine:.2f})'
        if number in here
        else f"{number} ({cosine:.2f})"
        for number, cosine in near.sort("rank").select("neighbour", "cosine").iter_rows()
    ]
    return f'<p class="soft">Nearest decoder directions (cosine): {", ".join(named) or "none"}.</p>'


def _contexts(contexts: pl.DataFrame, largest: float) -> str:
    if contexts.is_empty():
        return '<h3>Where it fires</h3><p class="soft">No windows of text were chosen for this latent.</p>'
    largest = max([largest, *contexts["maximum"]])
    rank = {"top": 0, "weighted": 1, "quantile": 2, "silent": 3}
    parts = [f"<h3>Where it fires</h3>{heat.legend(largest)}"]
    groups = contexts.partition_by("role", "quantile", "stratum", as_dict=True)
    for role, quantile, stratum in sorted(
        groups, key=lambda kind: (rank.get(str(kind[0]), 4), kind[1] or 0, str(kind[2]))
    ):
        rows = groups[role, quantile, stratum].sort("maximum", "window", descending=[True, False])
        reach = f"largest activation {rows['maximum'][-1]:.3g} to {rows['maximum'][0]:.3g}"
        kind = str(stratum).replace("_", " ")
        title = {
            "top": f"Strongest · {reach}",
            "weighted": f"Drawn by strength, interval {quantile} · {reach}",
            "quantile": f"Interval {quantile} · {reach}",
        }.get(str(role), f"Silent · {kind}" if stratum else "Silent")
        parts.append(
            f"<h3>{escape(title)} · {min(WINDOWS, rows.height)} of {rows.height} windows</h3>"
            f'<div class="wide">{heat.windows(rows.head(WINDOWS), largest)}</div>'
        )
    return "".join(parts)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")
