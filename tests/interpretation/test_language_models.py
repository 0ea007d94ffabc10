"""Language models take part: with one that knows the truth behind the endpoint, explanations and
readings by prompts reach the planted ceiling through the whole stage."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from components.config import load
from components.device import Execution
from components.interpretation.config import InterpretConfig
from components.interpretation.interpret import INTERPRET
from components.report.tables import SCORES
from components.store import tables
from components.store.artifact import Artifact, Store
from tests import toys
from tests.client.servers import Act, Server, answer, serving
from tests.interpretation.knowing import knows, settings_of
from tests.interpretation.planted import (
    D_SAE,
    MORE,
    NOISE,
    PHRASES,
    PHRASES_OF_MORE,
    SENSE,
    SETS,
    WORDS,
    Planted,
    plant,
    set_words,
)

WRITERS = (
    "max_activating",
    "contrastive",
    "max_activating_logits",
    "token_activation_pairs",
    "agent",
)
SMALL = {"per_tenth": 2, "calibrate_per_tenth": 1, "top": 10}
OF_WORDS = [*range(SETS), *PHRASES_OF_MORE]
SAYABLE = [latent for latent in (*PHRASES, *PHRASES_OF_MORE) if latent != SENSE]
"""Latents whose planted phrase an explainer finds in the windows that it is shown."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """As elsewhere, with further latents: a ceiling that few latents reach says little."""
    return plant(Store(tmp_path_factory.mktemp("planted")), more=MORE)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        running.script = knows
        yield running


def config_of(
    server: Server,
    folder: Path,
    explainers: Sequence[str] = ("max_activating",),
    scorers: Sequence[str] = ("detection",),
    predictors: Sequence[str] = ("client",),
    **changes: Any,
) -> InterpretConfig:
    lists = {"explainers": explainers, "scorers": scorers, "predictors": predictors}
    return load(
        InterpretConfig,
        {name: list(each) for name, each in lists.items()}
        | {
            "client": settings_of(server, folder / "replies"),
            "contexts": SMALL,
            "latents": D_SAE + MORE,
        }
        | ({"predictor_settings": {"client": {"batch": 10}}} if "client" in predictors else {})
        | changes,
    )


def promoting(planted: Planted, store: Store) -> dict[str, Artifact]:
    """The planted codes, whose latents of words make these words likelier; without a control."""
    source = planted.inputs["codes"]

    def write(folder: Path) -> None:
        for name in source.files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(source.path(name).read_bytes())
        frame = tables.LATENTS.read(source)
        promoted = [
            [f" {WORDS[word]}" for word in set_words(latent)] if latent in OF_WORDS else []
            for latent in frame["latent"].to_list()
        ]
        tables.LATENTS.write(
            folder, frame.with_columns(pl.Series("promoted", promoted, pl.List(pl.String)))
        )

    codes = toys.artifact(store, "encode", write, source.facts)
    return {**planted.inputs, "codes": codes, "untrained": None}


def made(config: InterpretConfig, inputs: Any, folder: Path) -> Artifact:
    execution = Execution(device="cpu", confirmed=True)
    return Store(folder / "store").ensure(INTERPRET, config, inputs, execution)[0]


@pytest.fixture(scope="module")
def whole(server: Server, planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Every explainer that asks, read by who asks and by who does not."""
    folder = tmp_path_factory.mktemp("whole")
    config = config_of(server, folder, WRITERS, ("detection", "fuzzing"), ("client", "lexical"))
    with counted(server) as bill:
        artifact = made(config, promoting(planted, Store(folder / "codes")), folder)
    return Whole(artifact, bill)


@dataclasses.dataclass
class Bill:
    """What the server itself counted meanwhile."""

    usd: float = 0.0
    answers: int = 0
    most_for_one: int = 0


@contextlib.contextmanager
def counted(server: Server) -> Iterator[Bill]:
    bill, usd, first = Bill(), server.usd, len(server.sent)
    yield bill
    asked = Counter(json.dumps(sent, sort_keys=True) for sent in server.sent[first:])
    bill.usd, bill.answers = server.usd - usd, asked.total()
    bill.most_for_one = max(asked.values())


class Whole(NamedTuple):
    artifact: Artifact
    bill: Bill


def of_phrases(artifact: Artifact, explainer: str, scorer: str, predictor: str) -> pl.DataFrame:
    latents = OF_WORDS if explainer == "max_activating_logits" else SAYABLE
    return tables.EXPLANATION_SCORES.read(artifact).filter(
        pl.col("explainer") == explainer,
        pl.col("scorer") == scorer,
        pl.col("predictor") == predictor,
        pl.col("latent").is_in(latents),
    )


@pytest.mark.parametrize("predictor", ["client", "lexical"])
@pytest.mark.parametrize("scorer", ["detection", "fuzzing"])
@pytest.mark.parametrize("explainer", WRITERS)
def test_the_planted_ceiling_is_reached_by_every_explainer_that_asks(
    whole: Whole, explainer: str, scorer: str, predictor: str
) -> None:
    frame = of_phrases(whole.artifact, explainer, scorer, predictor)
    right = frame.filter(pl.col("role") != "floor")
    assert right["latent"].n_unique() == right.height >= 16 and right["n_failed"].sum() == 0
    assert right["value"].mean() > 0.95
    assert 0.4 < frame.filter(pl.col("role") == "floor")["value"].mean() < 0.6


