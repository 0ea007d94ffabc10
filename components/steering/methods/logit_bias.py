"""Raises the logits of a concept's words by a constant: keyword stuffing without touching an
activation.

The baseline that every edit must beat: it brings the words, and knows nothing of the text. A word
may be several tokens: its first token is raised everywhere, each further one where the tokens so
far are the beginning of the word (a trie over the tokens so far). The strength is what is added, in
nats. Each way to find words gives one list, and the validate prompts choose among them:

    log_odds      words commoner among the concept's tokens than among all others of the select split
                  (for document concepts, among tokens of documents that have it), by the log-odds
                  ratio over its standard error
    logit_lens    tokens that the direction writes through the final norm and the unembedding: of a
                  latent that is the target its decoder direction, else the difference of means
    token_lookup  words on which the concept is found most often (a latent that is the target: on
                  which it is most active in the mean)

When to use it: always, beside any other method.

Source: the log-odds ratio as in Monroe, Colaresi and Quinn (2008),
https://doi.org/10.1093/pan/mpn018, with half a count in every cell in the place of their prior; the
logit lens (components/model/lens.py); token lookup tables after Bills et al. (2023).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from components.config import Config
from components.model.intervention import Intervention
from components.model.lens import token_sets
from components.steering.contract import (
    Candidate,
    Concept,
    Evidence,
    Steering,
    SteeringMethod,
    methods,
)
from components.steering.moments import Moments
from components.steering.words import Words, vocabulary

FEWEST = 2
"""Occurrences of a word of the table, at least: what stands once is there by luck."""
WRITING = ("resid_pre.", "resid_post.", "attn_out.", "mlp_out.")
"""Hook points whose directions lie in the residual stream."""


@dataclasses.dataclass(frozen=True, eq=False)
class RaiseWords(Steering):
    """Adds the strength, in nats, to the logits of the next tokens of some words.

    Attributes:
        words: the token ids of each, -1 behind its end.
    """

    scale = "nats"
    words: Int[Tensor, "word token"]

    @classmethod
    def of(cls, words: Sequence[Sequence[int]]) -> RaiseWords:
        """Of words as lists of token ids."""
        longest = max(map(len, words))
        return cls(torch.tensor([[*word, *[-1] * (longest - len(word))] for word in words]))

    @classmethod
    def intervention(
        cls, rows: Sequence[RaiseWords], strengths: Float[Tensor, " row"]
    ) -> Intervention:
        """One addition with words and strength of each row."""
        n_words, longest = (max(row.words.shape[i] for row in rows) for i in (0, 1))
        given = torch.full((len(rows), n_words, longest), -1)
        for own, row in zip(given, rows, strict=True):
            own[: row.words.shape[0], : row.words.shape[1]] = row.words
        held: dict[torch.device, tuple[Tensor, Tensor]] = {}

        def function(logits: Tensor, tokens: Tensor) -> Tensor:
            if logits.device not in held:  # moved to the device once, not at every step
                held[logits.device] = given.to(logits.device), strengths.to(logits)
            words, strength = held[logits.device]
            return _raised(logits, tokens, words, strength)

        return Intervention(logits=function)

    def tensors(self) -> Mapping[str, Tensor]:
        """The token ids."""
        return {"": self.words}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], units: Mapping[str, float]) -> RaiseWords:
        """From the token ids; a list of them are words of one token."""
        words = tensors[""]
        return cls(words[:, None] if words.ndim == 1 else words)


def _raised(
    logits: Float[Tensor, "row t V"],
    tokens: Int[Tensor, "row n"],
    words: Int[Tensor, "row word token"],
    strength: Float[Tensor, " row"],
) -> Float[Tensor, "row t V"]:
    """The logits with every token raised once that begins a word or goes on with one that was
    begun."""
    n, t = tokens.shape[1], logits.shape[1]
    # one place more takes what is written for words that do not go on here
    out = torch.cat([logits, logits.new_empty(*logits.shape[:2], 1)], dim=2)
    nowhere = logits.shape[2]
    begun = torch.ones(len(words), words.shape[1], t, dtype=torch.bool, device=logits.device)
    for depth in range(words.shape[2]):
        if depth:
            # the last `depth` tokens before each prediction are the beginning of the word
            begun = torch.ones_like(begun)
            for place in range(depth):
                back = depth - 1 - place
                before = torch.arange(n - t - back, n - back, device=tokens.device)
                seen = torch.where(before >= 0, tokens[:, before.clamp(min=0)], -2)
                begun &= seen[:, None, :] == words[:, :, place, None]
        upcoming = words[:, :, depth, None].expand_as(begun)  # [row, word, t]
        goes_on = begun & (upcoming >= 0)
        if depth and not bool(goes_on.any()):
            continue
        token = upcoming.clamp(min=0).transpose(1, 2)
        value = logits.gather(2, token) + strength[:, None, None]
        out.scatter_(2, torch.where(goes_on.transpose(1, 2), token, nowhere), value)
    return out[:, :, :nowhere]


class LogitBiasConfig(Config):
    """Settings of logit_bias."""

    n_words: PositiveInt = 10
    """Words of each list, at most."""
    sources: list[Literal["log_odds", "logit_lens", "token_lookup"]] = Field(
        default=["log_odds", "logit_lens", "token_lookup"], min_length=1
    )
    """Where words are looked for; each gives a list, and the validate prompts choose among them."""


@methods
class LogitBias(SteeringMethod):
    """Raises the logits of words that go with the concept."""

    config = LogitBiasConfig
    version = 2
    steering = RaiseWords

    @classmethod
    def at_most(cls, config: LogitBiasConfig) -> int:
        """A list of words from each source."""
        return len(config.sources)

    def candidates(self, evidence: Evidence) -> Iterator[Candidate]:
        """The lists of words of each concept; no two alike."""
        words = Words.of(self.services.model, evidence.token, evidence.document)
        lens = "logit_lens" in self.settings.sources and self._can_see(evidence)
        moments = functools.cache(lambda: Moments.of(evidence))
        for column, concept in enumerate(evidence.concepts):
            if reason := evidence.one_sided(column):
                yield Candidate(concept.name, 0, None, reason=reason)
                continue
            inside = evidence.labels[:, [column]].toarray().ravel().astype(bool)
            lists: dict[frozenset[tuple[int, ...]], list[tuple[int, ...]]] = {}
            for source in self.settings.sources:
                if source == "log_odds":
                    found = self._by_log_odds(words, inside)
                elif source == "token_lookup":
                    found = self._by_lookup(evidence, words, concept, inside)
                else:
                    found = self._by_lens(evidence, moments, concept, column) if lens else []
                if found:
                    lists.setdefault(frozenset(found), found)
            for replicate, found in enumerate(lists.values()):
                yield Candidate(concept.name, replicate, RaiseWords.of(found))
            if not lists:
                reason = "no token is commoner where the concept is"
                yield Candidate(concept.name, 0, None, reason=reason)

    def _by_log_odds(self, words: Words, inside: Bool[np.ndarray, " row"]) -> list[tuple[int, ...]]:
        z = log_odds(words.word_of, inside)
        best = np.argsort(-z, kind="stable")[: self.settings.n_words]
        return [words.spelt[word] for word in best[z[best] > 0]]

    def _by_lookup(
        self, evidence: Evidence, words: Words, concept: Concept, inside: Bool[np.ndarray, " row"]
    ) -> list[tuple[int, ...]]:
        n = words.sums(np.ones(len(inside)))
        if concept.latent is not None and evidence.codes is not None:
            codes = evidence.codes[:, [concept.latent]].toarray().ravel().astype(np.float64)
            value, usual = words.sums(codes) / n, codes.mean()
        else:
            value, usual = words.sums(inside.astype(np.float64)) / n, inside.mean()
        value[(n < FEWEST) | ~words.sayable] = -np.inf
        # of words that have it always, the commonest first
        best = np.lexsort((-n, -value))[: self.settings.n_words]
        return [words.spelt[word] for word in best[value[best] > usual]]

    def _by_lens(
        self, evidence: Evidence, moments: Callable[[], Moments], concept: Concept, column: int
    ) -> list[tuple[int, ...]]:
        model, dictionary = self.services.model, evidence.dictionary
        if concept.latent is not None and dictionary is not None:
            direction = dictionary.decoder_directions(evidence.hook_point)[concept.latent].cpu()
        else:
            direction = torch.from_numpy(moments().difference(column))
        size = min(4 * self.settings.n_words, model.vocab_size)
        tokens = token_sets(model, direction.float()[None], size)[0].tolist()
        read = vocabulary(model)
        special = {*model.tokenizer.all_special_ids}
        said = [
            (token,)
            for token in tokens
            if token not in special and token < len(read) and any(c.isalnum() for c in read[token])
        ]
        return said[: self.settings.n_words]

    def _can_see(self, evidence: Evidence) -> bool:
        """Whether a direction at the hook point is one of the residual stream."""
        model = self.services.model
        residual = evidence.hook_point.startswith(WRITING) and evidence.d_in == model.d_model
        return residual and "causal_loss" in model.capabilities


def log_odds(
    token: Int[np.ndarray, " row"], inside: Bool[np.ndarray, " row"]
) -> Float[np.ndarray, " vocab"]:
    """Log-odds ratio over its standard error of each token id, rows inside against all others; 0
    for ids without a row."""
    n = int(token.max()) + 1
    counts = [np.bincount(token[rows], minlength=n) for rows in (inside, ~inside)]
    cells = np.stack([part for count in counts for part in (count, count.sum() - count)]) + 0.5
    z = (np.log(cells) * np.array([[1], [-1], [-1], [1]])).sum(0) / np.sqrt((1 / cells).sum(0))
    return np.where(counts[0] + counts[1] > 0, z, 0.0)
