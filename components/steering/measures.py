"""What steering measures, as its manifest declares it: what every experiment has, and the measure
of each judge."""

from __future__ import annotations

from collections.abc import Sequence

from components.report.measure import Measure, Measures
from components.steering.contract import judges
from components.store.judgements import PANEL

MEASURES = (
    Measure(
        "gate.passed", "Concepts that can be judged", "share", "A probe decodes and the judge judges them.", "neither",
        rank=0, kinds=30, least=0, most=1,
    ),
    Measure(
        "composite", "Steered", "0 to 1",
        "Composite: harmonic mean of fluency and of the share gained of the concept probability "
        "that was left to gain.",
        rank=1, kinds=1, least=0, most=1, short="steering",
    ),
    Measure(
        "over_controls", "Over the controls", "difference",
        "Composite minus the mean of controls that went through the same choice, concept for "
        "concept.",
        rank=2, kinds=2, least=-1, most=1, part_of="composite",
    ),
    Measure(
        "over_untrained", "Over the untrained dictionary", "difference",
        "Composite minus that of the untrained dictionary, which goes through the same choice, "
        "concept for concept.",
        rank=3, kinds=3, least=-1, most=1, part_of="composite",
    ),
    Measure(
        "battery", "Gaming battery", "difference",
        "Composite of real text minus that of the trick that comes nearest to it; judges can be "
        "trusted where the whole interval is above 0.",
        rank=4, kinds=4, least=-1, most=1,
    ),
    Measure(
        "uplift", "Uplift", "rise of probability",
        "Judged concept probability over unsteered text's; largest where text breaks, so read it "
        "beside fluency.",
        rank=10, kinds=20, least=-1, most=1,
    ),
    Measure(
        "specificity", "Specificity", "difference",
        "Uplift of the concept steered towards minus the mean uplift of the other concepts on the "
        "same texts.",
        rank=11, kinds=21, least=-2, most=2,
    ),
    Measure(
        "win_rate", "Rated above prompting", "share",
        "Prompts after which a language model rates the method's text above that of the method "
        "prompt (judge ratings); a tie counts one half.",
        rank=12, kinds=22, least=0, most=1,
    ),
    Measure(
        "share_above_random", "Above every random", "share",
        "Concepts on which the composite of two exceeds that of every control.",
        rank=20, kinds=30, least=0, most=1,
    ),
    Measure(
        "cost", "Side effect on neutral text", "nats a token",
        "KL(plain, steered) of predictions on neutral text; the budget stands beside it.",
        "neither", rank=21, kinds=31, least=0,
    ),
    Measure(
        "cost_whole", "Side effect over whole contexts", "nats a token",
        "The same over whole contexts: at their beginning an edit costs less.",
        "neither", rank=22, kinds=32, least=0,
    ),
    Measure(
        "loss_whole", "Rise of loss over whole contexts", "nats a token",
        "How much the model's loss on neutral text rises under the steering, over whole contexts.",
        "neither", rank=22, kinds=32,
    ),
    Measure(
        "cost_written", "Cost on steered text", "nats a token",
        "KL(plain, steered) of the predictions on the text that was written under steering.",
        "neither", rank=23, kinds=33, least=0,
    ),
    Measure(
        "cost_written_reverse", "Reverse cost on steered text", "nats a token",
        "KL(steered, plain) on the text that was written after test prompts: what the budget is "
        "of, where it was not set.",
        "neither", rank=24, kinds=34, least=0,
    ),
)  # fmt: skip
PANEL_MEASURE = Measure(
    PANEL, "Steered, of three", "0 to 1",
    "Composite of three: harmonic mean of the target's gain, of relevance to the prompt and of fluency.",
    rank=3, kinds=3, least=0, most=1,
)  # fmt: skip
"""The composite of three; an experiment whose judges include relevance has it."""
NO_NEUTRAL = "no neutral text is left to measure it on; raise read.splits.neutral"
COSTS = {
    "cost": ("kl_elsewhere", "neutral", NO_NEUTRAL),
    "cost_whole": ("kl_whole", "neutral", NO_NEUTRAL),
    "loss_whole": ("loss_whole", "neutral", NO_NEUTRAL),
    "cost_written": ("kl_written", "test", "no steered text to measure it on"),
    "cost_written_reverse": ("kl_written_reverse", "test", "no steered text to measure it on"),
}
"""Measure of a cost -> its column of STEERED, the split of its text, and why it may be absent."""


def declared(names: Sequence[str], further: Sequence[Measure] = ()) -> Measures:
    """All measures of an experiment in which these judges stand beside the one that measures, and
    further ones."""
    of_judges = {
        measure.name: measure
        for _, judge in judges.items()
        for measure in (judge.measure, *judge.parts)
    } | {PANEL: PANEL_MEASURE}
    return Measures.declared("steer", (*MEASURES, *(of_judges[name] for name in names), *further))
