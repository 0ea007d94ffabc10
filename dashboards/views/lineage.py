"""What an artifact is made of: parameters, parents, files. Pure functions of tables, without
Streamlit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from components.store.lineage import inputs, trail
from dashboards.measures import NOTHING


def parameters(configs: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Every parameter under its dotted name, the stage's name in front: parameter, value."""
    rows: list[dict[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                walk(f"{prefix}.{name}", inner)
        else:
            rows.append(
                {
                    "parameter": prefix,
                    "value": value if isinstance(value, str) else json.dumps(value),
                }
            )

    for stage, config in configs.items():
        walk(stage, config)
    return pl.DataFrame(rows, schema={"parameter": pl.String, "value": pl.String})


def lineage(manifests: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The artifacts behind a report, in the order they were made: stage, key, inputs, size,
    seconds, when, commit."""
    rows = [
        {
            "stage": manifest["stage"],
            "key": manifest["key"],
            "made from": ", ".join(
                f"{role}: {stage}/{key[:8]}" for role, (stage, key) in inputs(manifest).items()
            ),
            "MB": sum(file["bytes"] for file in manifest["files"].values()) / 1e6,
            "seconds": manifest["made"]["seconds"],
            "made at (UTC)": manifest["made"]["at"].replace("T", " ").rstrip("Z"),
            "commit": (manifest["made"]["git_commit"] or NOTHING)[:10],
        }
        for manifest in manifests
    ]
    kinds = {"MB": pl.Float64, "seconds": pl.Float64}
    names = ("stage", "key", "made from", "MB", "seconds", "made at (UTC)", "commit")
    frame = pl.DataFrame(rows, schema={name: kinds.get(name, pl.String) for name in names})
    return frame.sort("made at (UTC)", maintain_order=True)


def graph(
    manifests: Sequence[Mapping[str, Any]],
    chosen: tuple[str, str],
    address: str,
    dark: bool,
    controls: Mapping[str, str],
) -> str:
    """The artifacts behind a report as a graph in the DOT language, what the chosen one rests on
    drawn strongly.

    Args:
        manifests: of every artifact.
        chosen: (stage, key).
        address: of a node's page; `{stage}/{key}` is put behind it.
        dark: whether the page's theme is dark.
        controls: keys of artifacts that are of a control, and of which.
    """
    text, faint, fill, edge = (
        ("#fafafa", "#8a8f98", "#17456b", "#c8ccd2")
        if dark
        else ("#1a1c20", "#8a8f98", "#cfe5f5", "#3b3f45")
    )
    strong = trail(manifests, chosen)
    known = {(manifest["stage"], manifest["key"]): manifest for manifest in manifests}
    outside = {place for manifest in manifests for place in inputs(manifest).values()} - set(known)
    lines = [
        "digraph { rankdir=LR; bgcolor=transparent; nodesep=0.18; ranksep=0.35;",
        'node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11, margin="0.14,0.07"];',
        "edge [arrowsize=0.6];",
    ]
    for (stage, key), manifest in known.items():
        made = manifest["made"]
        size = sum(file["bytes"] for file in manifest["files"].values())
        on = (stage, key) in strong
        what = f"{stage} ({controls[key]})" if key in controls else stage
        label = f"{what}\\n{key[:8]}\\n{readable_seconds(made['seconds'])}, {readable_bytes(size)}"
        colour, words = (edge, text) if on else (faint, faint)
        width = 2.4 if (stage, key) == chosen else 1.2 if on else 0.7
        lines.append(
            f'"{stage}/{key}" [label="{label}", color="{colour}", fontcolor="{words}", penwidth={width}, '
            f'fillcolor="{fill if (stage, key) == chosen else "transparent"}", tooltip="{stage}/{key}", '
            f'URL="{address}{stage}/{key}", target="_self"];'
        )
    for stage, key in sorted(outside):
        note = "given, not made here" if stage == "model" else "not in this store"
        lines.append(
            f'"{stage}/{key}" [label="{stage}\\n{key[:8]}\\n{note}", style="rounded,dashed", color="{faint}", '
            f'fontcolor="{text if (stage, key) in strong else faint}", tooltip="{stage}/{key}"];'
        )
    for (stage, key), manifest in known.items():
        for place in set(inputs(manifest).values()):
            on = (stage, key) in strong and place in strong
            lines.append(
                f'"{place[0]}/{place[1]}" -> "{stage}/{key}" [color="{edge if on else faint}", '
                f"penwidth={1.4 if on else 0.5}];"
            )
    return "\n".join([*lines, "}"])


def files(manifest: Mapping[str, Any]) -> pl.DataFrame:
    """The files of an artifact: file, bytes, digest (blake2b as the manifest has it)."""
    rows = [
        {"file": name, "MB": file["bytes"] / 1e6, "digest": file["digest"]}
        for name, file in manifest["files"].items()
    ]
    return pl.DataFrame(rows, schema={"file": pl.String, "MB": pl.Float64, "digest": pl.String})


def flat(facts: Mapping[str, Any]) -> pl.DataFrame:
    """Nested facts under dotted names: fact, value."""
    return parameters({"": facts}).select(
        pl.col("parameter").str.strip_prefix(".").alias("fact"), pl.col("value")
    )


def readable_bytes(n: float) -> str:
    """A size with its unit: "4.1 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def readable_seconds(seconds: float) -> str:
    """A duration with its unit: "0.4 s", "2 min 5 s", "3 h 12 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
