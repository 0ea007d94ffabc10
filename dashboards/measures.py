"""How scores are spoken of: label, unit and sentence for each dotted name, and numbers with the decimals they bear."""

from __future__ import annotations

import dataclasses
import math
import re

from components.store import steered

NOTHING = "–"
"""What stands where there is no value."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a score is spoken of.

    Attributes:
        pattern: regular expression for the dotted name.
        label: what a reader calls it; groups of the pattern may be used.
        unit: of value and interval; "" where the label says it.
        about: one sentence.
    """

    pattern: str
    label: str
    unit: str
    about: str


_UNITS = "Concepts whose best unit, chosen on select, reaches most of what a probe reaches above the base rate on test, scored once."
_STEER = steered.STEERED
_WHO = r"interpret\.([\w.]+?)"
MEASURES = (
    Measure(r"evaluate\.fvu", "Variance unexplained (FVU)", "share", "Squared error over variance, held-out text."),
    Measure(
        r"evaluate\.loss_recovered\.(\w+?)(_ablation)?",
        r"Loss recovered, \1 ablation",
        "share",
        "How much of the loss that ablating the hook point costs the reconstruction gives back; ratio of sums.",
    ),
    Measure(
        r"evaluate\.cross_entropy_rise",
        "Rise of cross-entropy",
        "nats a token",
        "What the model loses when it reads the reconstruction instead of its own activations.",
    ),
    Measure(r"evaluate\.cross_entropy\.(\w+)", r"Cross-entropy, \1", "nats a token", "Loss of the model on test text."),
    Measure(r"evaluate\.l0", "Active latents (L0)", "latents a token", "Mean number of active latents on a token."),
    Measure(r"evaluate\.dead_share", "Dead latents", "share", "Latents that no token activated."),
    Measure(r"evaluate\.concepts_gated", "Concepts a probe decodes", "share", "The gate of every score by concept."),
    Measure(r"evaluate\.concepts_found\.(\w+)", r"Concepts found: \1", "share", _UNITS),
    Measure(
        r"evaluate\.concepts_decodable", "Concepts decoded well enough to compare", "share", "By a probe, on validate."
    ),
    Measure(
        r"evaluate\.concepts_found_normalised\.(\w+)",
        r"Concepts, between untrained and probe: \1",
        "share",
        "0 is the untrained dictionary, 1 the probe of all coordinates.",
    ),
    Measure(
        r"evaluate\.concepts_found_absolute\.(\w+)",
        r"Concepts found, fixed precision: \1",
        "share",
        "An average precision of 0.8 by the probe and by the unit.",
    ),
    Measure(r"evaluate\.concepts_share\.(\w+)", r"Share of the probe's precision: \1", "share", "Above the base rate."),
    Measure(r"evaluate\.concepts_ap\.(\w+)", r"Mean AP over concepts: \1", "AP", "Natural density, gated concepts."),
    Measure(r"evaluate\.concepts_auroc\.(\w+)", r"Mean AUROC over concepts: \1", "AUROC", "Gated concepts."),
    Measure(_WHO + r"\.(\w+)\.over_floor", r"Over the floor, \2: \1", "difference", "Score minus that of the floor."),
    Measure(
        _WHO + r"\.(\w+)\.over_(\w+)",
        r"Over the \3 dictionary, \2: \1",
        "difference",
        "Score minus that of a dictionary that learnt nothing, its latents explained alike; other latents, so unpaired.",
    ),
    Measure(
        _WHO + r"\.(\w+)\.(strongest|weakest)",
        r"Explained, \2, \3 tenths: \1",
        "the scorer's",
        "The score where only the active windows of three tenths by activation stand against all silent ones.",
    ),
    Measure(
        _WHO + r"\.(\w+)\.(random|same_token)",
        r"Explained, \2, against \3 windows: \1",
        "the scorer's",
        "The score where only one kind of silent windows stands against the active ones: drawn at random, or holding the "
        "word that the latent fires on most.",
    ),
    Measure(
        _WHO + r"\.(\w+)\.macro",
        r"Explained, \2, macro mean: \1",
        "the scorer's",
        "Mean of the scores against each kind of silent windows, so that each counts alike in every latent.",
    ),
    Measure(
        _WHO + r"\.(\w+)\.average_precision",
        r"Explained, \2, average precision: \1",
        "AP",
        "Over windows, each counted as often as the split has such; chance is the share of windows that are active.",
    ),
    Measure(
        _WHO + r"\.(\w+)\.natural_density",
        r"Explained, \2, natural density: \1",
        "the scorer's",
        "The score with each window counted as often as the split has such.",
    ),
    Measure(
        _WHO + r"\.detection",
        r"Explained, detection: \1",
        "AUROC",
        "Chance that an active window is given more than a silent one by a predictor that sees only the explanation.",
    ),
    Measure(
        _WHO + r"\.simulation",
        r"Explained, simulation: \1",
        "Pearson r",
        "Expected against true activation, token by token, by a predictor that sees only the explanation.",
    ),
    Measure(
        r"interpret\.(\w+)_share", r"Latents \1 in interpretation", "share", "Latents that could not be explained."
    ),
    Measure(_WHO + r"\.(\w+)", r"Explained, \2: \1", "", "What a predictor foretells that sees only the explanation."),
    Measure(
        r"steer\.gate\.passed", "Concepts that can be judged", "share", "A probe decodes and the judge judges them."
    ),
    Measure(
        steered.COMPOSITE,
        r"Steered, KL \2: \1",
        "0 to 1",
        "Composite: harmonic mean of fluency and of the share gained of the concept probability that was left to gain.",
    ),
    Measure(
        _STEER,
        r"Uplift, KL \2: \1",
        "rise of probability",
        "Judged concept probability over unsteered text's; largest where text breaks, so read it beside fluency.",
    ),
    Measure(
        _STEER + r"\.over_untrained",
        r"Over the untrained dictionary, KL \2: \1",
        "difference",
        "Composite minus that of the untrained dictionary, which goes through the same choice, concept for concept.",
    ),
    Measure(
        _STEER + r"\.share_above_random", r"Above every random, KL \2: \1", "share", "Concepts that beat all controls."
    ),
    Measure(_STEER + r"\.fluency", r"Fluency, KL \2: \1", "0 to 1", "1 inside the band of unsteered loss, both sides."),
    Measure(
        _STEER + r"\.cost",
        r"Cost on other text, KL \2: \1",
        "nats a token",
        "KL of steered from plain predictions on neutral text that set no strength; the budget stands beside it.",
    ),
    Measure(
        _STEER + r"\.cost_whole",
        r"Cost over whole contexts, KL \2: \1",
        "nats a token",
        "The same over whole contexts: strengths are set at their beginning, where an edit costs less.",
    ),
    Measure(
        _STEER + r"\.cost_written",
        r"Cost on steered text, KL \2: \1",
        "nats a token",
        "KL(plain, steered) of the predictions on the text that was written under steering.",
    ),
    Measure(
        _STEER + r"\.cost_written_reverse",
        r"Reverse cost on steered text, KL \2: \1",
        "nats a token",
        "KL(steered, plain) on the text that was written under steering: what the steering costs where it acts.",
    ),
    Measure(steered.OF_A_CONCEPT, r"Steered to \3, KL \2: \1", "0 to 1", "One concept, over test prompts."),
    Measure(_STEER + r"\.(.+)", r"Uplift of \3, KL \2: \1", "rise of probability", "One concept, in an older report."),
)
"""The first that matches the whole name holds."""
HEADLINES = (
    r"evaluate\.fvu",
    r"evaluate\.loss_recovered\.mean(_ablation)?",
    r"evaluate\.cross_entropy_rise",
    r"evaluate\.l0",
    r"evaluate\.concepts_found\.latent",
    r"evaluate\.concepts_found\.neuron",
    r"interpret\.(?!shuffled|probe|untrained)\w+\.detection",
    r"interpret\.\w+\.detection\.over_untrained",
    steered.COMPOSITE.replace(r"(\w+)", "add_direction", 1),
)
"""Regular expressions of the scores that say how an experiment came out."""


def measure(name: str) -> Measure:
    """What is known of a score by its dotted name; a score nobody described keeps its name."""
    for known in MEASURES:
        if match := re.fullmatch(known.pattern, name):
            return dataclasses.replace(known, label=match.expand(known.label).replace("_", " "))
    return Measure(re.escape(name), name, "", "")


def number(value: float | None, decimals: int | None = None) -> str:
    """A number to read: three significant digits unless decimals are given, a true minus sign, a dash when absent."""
    if value is None or math.isnan(value):
        return NOTHING
    if decimals is not None:
        text = f"{value:,.{decimals}f}"
    elif value == 0 or 1e-3 <= abs(value) < 1000:
        text = f"{value:.3g}"
    elif abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.1e}"
    return (text.lstrip("-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def estimate(value: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    """A value and its interval with as many decimals as the interval's width bears."""
    if value is None or low is None or high is None or not high > low:
        return number(value), NOTHING if low is None or high is None else f"{number(low)} to {number(high)}"
    decimals = min(6, max(0, 1 - math.floor(math.log10(high - low))))
    return number(value, decimals), f"{number(low, decimals)} to {number(high, decimals)}"
