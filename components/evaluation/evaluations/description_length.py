"""Description length: bits a token that the codes cost when they are sent with no more error than
they have.

    bits(token) = sum over latents  -log2 P(active or not)   +   sum over active ones  -log2 P(bin of the value | latent)

Values are rounded to multiples of one step, the coarsest of halving ones that keeps the squared
error of the reconstruction within 1% on validate; where none does, the score is absent. The
probabilities are those of validate, with half a count added to each outcome; the lengths are of
test. A bin above all of validate's is sent as an escape and then by how much it is above (Elias's
gamma code). So it is the length of a real code (fitted once, sent for new text), not an entropy of
the text it was fitted on. The dictionary itself is not sent: it is shared by all tokens.

The baseline is what a Gaussian of the activations' covariance needs for the same squared error
(reverse water-filling): the bits of a dense, linear description. A dictionary below it knows
something of the activations that their covariance does not say.

Source: Ayonrinde et al. 2024 (arXiv:2410.11179); SAEBench's MDL for the coarsest bins within a
tolerance; Cover & Thomas, Elements of Information Theory (2006), section 10.3.3, for the baseline.
Deviation: one code for both is fitted on other text than it is measured on.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt

from components.config import Config
from components.evaluation.contract import (
    ABSENT,
    NOT_REBUILT,
    TEST,
    Evaluation,
    Measuring,
    Score,
    Subject,
    evaluations,
)
from components.report.measure import Measure
from components.seeds import numpy_generator
from components.statistics import cluster_bootstrap
from components.store.shards import Codes
from components.store.stage import Progress

VALIDATE = "validate"
HALVINGS = 12
ROWS = 8192


class DescriptionLengthConfig(Config):
    """Bits a token of the codes."""

    tolerance: PositiveFloat = 0.01
    """Share by which rounding the values may raise the squared error."""
    tokens: PositiveInt = 100_000
    """Tokens of validate and of test that are read; all when there are fewer."""


@evaluations
class DescriptionLength(Evaluation):
    """Bits a token, and the step that values are rounded to."""

    config = DescriptionLengthConfig
    measures = (
        Measure(
            "description_length", "Description length", "bits a token",
            "What the codes cost when they are sent with no more error than they have.", "lower",
            rank=16, least=0, short="description length",
        ),
    )  # fmt: skip
    version = 2
    reads_text = False

    def measure(self, subject: Subject) -> Measuring:
        """Validate sets the step and the code, test is measured."""
        if not subject.dictionary.rebuilds:
            return [Score("description_length", ABSENT, "document", reason=NOT_REBUILT)]
        if missing := [split for split in (VALIDATE, TEST) if not subject.n_rows(split)]:
            reason = f"the capture has no {missing[0]} split"
            return [Score("description_length", ABSENT, "document", reason=reason)]
        n = {split: min(self.settings.tokens, subject.n_rows(split)) for split in (VALIDATE, TEST)}
        known, sent = (subject.codes.codes(split).rows(0, n[split]) for split in (VALIDATE, TEST))
        if not known.nnz:
            reason = f"no latent is active on {VALIDATE}"
            return [Score("description_length", ABSENT, "document", reason=reason)]
        exact = _squared_error(subject, known, VALIDATE)
        step = 2 * float(known.values.abs().max())
        for halving in range(HALVINGS + 1):
            step /= 2
            rounded = dataclasses.replace(known, values=(known.values / step).round() * step)
            yield Progress(halving + 1, HALVINGS + 1, "steps", "description length")
            if _squared_error(subject, rounded, VALIDATE) <= (1 + self.settings.tolerance) * exact:
                break
        else:
            reason = (
                f"values in {2**HALVINGS} steps still raise the squared error on {VALIDATE} by "
                f"more than {self.settings.tolerance:g} of itself"
            )
            return [Score("description_length", ABSENT, "document", reason=reason)]
        bits = lengths(known, sent, step)
        document = subject.activations.provenance(TEST)["document"][: n[TEST]].numpy()
        draw = numpy_generator(self.services.seed, "description_length")
        floor = self._gaussian(subject, n[VALIDATE], _squared_error(subject, sent, TEST) / n[TEST])
        found = cluster_bootstrap(bits, None, document, draw)
        return [Score("description_length", found, "document", floor, "Gaussian of equal error")]

    def _gaussian(self, subject: Subject, n: int, error: float) -> float | None:
        name = subject.dictionary.reconstructs[0]
        if name.startswith("gradient:"):
            return None
        x = subject.activations.rows(VALIDATE, name, torch.arange(n)).double().numpy()
        return gaussian_bits(np.linalg.eigvalsh(np.atleast_2d(np.cov(x, rowvar=False))), error)


def lengths(known: Codes, sent: Codes, step: float) -> np.ndarray:
    """Bits of each row of `sent`, by the code that `known` sets; values in multiples of `step`."""
    d_sae = known.d_sae
    (at, inside), (sent_at, sent_inside) = (
        (codes.indices.long().numpy(), (codes.values / step).round().long().clamp_min(0).numpy())
        for codes in (known, sent)
    )
    escape = int(inside.max(initial=0)) + 1
    n_bins = escape + 1
    active = np.bincount(at, minlength=d_sae)
    share = (active + 0.5) / (known.n_rows + 1)
    # few of all bins of all latents are used
    pairs, counts = np.unique(at * n_bins + inside, return_counts=True)
    wanted = sent_at * n_bins + np.minimum(sent_inside, escape)
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    seen = np.where(pairs[place] == wanted, counts[place], 0)
    value = -np.log2((seen + 0.5) / (active[sent_at] + 0.5 * n_bins))
    beyond = sent_inside >= escape
    value[beyond] += 2 * np.floor(np.log2(sent_inside[beyond] - escape + 1)) + 1
    entry = value + np.log2(1 - share[sent_at]) - np.log2(share[sent_at])
    return (
        np.bincount(sent.row_index().numpy(), entry, minlength=sent.n_rows)
        - np.log2(1 - share).sum()
    )


def gaussian_bits(variances: np.ndarray, error: float) -> float:
    """Bits for a Gaussian of these variances at a mean squared error: sum of 1/2 log2(variance /
    level) above the level."""
    variances = np.sort(np.maximum(variances, 0))
    if error >= variances.sum():
        return 0.0
    level = 0.0
    # those below the level are not sent, and cost their variance
    for number, variance in enumerate(variances):
        level = (error - variances[:number].sum()) / (len(variances) - number)
        if level <= variance:
            break
    above = variances[variances > level]
    return float(0.5 * np.log2(above / level).sum()) if level > 0 else float("inf")


def _squared_error(subject: Subject, codes: Codes, split: str) -> float:
    """Summed over the rows that the codes are of, the first of the split."""
    dictionary, total = subject.dictionary, 0.0
    name = dictionary.reconstructs[0]
    for start in range(0, codes.n_rows, ROWS):
        stop = min(start + ROWS, codes.n_rows)
        x = subject.activations.rows(split, name, torch.arange(start, stop)).double()
        rebuilt = (
            dictionary.decode(codes.rows(start, stop).to(dictionary.like.device), name)
            .cpu()
            .double()
        )
        total += (x - rebuilt).square().sum().item()
    return total
