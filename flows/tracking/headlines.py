"""The few scores by which runs are sorted and compared, under short names that stay."""

from __future__ import annotations

import polars as pl

from components.experiment import ExperimentConfig
from components.store import steered

HEADLINES = {
    "loss_recovered": "evaluate.loss_recovered.mean_ablation",
    "l0": "evaluate.l0",
    "fvu": "evaluate.fvu",
    "cross_entropy_rise": "evaluate.cross_entropy_rise",
    "dead_share": "evaluate.dead_share",
    "concepts_found": "evaluate.concepts_found.latent",
    "concepts_found_neuron": "evaluate.concepts_found.neuron",
    "concepts_found_untrained": "evaluate.concepts_found.untrained",
}
"""What a parent run's metrics are called: short, and the same for ever, so that old and new runs sort together."""
LISTED = ("loss_recovered", "l0", "fvu", "concepts_found")
"""The headlines that a terminal has room for."""


def headlines(report: pl.DataFrame, config: ExperimentConfig) -> dict[str, float]:
    """The few scores by which runs are sorted and compared, under short names that stay: HEADLINES, then
    `explanation_<scorer>` of the first explainer and `steering_<method>` (the composite) at the first KL budget, over all
    concepts, or over the one kind of concepts that there is; concepts found over those of tokens.

    Scores that were not measured are left out.
    """
    told = pl.col("concept_kind").fill_null("all")
    means = report.filter(pl.col("value").is_not_null(), pl.col("unit_of_replication").fill_null("") != "prompt")
    whole = means.filter((told == "all") | (pl.len().over("name") == 1))
    measured = dict(zip(whole["name"], whole["value"], strict=True))
    # Random latents find concepts of documents as well, so concepts found are told over those of tokens.
    of_tokens = means.filter(told == "token", pl.col("name").str.starts_with("evaluate.concepts_found."))
    measured |= dict(zip(of_tokens["name"], of_tokens["value"], strict=True))
    names = dict(HEADLINES)
    for scorer in config.interpret.scorers:
        names[f"explanation_{scorer}"] = f"interpret.{config.interpret.explainers[0]}.{scorer}"
    for method in (*config.steer.methods, "untrained"):
        names[f"steering_{method}"] = steered.composite(method, config.steer.kl_budgets[0])
    return {short: measured[name] for short, name in names.items() if name in measured}
