"""The pages that every test of all pages opens."""

from __future__ import annotations

PAGES = (
    "overview",
    "compare",
    "training",
    "latents",
    "explanations",
    "map",
    "rate",
    "steering",
    "lineage",
)
