"""Does the explanation tell what the latent makes the model write? Which of several sets of
continuations is this latent's.

The decoder direction is added to the residual stream at every token, at the strength that costs
`budget` nats a token on text of the explain split, and the model goes on from openings of other
documents. The other sets are written in the same way with other sampled latents, those whose
density lies nearest, at the same cost, from the same openings and with the same random numbers. So
neither the opening, nor luck, nor how broken the text is tells which set is meant. A latent whose
direction points nearly the same way (components/interpretation/relatives.py) lends no set: a right
explanation is right of it too.

A predictor sees the explanation and bare texts, one for each set and opening. A set has the mean of
what its texts were given. The score is the share of the other sets that the latent's own set beats,
ties half (mean rank, from 1 to 0); chance is 0.5. `first` is how often it comes first of all, ties
shared; chance is one over the number of sets. The interval resamples openings.

What it costs, in tokens that the model reads or writes, for n latents: 4 to 10 n `neutral_tokens`
for the strengths, n `continuations` (`prompt_tokens` + `tokens`) for the texts.

Sources: the intervention score of Paulo et al. (2024), arXiv 2410.13928, and the output-based
evaluation of Gur-Arieh et al. (2025), arXiv 2501.08319, where a judge picks one of three sets.
Deviations: controls at equal cost, near in density and no relatives; ten sets; ranks.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt

from components.config import Config, execution
from components.interpretation.contract import LatentRecord, Scorer, scorers
from components.interpretation.openings import neutral, openings
from components.interpretation.relatives import close
from components.interpretation.services import ScorerServices
from components.interpretation.tiling import ContextsConfig
from components.interpretation.trials import Answer, LatentScore, ScorePart, Shown, Trials, Unit
from components.interpretation.windows import Texts
from components.model.divergence import ruler_of_vectors, strengths_for_budgets
from components.model.generation import generate
from components.model.intervention import Intervention, add
from components.report.measure import Measure
from components.seeds import derive
from components.store.stage import Progress

FIRST = "first"
STEERED_AT_ONCE = 32
"""Directions whose strengths are searched together."""


class InterventionConfig(Config):
    """Which of several sets of continuations is this latent's."""

    sets: int = Field(default=10, ge=3, le=50)
    """Sets of continuations to choose among, the latent's own among them."""
    continuations: PositiveInt = 8
    """Continuations of a set, each of another opening."""
    tokens: PositiveInt = 24
    """Tokens of a continuation, at most."""
    prompt_tokens: PositiveInt = 8
    """Tokens of an opening."""
    budget: float = Field(default=0.5, gt=0)
    """KL(plain || steered) on text of the explain split, nats a token."""
    neutral_tokens: PositiveInt = 512
    """Tokens on which that is measured, about."""
    temperature: float = Field(default=1.0, ge=0)
    """Of sampling."""
    resamples: PositiveInt = 200
    """Resamples of openings behind each latent's interval."""
    batch: PositiveInt = execution(128)
    """Continuations that are written at a time."""