def _by_what_all_share(held: Sequence[bool]) -> list[int]:
    """Yes to all where each piece holds a word of the description, else no to all."""
    return [int(all(held))] * len(held)


def _by_contrast(held: Sequence[bool]) -> list[int]:
    """Right where some pieces hold such a word and some do not; without both it sees no
    difference."""
    return [int(each and not all(held)) for each in held]


@pytest.mark.parametrize(
    ("rule", "least", "most"), [(_by_what_all_share, 0.45, 0.55), (_by_contrast, 0.9, 1.0)]
)
def test_the_company_of_a_window_in_its_prompt_does_not_tell_the_truth(
    server: Server,
    planted: Planted,
    tmp_path: Path,
    rule: Callable[[Sequence[bool]], list[int]],
    least: float,
    most: float,
) -> None:
    def script(sent: Mapping[str, Any], times: int = 0) -> Act:
        prompt = sent["messages"][-1]["content"]
        if not prompt.startswith("Description: "):
            return knows(sent)
        description, _, texts = prompt.partition("\n")
        words = set(re.findall('"(.*?)"', description))
        pieces = re.findall(r"^\d+\. (.*)$", texts, re.MULTILINE)
        return answer(json.dumps({"answers": rule([bool(words & {*p.split()}) for p in pieces])}))

    server.script = script
    try:
        config = config_of(
            server, tmp_path, latents=D_SAE, predictor_settings={"client": {"logprobs": 0}}
        )
        artifact = made(config, planted.inputs | {"untrained": None}, tmp_path)
    finally:
        server.script = knows
    # of latents of words alone: windows that hold one of them are all active
    scores = tables.EXPLANATION_SCORES.read(artifact).filter(
        pl.col("role") == "entry", pl.col("latent") < SETS
    )
    assert scores.height >= 8 and scores["n_failed"].sum() == 0
    assert least < scores["value"].mean() <= most


def test_simulation_by_prompts_reaches_what_lexical_does(
    server: Server, planted: Planted, tmp_path: Path
) -> None:
    config = config_of(server, tmp_path, scorers=["simulation"], predictors=["client", "lexical"])
    artifact = made(config, planted.inputs | {"untrained": None}, tmp_path)
    asked, looked = (
        of_phrases(artifact, "max_activating", "simulation", name).filter(
            pl.col("role") == "entry"
        )["value"]
        for name in ("client", "lexical")
    )
    assert len(asked) == len(SAYABLE) >= 16
    assert (asked - looked).abs().max() < 1e-9


def test_what_it_cost_is_what_the_server_counted(whole: Whole) -> None:
    facts = whole.artifact.facts["asked"]
    assert set(facts) == {"client", "is_one_model"}
    assert facts["client"]["usd"] == pytest.approx(facts["client"]["paid"])
    assert facts["client"]["usd"] == pytest.approx(whole.bill.usd)
    assert facts["client"]["replies"] >= facts["client"]["asked"] == whole.bill.answers
    assert facts["client"]["failures"] == {}
    assert whole.bill.most_for_one == 1
    calls = tables.CALLS.read(whole.artifact)
    assert calls.height == 100
    assert calls["usd"].null_count() == 0
    assert calls["label"].str.starts_with("explain ").sum() == 50  # of over a thousand readings
    writers = tables.WRITERS.read(whole.artifact)
    said = tables.EXPLANATIONS.read(whole.artifact).join(writers, on=["latent", "explainer"])
    assert said.height > 60 and set(said["served"]) == {"judge-1 (fp_a)"}
    assert said["call"].null_count() == 0
    explained = calls.join(said, on="call")
    assert explained["answer"].to_list() == explained["explanation"].to_list()


def test_one_model_on_both_sides_is_said_in_facts_and_rows(whole: Whole) -> None:
    assert whole.artifact.facts["asked"]["is_one_model"] is True
    rows = {row["name"]: row for row in SCORES.read(whole.artifact).iter_rows(named=True)}
    found = rows["interpret.max_activating.detection"]
    assert found["predictor"] == "client"
    assert "one language model wrote the explanations and read them" in found["reason"]


def test_who_tests_with_a_predictor_is_not_ranked_by_it(whole: Whole) -> None:
    frame = SCORES.read(whole.artifact).filter(
        pl.col("explainer") == "agent", ~pl.col("role").is_in(["floor", "control"])
    )
    by = {
        predictor: set(frame.filter(pl.col("predictor") == predictor)["role"])
        for predictor in ("client", "lexical")
    }
    assert by == {"client": {"own_judge"}, "lexical": {"entry"}}
    own = frame.filter(pl.col("predictor") == "client", pl.col("measure") == "detection")
    assert own["reason"][0].startswith("its own judge: the explainer tested what it wrote")


def test_of_a_latent_of_noise_it_says_that_nothing_is_common(whole: Whole) -> None:
    said = tables.EXPLANATIONS.read(whole.artifact).filter(pl.col("latent") == NOISE)
    assert set(said.filter(pl.col("explainer") == "max_activating")["explanation"]) == {
        "nothing in common"
    }


def test_without_promoted_tokens_nothing_is_asked(whole: Whole) -> None:
    said = tables.EXPLANATIONS.read(whole.artifact).filter(
        pl.col("explainer") == "max_activating_logits", pl.col("latent") == SENSE
    )
    (row,) = said.iter_rows(named=True)
    assert row["explanation"] is None
    assert row["reason"].startswith("no promoted tokens")
