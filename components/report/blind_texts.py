"""Which texts of `steer` a person rates, and in which order.

Texts after test prompts are of three kinds: written under a method, under a control (directions that
belong to no target, a method that knows wrongly, the untrained dictionary), and plain. Of every four
texts two are of methods, one of a control and one plain, in an order that is drawn, so that none is
rare however far a person comes. Within a kind the methods take turns (all budgets and candidates of a
method are one). A method's text is rated for the target that came least often with that method, then
least often at all, ties by lot; plain text and text of a control that belongs to no target are rated
for any target that passed the gate. Of the texts left that is the one that was shown least often,
ties by lot; texts about which a judge was not asked (`not asked`) come after the others. The list ends
before a kind has no text left, or at MOST.

Everybody rates the same list in the same order, so that two people can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from components.errors import InputError, MissingArtifactError
from components.seeds import numpy_generator
from components.store.artifact import Artifact
from components.store.judgements import AGAIN, NOT_ASKED, UNSTEERED
from components.store.lineage import source
from components.store.tables import GENERATIONS, JUDGEMENTS, PROMPTS, TARGETS

STEERED, CONTROL, PLAIN = "steered", "control", "plain"
SHARES = {STEERED: 2, CONTROL: 1, PLAIN: 1}
"""Texts of each kind among as many as these are together."""
MOST = 400
"""Texts of the list: about as many as a person may rate in a day."""
SCHEMA = {
    "generation": pl.Int32,
    "concept": pl.String,
    "words": pl.String,
    "prompt": pl.String,
    "text": pl.String,
}
Pair = tuple[int, str]
"""Number of a text, and the target that it is rated for."""


def blind_texts(steer: Artifact, seed: int = 0) -> pl.DataFrame:
    """The texts to be rated, in order, and nothing that says what wrote them.

    Args:
        steer: the artifact.
        seed: of the draw, with the artifact's key.

    Returns:
        generation, concept (the target that the text is rated for), words (that target as a reader
            meets it), prompt (the text that it goes on from), text.

    Raises:
        InputError: nothing is there to be rated; says why.
        MissingArtifactError: the artifact with the prompts is gone.
    """
    wanted = (GENERATIONS, JUDGEMENTS, TARGETS)
    if lacking := [table.name for table in wanted if table.file not in steer.files]:
        raise InputError(
            f"an earlier version made {steer.stage}/{steer.key}, without the table {lacking[0]}; "
            "`latentflow steer` makes one whose texts can be rated"
        )
    words = _words(TARGETS.read(steer))
    test = GENERATIONS.scan(steer).filter(
        pl.col("split") == "test", pl.col("text").str.strip_chars() != ""
    )
    texts = test.select("generation", "concept", "method", "prompt", "text").collect()
    texts = texts.filter(pl.col("concept").is_null() | pl.col("concept").is_in(list(words)))
    if texts.is_empty():
        raise InputError(
            "nothing was written after test prompts in this run, so there is nothing to rate; its "
            "targets and scores say why"
        )
    corpus = source(steer, "corpus")
    if corpus is None:
        raise MissingArtifactError(
            "the read artifact of this run, which holds the prompts, is not in this store; "
            "`latentflow read` makes it again, or `dvc pull` if it was published"
        )
    prompts = dict(PROMPTS.read(corpus).select("prompt", "text").iter_rows())
    unasked = JUDGEMENTS.scan(steer).filter(
        pl.col("value").is_null(), pl.col("reason").str.starts_with(NOT_ASKED)
    )
    late = set(unasked.select("generation", "concept").unique().collect().iter_rows())
    rows = {row["generation"]: row for row in texts.iter_rows(named=True)}
    order = ordered(
        texts, list(words), steer.facts, late, numpy_generator(seed, "blind texts", steer.key)
    )
    return pl.DataFrame(
        [
            {
                "generation": generation,
                "concept": concept,
                "words": words[concept],
                "prompt": prompts.get(rows[generation]["prompt"], ""),
                "text": rows[generation]["text"],
            }
            for generation, concept in order
        ],
        schema=SCHEMA,
    )


def kind(method: str, concept: str | None, facts: Mapping[str, Any]) -> str:
    """What a text is to the draw.

    Args:
        method: as in the table GENERATIONS.
        concept: that it was steered towards; None for plain text and for a control of no target.
        facts: of the artifact: `untrained` (method -> name) and `spoilt` (name -> method, control).
    """
    if method in (UNSTEERED, AGAIN):
        return PLAIN
    controls = {*facts.get("untrained", {}).values(), *facts.get("spoilt", {})}
    return CONTROL if concept is None or method in controls else STEERED


def ordered(
    texts: pl.DataFrame,
    concepts: Sequence[str],
    facts: Mapping[str, Any],
    late: Collection[Pair],
    generator: np.random.Generator,
) -> list[Pair]:
    """The pairs of a text and a target to be rated, in order.

    Args:
        texts: columns generation, concept and method of the table GENERATIONS.
        concepts: the targets for which texts without one are rated.
        facts: of the artifact.
        late: pairs that come after the others of their method and target.
        generator: of every lot.
    """
    numbered = _shuffled(sorted(texts.select("generation", "concept", "method").rows()), generator)
    targets = _shuffled(sorted(concepts), generator)
    pools: dict[str, dict[str, _Pool]] = {name: {} for name in SHARES}
    for generation, concept, method in numbered:
        of_kind = pools[kind(method, concept, facts)]
        pool = of_kind.setdefault(method, _Pool(targets, late))
        pool.add(generation, targets if concept is None else [concept])
    block = [name for name, share in SHARES.items() if pools[name] for _ in range(share)]
    turns = {name: _shuffled(sorted(of_kind), generator) for name, of_kind in pools.items()}
    order: list[Pair] = []
    seen: Counter[str] = Counter()
    while len(order) + len(block) <= MOST:
        drawn = []
        for name in _shuffled(block, generator):
            pair = _next(turns[name], pools[name], seen)
            if pair is None:
                return order
            drawn.append(pair)
            seen[pair[1]] += 1
        order += drawn
    return order


class _Pool:
    """Texts of one method that are left, by target.

    Attributes:
        left: target -> numbers of texts, in an order that was drawn.
        seen: how often each target came with this method.
        shown: how often each text did.
    """

    def __init__(self, targets: Sequence[str], late: Collection[Pair]) -> None:
        self.left: dict[str, list[int]] = {target: [] for target in targets}
        self.seen: Counter[str] = Counter()
        self.shown: Counter[int] = Counter()
        self._late = late

    def add(self, generation: int, targets: Sequence[str]) -> None:
        """A text that may be rated for these targets."""
        for target in targets:
            self.left[target].append(generation)

    def take(self, seen: Counter[str]) -> Pair | None:
        """The next pair; None where none is left.

        Args:
            seen: how often each target came with any method.
        """
        targets = [target for target, numbers in self.left.items() if numbers]
        if not targets:
            return None
        target = min(targets, key=lambda name: (self.seen[name], seen[name]))
        numbers = self.left[target]
        number = min(numbers, key=lambda each: ((each, target) in self._late, self.shown[each]))
        numbers.remove(number)
        self.seen[target] += 1
        self.shown[number] += 1
        return number, target


def _next(turns: list[str], pools: Mapping[str, _Pool], seen: Counter[str]) -> Pair | None:
    """The next pair of a kind; its method goes to the end of the turns, and is dropped once it has
    none left."""
    while turns:
        method = turns.pop(0)
        if pair := pools[method].take(seen):
            turns.append(method)
            return pair
    return None


def _words(targets: pl.DataFrame) -> dict[str, str]:
    """Target -> its words, of those that passed the gate.

    Raises:
        InputError: no target passed, or none has words.
    """
    passed = list(targets.filter("passed").iter_rows(named=True))
    words = {
        row["concept"]: row["text"] or row["concept"]
        for row in passed
        if row["text"] or row["latent"] is None  # the number of a latent says nothing to a reader
    }
    if not words:
        raise InputError(
            "no target passed the gate, so no text was written"
            if not passed
            else "nobody has put the targets of this run into words, so nobody can say whether they "
            "are in a text; run `latentflow interpret` before `latentflow steer`"
        )
    return words


def _shuffled(items: Sequence[Any], generator: np.random.Generator) -> list[Any]:
    return [items[i] for i in generator.permutation(len(items)).tolist()]
