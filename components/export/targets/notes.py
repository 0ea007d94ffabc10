"""What people said of latents, as files: labels, tags, votes, ratings, and how far these agree with
the scores.

    labels.csv        typed labels, as the explainer `given` reads them: latent, text, author
    notes.jsonl       labels, tags and votes: a row for each latent and author
    ratings.jsonl     blind ratings of explanations
    agreement.jsonl   kappa of each person with each judge
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl

from components.errors import InputError
from components.export.contract import Findings, Target, targets
from components.report.agreement import agreement
from components.store.notes import Notes, labels
from components.store.tables import EXPLANATION_SCORES


@targets
class OfPeople(Target):
    """Labels, tags, votes and blind ratings."""

    about: ClassVar[str] = "what people said of latents"

    def write(self, findings: Findings, folder: Path, latents: Sequence[int] | None) -> None:
        """Writes the four files, each only where it has rows.

        Raises:
            InputError: nobody said anything.
        """
        notes = Notes(findings.store, findings.artifacts["train"].key)
        wanted = pl.lit(True) if latents is None else pl.col("latent").is_in(latents)
        said, rated = notes.notes().filter(wanted), notes.ratings().filter(wanted)
        if said.is_empty() and rated.is_empty():
            raise InputError(
                "nobody has said anything of these latents yet; the page Latents takes labels, "
                "tags and votes, the page Rate blind ratings"
            )
        if (typed := labels(said)).height:
            typed.write_csv(folder / "labels.csv")
        interpret = findings.artifacts.get("interpret")
        agreed = pl.DataFrame()
        if interpret is not None and rated.height:
            agreed = agreement(rated, EXPLANATION_SCORES.read(interpret), interpret.key)
        for name, frame in (("notes", said), ("ratings", rated), ("agreement", agreed)):
            if frame.height:
                lines = [json.dumps(row, ensure_ascii=False) for row in frame.to_dicts()]
                (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
