"""How far people and the judges of `steer` agree on what a model wrote, judge by judge.

A person answers three questions about a text: is the target in it, is it fluent, does it go on from
its prompt. Each judge stands beside one of them, or beside all that its value is made of
(`STANDARDS`). Two figures: Cohen's kappa, once the judge's value is made a yes or a no at a threshold
that is declared here and that no rating had a part in; and the AUROC of the value for the person's
answer, which needs no threshold. Chance has a kappa of 0 and an AUROC of 0.5; higher is better.

The intervals are from resampling targets, whose texts are alike (`components.report.raters`). All is
of the texts that were drawn to be rated (`components.report.blind_texts`), in which half are steered:
kappa depends on how many of them have the target, so it is no figure of all text of a run.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from components.report.raters import FEWEST_CLUSTERS, clustered_auroc, clustered_kappa
from components.seeds import numpy_generator
from components.store.judgements import COMPOSITE, NOT_ASKED, PANEL

FEWEST_RATINGS = 20
"""Rated texts below which there is neither kappa nor AUROC."""
TARGET, FLUENT, GOES_ON = QUESTIONS = ("has_target", "fluent", "goes_on")
"""Columns of the table TEXT_RATINGS."""


@dataclasses.dataclass(frozen=True)
class Standard:
    """What a judge is held against.

    Attributes:
        questions: the answers of a person; together they are a yes where each is, and a no where one
            is.
        above: the judge says yes where its value is above this.
    """

    questions: tuple[str, ...] = (TARGET,)
    above: float = 0.5


OF_TARGET = Standard()
"""That of every judge without one of its own: its value says that the target is in the text, and
above the middle of its scale it is a yes."""
STANDARDS: Mapping[str, Standard] = {
    # a share of sentences, and 0 in text that does not have the concept
    "grammar": Standard(above=0.0),
    "fluency": Standard((FLUENT,)),
    "ratings_fluency": Standard((FLUENT,)),
    "relevance": Standard((GOES_ON,)),
    "ratings_relevance": Standard((GOES_ON,)),
    COMPOSITE: Standard((TARGET, FLUENT)),
    PANEL: Standard(QUESTIONS),
    "ratings": Standard(QUESTIONS),
    "preference": Standard(QUESTIONS),
}
"""Judges of something else, and those whose threshold is another."""
SCHEMA = {
    "judge": pl.String,
    "questions": pl.List(pl.String),
    "author": pl.String,
    "threshold": pl.Float64,
    "n": pl.Int64,
    "n_failed": pl.Int64,
    "n_left_out": pl.Int64,
    "n_targets": pl.Int64,
    "yes": pl.Float64,
    "agree": pl.Float64,
    "kappa": pl.Float64,
    "kappa_low": pl.Float64,
    "kappa_high": pl.Float64,
    "auroc": pl.Float64,
    "auroc_low": pl.Float64,
    "auroc_high": pl.Float64,
    "reason": pl.String,
}


def text_agreement(
    ratings: pl.DataFrame, judgements: pl.DataFrame, steer: str, seed: int = 0
) -> pl.DataFrame:
    """A row for each judge and person, judges of one question beside one another; null where there
    is no kappa or AUROC, with the reason.

    Args:
        ratings: the table TEXT_RATINGS.
        judgements: rows of the table JUDGEMENTS of the artifact; those of the rated texts are enough.
        steer: its key; ratings of others are left out.
        seed: of the resampling.

    Returns:
        judge, questions, author, threshold (above which the judge says yes), n (texts that the person
            answered and the judge has a value of), n_failed (further texts of which the judge has
            none), n_left_out (further texts of which the person could not say, or about which the
            judge was not asked), n_targets, yes (share of the n to which the person said yes), agree
            (share of equal answers), kappa and auroc with their 95% intervals, reason.
    """
    mine = ratings.filter(pl.col("steer") == steer)
    place = ["generation", "concept"]
    rows = []
    judges = judgements.join(mine, on=place, how="semi")["judge"].unique().to_list()
    for judge in sorted(judges, key=lambda name: (_rank(name), name)):
        standard = STANDARDS.get(judge, OF_TARGET)
        said = judgements.filter(judge=judge).select(*place, "value", pl.col("reason").alias("why"))
        both = mine.join(said, on=place, maintain_order="left")
        # a no to one question is a no, whatever could not be said of another
        both = both.with_columns(pl.all_horizontal(standard.questions).alias("answer"))
        for (author,), rated in sorted(both.partition_by("author", as_dict=True).items()):
            about = {"judge": judge, "questions": standard.questions, "author": author}
            generator = seed, "text agreement", judge, str(author)
            rows.append(about | _row(rated, standard.above, numpy_generator(*generator)))
    return pl.DataFrame(rows, schema=SCHEMA)


OF_PEOPLE = {
    "question": pl.String,
    "author": pl.String,
    "other": pl.String,
    "n": pl.Int64,
    "n_left_out": pl.Int64,
    "n_targets": pl.Int64,
    "agree": pl.Float64,
    "kappa": pl.Float64,
    "kappa_low": pl.Float64,
    "kappa_high": pl.Float64,
    "reason": pl.String,
}


def between_people(ratings: pl.DataFrame, steer: str, seed: int = 0) -> pl.DataFrame:
    """How far each two people agree on the texts that both have rated: what a judge's agreement
    with a person is to be held against. A row for each question and pair; null where there is no kappa,
    with the reason.

    Args:
        ratings: the table TEXT_RATINGS.
        steer: key of the artifact; ratings of others are left out.
        seed: of the resampling.

    Returns:
        question, author and other (in alphabetical order), n (texts that both answered), n_left_out
            (further texts of both of which one could not say), n_targets, agree (share of equal
            answers), kappa with its 95% interval (from resampling targets), reason.
    """
    mine = ratings.filter(pl.col("steer") == steer)
    rows = []
    for author, other in itertools.combinations(sorted(mine["author"].unique()), 2):
        of_both = mine.filter(author=author).join(
            mine.filter(author=other), on=["generation", "concept"], suffix="_of_other"
        )
        of_both = of_both.sort("generation", "concept")
        for question in QUESTIONS:
            answered = of_both.drop_nulls([question, f"{question}_of_other"])
            one, two = (answered[name].to_numpy() for name in (question, f"{question}_of_other"))
            row = {
                "question": question,
                "author": author,
                "other": other,
                "n": answered.height,
                "n_left_out": of_both.height - answered.height,
                "n_targets": answered["concept"].n_unique(),
                "agree": float((one == two).mean()) if len(one) else None,
            }
            generator = numpy_generator(seed, "people", question, author, other)
            rows.append(row | _of_pair(one, two, answered["concept"].to_numpy(), generator))
    return pl.DataFrame(rows, schema=OF_PEOPLE)


def _of_pair(one: Any, two: Any, concept: Any, generator: Any) -> dict[str, Any]:
    if len(one) < FEWEST_RATINGS:
        return {"reason": f"{len(one)} texts answered by both, wanted at least {FEWEST_RATINGS}"}
    found = clustered_kappa(one.astype(bool), two.astype(bool), concept, generator)
    if found.value is None:
        return {"reason": f"no kappa: both say {_word(one.all())} of every text"}
    lack = f"no interval: {found.n} targets rated, wanted at least {FEWEST_CLUSTERS}"
    return {
        "kappa": found.value,
        "kappa_low": found.low,
        "kappa_high": found.high,
        "reason": lack if found.low is None else None,
    }


def _rank(judge: str) -> tuple[int, ...]:
    """Judges of one question first, in the order of the questions."""
    questions = STANDARDS.get(judge, OF_TARGET).questions
    return len(questions), *(QUESTIONS.index(question) for question in questions)


def _row(rated: pl.DataFrame, above: float, generator: Any) -> dict[str, Any]:
    """What one person and one judge say of the same texts."""
    unasked = pl.col("value").is_null() & pl.col("why").str.starts_with(NOT_ASKED).fill_null(False)
    asked = rated.filter(pl.col("answer").is_not_null(), ~unasked)
    both = asked.filter(pl.col("value").is_not_null())
    answer, value = both["answer"].to_numpy(), both["value"].to_numpy()
    judged, concept = value > above, both["concept"].to_numpy()
    row: dict[str, Any] = {
        "threshold": above,
        "n": both.height,
        "n_failed": asked.height - both.height,
        "n_left_out": rated.height - asked.height,
        "n_targets": both["concept"].n_unique(),
        "yes": both["answer"].mean(),
        "agree": (both["answer"] == pl.Series(judged)).mean(),
    }
    if both.height < FEWEST_RATINGS:
        lack = f"{both.height} texts have an answer and a value, wanted at least {FEWEST_RATINGS}"
        return row | {"reason": lack}
    if both["answer"].n_unique() < 2:
        return row | {"reason": f"the person said {_word(answer.all())} of every text"}
    auroc = clustered_auroc(value, answer, concept, generator)
    row |= {"auroc": auroc.value, "auroc_low": auroc.low, "auroc_high": auroc.high}
    reasons = []
    if judged.all() or not judged.any():
        reasons.append(f"no kappa: the judge says {_word(judged.all())} of every text")
    else:
        kappa = clustered_kappa(answer, judged, concept, generator)
        row |= {"kappa": kappa.value, "kappa_low": kappa.low, "kappa_high": kappa.high}
    if auroc.low is None:
        lack = f"no interval: {auroc.n} targets rated, wanted at least {FEWEST_CLUSTERS}"
        reasons.append(lack)
    return row | {"reason": "; ".join(reasons) or None}


def _word(answer: np.bool_) -> str:
    return "yes" if answer else "no"
