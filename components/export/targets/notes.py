"""What people said of latents and of steered text, as files: labels, tags, votes, ratings, and how far
these agree with the scores.

    labels.csv             typed labels, as the explainer `given` reads them: latent, text, author
    notes.jsonl            labels, tags and votes: a row for each latent and author
    ratings.jsonl          blind ratings of explanations
    agreement.jsonl        kappa of each person with each judge of explanations
    text_ratings.jsonl     blind ratings of steered text; not where latents are chosen
    text_agreement.jsonl   kappa and AUROC of each person with each judge of steered text
    people.jsonl           kappa of each two people who rated the same steered texts
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
from components.report.text_agreement import between_people, text_agreement
from components.store.artifact import Artifact
from components.store.notes import Notes, labels
from components.store.tables import EXPLANATION_SCORES, JUDGEMENTS


@targets
class OfPeople(Target):
    """Labels, tags, votes and blind ratings."""

    about: ClassVar[str] = "what people said of latents and of steered text"

    def write(self, findings: Findings, folder: Path, latents: Sequence[int] | None) -> None:
        """Writes the seven files, each only where it has rows.

        Raises:
            InputError: nobody said anything.
        """
        notes = Notes(findings.store, findings.artifacts["train"].key)
        wanted = pl.lit(True) if latents is None else pl.col("latent").is_in(latents)
        said, rated = notes.notes().filter(wanted), notes.ratings().filter(wanted)
        of_text = notes.text_ratings().filter(pl.lit(latents is None))
        if said.is_empty() and rated.is_empty() and of_text.is_empty():
            raise InputError(
                "nobody has said anything of these latents yet; the page Latents takes labels, "
                "tags and votes, the page Rate blind ratings"
            )
        if (typed := labels(said)).height:
            typed.write_csv(folder / "labels.csv")
        agreed = {
            "agreement": _agreed(rated, findings.artifacts.get("interpret")),
            "text_agreement": _text_agreed(of_text, findings.artifacts.get("steer")),
        }
        if steer := findings.artifacts.get("steer"):
            agreed["people"] = between_people(of_text, steer.key)
        told = {"notes": said, "ratings": rated, "text_ratings": of_text, **agreed}
        for name, frame in told.items():
            if frame.height:
                lines = [json.dumps(row, ensure_ascii=False) for row in frame.to_dicts()]
                (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _agreed(rated: pl.DataFrame, interpret: Artifact | None) -> pl.DataFrame:
    if interpret is None or rated.is_empty():
        return pl.DataFrame()
    return agreement(rated, EXPLANATION_SCORES.read(interpret), interpret.key)


def _text_agreed(rated: pl.DataFrame, steer: Artifact | None) -> pl.DataFrame:
    if steer is None or rated.is_empty() or JUDGEMENTS.file not in steer.files:
        return pl.DataFrame()
    of_rated = pl.col("generation").is_in(rated["generation"].unique().implode())
    judgements = JUDGEMENTS.scan(steer).filter(of_rated).drop("off_target").collect()
    return text_agreement(rated, judgements, steer.key)