@scorers
class InterventionScorer(Scorer):
    """Which of several sets of continuations is this latent's."""

    version: ClassVar[int] = 2
    config: ClassVar[type[Config]] = InterventionConfig
    settings: InterventionConfig
    needs: ClassVar[Unit] = "choice"
    chance: ClassVar[float] = 0.5
    measure: ClassVar[Measure] = Measure(
        "intervention", "Explained, intervention", "mean rank",
        "Share of other latents' sets of continuations that the latent's own is put before by a "
        "predictor that sees only the explanation.",
        rank=3, kinds=3, least=0, most=1, short="explanation intervention",
    )  # fmt: skip
    strata: ClassVar[tuple[str, ...]] = (FIRST,)

    def __init__(self, config: InterventionConfig, services: ScorerServices) -> None:
        super().__init__(config, services)
        self._written: dict[int, Int[np.ndarray, "opening token"]] = {}
        self._density: dict[int, float] = {}
        self._alike: dict[int, set[int]] = {}

    @classmethod
    def most_shown(cls, settings: Any, contexts: ContextsConfig) -> Shown:
        """One text of each set behind each opening."""
        return Shown(settings.sets * settings.continuations, settings.continuations)

    def obstacle(self) -> str | None:
        """No model, one that cannot generate, a direction that cannot be added, too little text."""
        if reason := self.services.obstacle("generation"):
            return reason
        settings, explain = self.settings, self.services.explain
        assert explain is not None
        model, n = self.services.language_model, settings.continuations
        tokens = openings(model, explain, n, settings.prompt_tokens)
        text, _ = neutral(model, explain, settings.neutral_tokens, n, settings.prompt_tokens)
        if len(tokens) == n and len(text):
            return None
        return (
            f"the explain split has {len(tokens)} openings of {settings.prompt_tokens} tokens and "
            f"{len(text)} other documents, wanted {n} and some more; read more text into it"
        )

    def prepare(self, records: Sequence[LatentRecord]) -> Generator[Progress, None, None]:
        """Writes every latent's set of continuations."""
        self._density = {record.latent: record.density for record in records}
        latents = torch.tensor([record.latent for record in records], dtype=torch.long)
        dictionary, settings = self.services.dictionary, self.settings
        assert dictionary is not None
        hook_point = dictionary.writes[0]
        unit = torch.nn.functional.normalize(
            dictionary.decoder_directions(hook_point).float().cpu()[latents], dim=1
        )
        for one, other in close(unit.numpy()).select("latent", "neighbour").iter_rows():
            for latent, relative in ((one, other), (other, one)):
                self._alike.setdefault(int(latents[latent]), set()).add(int(latents[relative]))
        strengths = []
        for number, part in enumerate(unit.split(STEERED_AT_ONCE)):
            strengths.append(self._strengths(hook_point, part))
            done = min(len(unit), (number + 1) * STEERED_AT_ONCE)
            yield Progress(done, len(unit), "latents", "intervention: strengths")
        strength = torch.cat(strengths) if strengths else torch.zeros(0)
        steerable = (~strength.isnan()).nonzero()[:, 0]
        at_once = max(1, settings.batch // settings.continuations)
        for number, part in enumerate(steerable.split(at_once)):
            vectors = unit[part] * strength[part, None]
            sets = self._continued(hook_point, vectors)
            self._written.update(zip(latents[part].tolist(), sets, strict=True))
            done = min(len(steerable), (number + 1) * at_once)
            yield Progress(done, len(steerable), "latents", "intervention: continuations")

    def trials(self, record: LatentRecord, generator: np.random.Generator) -> Trials:
        """A group for each opening, of one text from each set; the sets stand in the same random
        order in every group."""
        settings, vocabulary = self.settings, record.test.texts.vocabulary
        others = self._others(record, generator)
        chances, reason = {FIRST: 1 / settings.sets}, None
        if record.latent not in self._written:
            reason = f"no strength that was tried costs {settings.budget:g} nats a token"
        elif len(others) < settings.sets - 1:
            wanted = f"wanted {settings.sets - 1} (interpret.scorer_settings.intervention.sets)"
            reason = f"{len(others)} other latents wrote a set, {wanted}"
        if reason:
            texts, group = Texts(np.zeros((0, 1), np.int64), vocabulary), np.zeros(0, np.int64)
            nobody = group > 0
            strata = {FIRST: nobody}
            return Trials(texts, nobody, group=group, strata=strata, chances=chances, reason=reason)
        sets = [record.latent, *others]
        order = generator.permutation(len(sets))
        written = np.stack([self._written[sets[number]] for number in order], axis=1)
        group = np.repeat(np.arange(settings.continuations), len(sets))
        truth = np.tile(order == 0, settings.continuations)
        texts = Texts(written.reshape(-1, written.shape[2]), vocabulary)
        strata = {FIRST: np.ones(len(truth), bool)}
        return Trials(texts, truth, group=group, strata=strata, chances=chances)

    def score(
        self, answer: Answer, trials: Trials, generator: np.random.Generator | None
    ) -> LatentScore:
        """Share of the other sets that the right one beats, by the mean over its texts; a text
        without an answer says as much as the mean of all texts of its opening."""
        assert answer.values is not None and trials.group is not None
        n, n_sets = len(trials), int((trials.group == trials.group[0]).sum())
        values = answer.values.reshape(n, n_sets)
        right = int(trials.truth[:n_sets].argmax())
        n_failed = int(np.isnan(values).any(axis=1).sum())
        # one scale for all openings: a long text may be given more by its length alone
        known = np.isfinite(values)
        middle = np.where(known, values, 0).sum(1) / np.maximum(known.sum(1), 1)
        values = np.where(known, values - middle[:, None], 0.0)
        beaten, first = _place(values.mean(axis=0)[None], right)
        low = high = None
        if generator is not None:
            times = generator.multinomial(n, np.full(n, 1 / n), self.settings.resamples)
            resampled, _ = _place(times @ values, right)
            low, high = (float(end) for end in np.quantile(resampled, [0.025, 0.975]))
            low, high = min(low, float(beaten[0])), max(high, float(beaten[0]))
        part = ScorePart(float(first[0]), 1 / n_sets, n)
        reason = answer.reason
        return LatentScore(float(beaten[0]), low, high, n, n_failed, reason, {FIRST: part})

    def _others(self, record: LatentRecord, generator: np.random.Generator) -> list[int]:
        """The latents that wrote a set whose density lies nearest; equal ones in random order."""
        alike = self._alike.get(record.latent, set()) | {record.latent}
        others = [each for each in sorted(self._written) if each not in alike]
        if not others:
            return []
        apart = [abs(np.log(self._density[each] / record.density)) for each in others]
        nearest = np.lexsort((generator.random(len(others)), np.array(apart)))
        return [others[number] for number in nearest[: self.settings.sets - 1]]

    def _strengths(
        self, hook_point: str, unit: Float[torch.Tensor, "latent d"]
    ) -> Float[torch.Tensor, " latent"]:
        """Length of the added vector that costs the budget; NaN where none does."""
        settings, explain = self.settings, self.services.explain
        assert explain is not None
        model = self.services.language_model
        length = (settings.neutral_tokens, settings.continuations, settings.prompt_tokens)
        text, counts = neutral(model, explain, *length)
        # strengths are searched around 1, so that 1 is the mean norm of the activations there
        norm = model.read(text, [hook_point])[hook_point][counts].float().norm(dim=1).mean().cpu()
        measure = ruler_of_vectors(model, {hook_point: unit * norm}, text, counts)
        found, _ = strengths_for_budgets(measure, len(unit), [settings.budget])
        return found[:, 0].float() * norm

    def _continued(
        self, hook_point: str, vectors: Float[torch.Tensor, "latent d"]
    ) -> list[Int[np.ndarray, "opening token"]]:
        """The new tokens of each latent behind each opening, -1 behind the end of a text."""
        settings, explain = self.settings, self.services.explain
        assert explain is not None
        model, n = self.services.language_model, settings.continuations
        rows = openings(model, explain, n, settings.prompt_tokens).tolist()
        seed = self.services.seed
        seeds = [derive(seed, "intervention", opening) for opening in range(n)]
        edit = add(hook_point, vectors.repeat_interleave(n, dim=0))
        written = generate(
            model,
            rows * len(vectors),
            max_new_tokens=settings.tokens,
            temperature=settings.temperature,
            seeds=seeds * len(vectors),
            intervention=Intervention((edit,)),
        )
        tokens = np.full((len(written), settings.tokens), -1, dtype=np.int64)
        for row, new in zip(tokens, written, strict=True):
            row[: len(new)] = new
        return list(tokens.reshape(len(vectors), n, settings.tokens))


def _place(
    values: Float[np.ndarray, "sample set"], right: int
) -> tuple[Float[np.ndarray, " sample"], Float[np.ndarray, " sample"]]:
    """The share of the other sets that the right one beats, ties half; and its share of the first
    place."""
    values = np.round(values, 12)  # sums in another order still tie
    own, others = values[:, [right]], np.delete(values, right, axis=1)
    beaten = ((own > others) + 0.5 * (own == others)).mean(axis=1)
    first = np.all(own >= others, axis=1) / (1 + (own == others).sum(axis=1))
    return beaten, first
