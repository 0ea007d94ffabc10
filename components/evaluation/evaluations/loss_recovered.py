"""What the model loses when it must work with the reconstruction: cross-entropy with it spliced in
at its hook point.

    loss recovered = sum (CE_ablated - CE_spliced) / sum (CE_ablated - CE_clean)

in nats, sums over all counted tokens, divided once (dictionary_learning averages ratios of
batches); ablated means zero, or the mean activation of the select split. Zero flatters, and mean
ablation can lie above ln V: so the rise of the cross-entropy, CE_spliced - CE_clean in nats a
token, stands beside.

Only positions that hold a token of a document are replaced, in the splice and in both ablations
alike; special tokens and padding are left as they are, because dictionaries are not trained there.
Counted are the predictions made at such a position of the document's next token. A dictionary of
several hook points is spliced at one after another. Intervals resample contexts: what is spliced
earlier in a context acts on what comes later. The baseline is the untrained dictionary of equal
size, spliced the same way. Source: SAEBench, section on the loss recovered metric (Karvonen et al.
2025, arXiv:2503.09532); the deviations are those just named.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import numpy as np
import torch
from pydantic import PositiveInt
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from components.config import Config, execution
from components.dictionary.contract import Dictionary
from components.evaluation.contract import (
    ABSENT,
    MEAN_FROM,
    NOT_REBUILT,
    TEST,
    Evaluation,
    Measuring,
    Score,
    Subject,
    evaluations,
)
from components.model.intervention import Edit, replace
from components.model.language_model import LanguageModel
from components.report.measure import Measure
from components.seeds import numpy_generator
from components.statistics import Interval, cluster_bootstrap
from components.store.stage import Progress

ABLATIONS = ("zero_ablation", "mean_ablation")
MEASURES = (
    Measure(
        "loss_recovered.mean_ablation", "Loss recovered, mean ablation", "share",
        "How much of the loss that ablating the hook point costs the reconstruction gives back; "
        "ratio of sums.",
        rank=1, kinds=1, short="loss recovered",
    ),
    Measure(
        "loss_recovered.zero_ablation", "Loss recovered, zero ablation", "share",
        "The same where the ablated activation is zero, not the mean.", rank=30, kinds=30,
    ),
    Measure(
        "cross_entropy_rise", "Rise of cross-entropy", "nats a token",
        "What the model loses when it reads the reconstruction instead of its own activations.", "lower",
        rank=2, kinds=2, short="cross entropy rise",
    ),
    Measure(
        "cross_entropy.clean", "Cross-entropy, clean", "nats a token", "Loss of the model on test text.", "neither",
        rank=40, least=0,
    ),
)  # fmt: skip


class LossRecoveredConfig(Config):
    """Cross-entropy of the model with the reconstruction in its place."""

    tokens: PositiveInt = 40_000
    """Test tokens to splice, in whole contexts drawn at random; all when the split has fewer."""
    batch_tokens: PositiveInt = execution(4096)
    """Tokens in one forward pass; lower it when logits do not fit into memory."""


@evaluations
class LossRecovered(Evaluation):
    """Loss recovered against both ablations, and the rise of cross-entropy."""

    config = LossRecoveredConfig
    measures = MEASURES
    reads_shards = False

    def measure(self, subject: Subject) -> Measuring:
        """For each hook point the pass goes on from it five times: clean, ablated twice, spliced,
        the untrained spliced."""
        hook_points = subject.dictionary.writes
        contexts = _contexts(subject, self.settings.tokens, self.services.seed)
        model = self.services.model and self.services.model.load(self.services.execution)
        reason = (
            "no model came with these activations"
            if model is None
            else _obstacle(subject, model, contexts)
        )
        if reason or model is None:
            return [score for hook_point in hook_points for score in _absent(hook_point, reason)]
        scores = []
        for hook_point in hook_points:
            sums, counted = yield from self._sums(subject, model, contexts, hook_point)
            scores += _scores(self.services.seed, hook_point, sums, counted)
        return scores

    def _sums(
        self,
        subject: Subject,
        model: LanguageModel,
        contexts: Mapping[str, Tensor],
        hook_point: str,
    ) -> Generator[Progress, None, tuple[dict[str, np.ndarray], np.ndarray]]:
        """Cross-entropy summed over the counted tokens of each context, by what was done; and how
        many were counted."""
        document = contexts["document"]
        inside = document >= 0
        counts = inside[:, :-1] & (document[:, 1:] == document[:, :-1])
        mean = subject.mean(MEAN_FROM, hook_point).to(model.device, model.dtype)
        at_once = max(1, self.settings.batch_tokens // document.shape[1])
        sums: dict[str, list[Tensor]] = {}
        for start in range(0, len(document), at_once):
            rows = slice(start, start + at_once)
            tokens, kept = contexts["token"][rows].long(), inside[rows]
            x, logits = _split_pass(model, tokens, hook_point, subject.dictionary.reads)
            for how, edit in _edits(subject, hook_point, mean, x, kept):
                predicted, targets = (
                    logits(edit)[:, :-1].transpose(1, 2),
                    tokens[:, 1:].to(model.device),
                )
                losses = cross_entropy(predicted, targets, reduction="none") * counts[rows].to(
                    model.device
                )
                sums.setdefault(how, []).append(losses.double().sum(1).cpu())
            yield Progress(
                min(rows.stop, len(document)), len(document), "contexts", "loss recovered"
            )
        return {how: torch.cat(parts).numpy() for how, parts in sums.items()}, counts.sum(1).numpy()


def _split_pass(
    model: LanguageModel, tokens: Tensor, hook_point: str, reads: Sequence[str]
) -> tuple[dict[str, Tensor], Callable[[tuple[Edit, ...]], Tensor]]:
    """What the dictionary reads, and the rest of the pass: logits under edits at the hook point.

    All passes are the same up to the block that holds the hook point, so that part is made once.
    """
    point = model.hook_point(hook_point)
    if point.layer is None:  # a module named by its path: nobody knows what comes before it
        return model.read(tokens, reads), lambda edits: model.logits(tokens, edits=edits)
    behind = point.name.startswith("resid_post")
    start = point.name if behind else f"resid_pre.{point.layer}"
    found = model.read(tokens, tuple(dict.fromkeys((*reads, start))))
    layer, residual = point.layer + behind, found[start]
    return {name: found[name] for name in reads}, lambda edits: model.resume(
        tokens, layer, residual, edits=edits
    )


def _edits(
    subject: Subject, hook_point: str, mean: Tensor, x: Mapping[str, Tensor], kept: Tensor
) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    yield "clean", ()
    yield "zero_ablation", (replace(hook_point, torch.zeros_like, kept),)
    yield "mean_ablation", (replace(hook_point, mean.expand_as, kept),)
    yield "spliced", (_splice(subject.dictionary, hook_point, x, kept),)
    if subject.untrained and subject.untrained.dictionary:
        yield "untrained", (_splice(subject.untrained.dictionary, hook_point, x, kept),)


def _splice(dictionary: Dictionary, hook_point: str, x: Mapping[str, Tensor], kept: Tensor) -> Edit:
    """The reconstruction in place of the activation, at the kept positions."""
    inside = kept.to(next(iter(x.values())).device)
    codes = dictionary.encode({name: rows[inside] for name, rows in x.items()})
    rebuilt = dictionary.decode(codes, hook_point)

    def function(activation: Tensor) -> Tensor:
        spliced = activation.clone()
        spliced[inside] = rebuilt.to(activation.device, activation.dtype)
        return spliced

    return replace(hook_point, function, kept)


def _scores(
    seed: int, hook_point: str, sums: Mapping[str, np.ndarray], counted: np.ndarray
) -> list[Score]:
    context = np.arange(len(counted))
    clean, spliced, untrained = sums["clean"], sums["spliced"], sums.get("untrained")
    n_tokens = counted.sum()

    def interval(name: str, over: np.ndarray, under: np.ndarray) -> Interval:
        return cluster_bootstrap(
            over, under, context, numpy_generator(seed, "loss_recovered", name)
        )

    scores = []
    for ablation in ABLATIONS:
        lost = sums[ablation] - clean
        name = f"loss_recovered.{ablation}"
        if lost.sum() <= 0:
            nats = (lost.sum() / n_tokens).item()
            why = f"{ablation.replace('_', ' ')} does not raise the cross-entropy ({nats:+.3g} nats a token)"
            scores.append(Score(name, ABSENT, "context", hook_point=hook_point, reason=why))
            continue
        floor = (
            None if untrained is None else float((sums[ablation] - untrained).sum() / lost.sum())
        )
        found = interval(name, sums[ablation] - spliced, lost)
        scores.append(
            Score(name, found, "context", floor, "untrained dictionary", hook_point=hook_point)
        )
    floor = None if untrained is None else float((untrained - clean).sum() / n_tokens)
    rise = interval("rise", spliced - clean, counted)
    scores.append(
        Score(
            "cross_entropy_rise",
            rise,
            "context",
            floor,
            "untrained dictionary",
            hook_point=hook_point,
        )
    )
    level = interval("clean", clean, counted)
    scores.append(Score("cross_entropy.clean", level, "context", hook_point=hook_point))
    return scores


def _absent(hook_point: str, reason: str) -> list[Score]:
    return [
        Score(each.name, ABSENT, "context", hook_point=hook_point, reason=reason)
        for each in MEASURES
    ]


def _contexts(subject: Subject, tokens: int, seed: int) -> dict[str, Tensor]:
    """Whole test contexts drawn at random until they hold that many tokens, in the order of the
    file."""
    name = f"contexts/{TEST}.safetensors"
    if name not in subject.corpus.files:
        return {name: torch.zeros(0, 1, dtype=torch.int32) for name in ("token", "document")}
    whole = load_file(subject.corpus.path(name))
    held = (whole["document"] >= 0).sum(1).numpy()
    order = numpy_generator(seed, "loss_recovered", "contexts").permutation(len(held))
    before = np.cumsum(held[order]) - held[order]
    chosen = torch.from_numpy(np.sort(order[(before < tokens) & (held[order] > 0)]))
    return {name: whole[name][chosen] for name in ("token", "document")}


def _obstacle(subject: Subject, model: LanguageModel, contexts: Mapping[str, Tensor]) -> str | None:
    """Why nothing can be measured, or None."""
    if not subject.dictionary.rebuilds:
        return NOT_REBUILT
    document = contexts["document"]
    if not ((document[:, :-1] >= 0) & (document[:, 1:] == document[:, :-1])).any():
        return f"the corpus holds no next token of a document in the {TEST} split"
    if any(name.startswith("gradient:") for name in subject.dictionary.reads):
        return "the dictionary reads gradients, which a forward pass does not give"
    if not subject.n_rows(MEAN_FROM):
        return f"the capture holds no {MEAN_FROM} split to take the mean activation from"
    if "causal_loss" not in model.capabilities:
        return "the model predicts no next token (capability causal_loss)"
    return None
