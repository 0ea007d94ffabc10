"""Round trip: where latents with alike strings have alike directions, the right strings build
activations better than shuffled ones; where they have not, no better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from components.interpretation.contract import LatentRecord
from components.interpretation.dictionary_contract import DictionaryScorerServices, DictionaryValue
from components.interpretation.dictionary_scorers.round_trip import RoundTrip, RoundTripConfig
from components.interpretation.explanation import Explanation
from components.store.artifact import Store
from components.store.shards import ActivationShards, Codes, CodeShards, write_codes
from tests import toys
from tests.interpretation.windows_of import CPU, windows_of

GROUPS, EACH, WIDTH, ROWS = 10, 5, 30, 1500
N = GROUPS * EACH
EMPTY = windows_of(["a b"], [[]])
RECORDS = [LatentRecord(latent, 0.1, 0, EMPTY, EMPTY, EMPTY) for latent in range(N)]
BY_GROUP = [Explanation(f'the word "w{latent % GROUPS}"') for latent in range(N)]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> DictionaryScorerServices:
    """Latents of one group (the number modulo the groups) have nearly one direction."""
    store, random = Store(Path(tmp_path_factory.mktemp("trip"))), np.random.default_rng(0)
    centres = random.normal(size=(GROUPS, WIDTH))
    directions = np.tile(centres, (EACH, 1)) + 0.2 * random.normal(size=(N, WIDTH))
    codes, x, provenance = {}, {}, {}
    for number, split in enumerate(("explain", "test")):
        dense = (random.random((ROWS, N)) < 0.06) * random.uniform(1, 2, (ROWS, N))
        codes[split] = Codes.from_dense(torch.from_numpy(dense).float())
        noise = 0.1 * random.normal(size=(ROWS, WIDTH))
        x[split] = {"resid_post.0": torch.from_numpy(dense @ directions + noise).float()}
        document = torch.arange(ROWS) // 30 + 1000 * number
        provenance[split] = {"document": document}

    def write(folder: Path) -> None:
        for split, of in codes.items():
            write_codes(folder, split, 0, of)

    facts = {"name": "planted", "hook_point": "resid_post.0", "d_sae": N}
    return DictionaryScorerServices(
        CPU,
        0,
        activations=ActivationShards(toys.activations(store, x, provenance, rows_per_shard=400)),
        codes=CodeShards(toys.artifact(store, "encode", write, facts)),
    )


def trip(services, explanations, **settings) -> DictionaryValue:
    return RoundTrip(RoundTripConfig(**settings), services).score(RECORDS, explanations)


def test_the_right_strings_build_what_shuffled_ones_do_not(services) -> None:
    found = trip(services, BY_GROUP)
    assert found.value.value is not None and found.value.value > 0.85
    assert found.shuffled is not None and found.shuffled < 0.6
    assert found.over.low is not None and found.over.low > 0.2
    assert found.ceiling.value is not None and found.ceiling.value > 0.98
    assert found.value.low < found.value.value < found.value.high  # type: ignore[operator]
    assert found.value.n == 50 and found.reason is None  # documents


def test_strings_that_say_nothing_of_the_direction_are_at_the_floor(services) -> None:
    order = np.random.default_rng(1).permutation(N)
    found = trip(services, [BY_GROUP[number] for number in order])
    assert found.over.value is not None and abs(found.over.value) < 0.12


def test_the_same_string_for_every_latent_says_what_their_number_says(services) -> None:
    found = trip(services, [Explanation("ordinary text")] * N)
    assert found.value.value == pytest.approx(found.shuffled)
    assert found.over.value == pytest.approx(0, abs=1e-9)


def test_too_few_explained_latents_are_said(services) -> None:
    some = [each if n < 9 else Explanation(None, "none") for n, each in enumerate(BY_GROUP)]
    found = trip(services, some)
    assert (found.value.value, found.reason) == (
        None,
        "9 latents are explained, wanted twice as many as dimensions (16)",
    )
    assert trip(services, some, dimensions=4).value.value is not None


def test_text_encoder_is_asked_for_by_the_setting() -> None:
    assert RoundTrip.embeds(RoundTripConfig(reader="text_encoder"))
    assert not RoundTrip.embeds(RoundTripConfig())
