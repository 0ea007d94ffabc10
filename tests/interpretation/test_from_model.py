"""A dictionary is interpreted from the running model as from disk: the same tables to the bit, and
nothing written but them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from components.capture.capture import CAPTURE, CaptureConfig
from components.capture.running import RunningActivations, opened
from components.config import override
from components.device import Execution
from components.dictionary.architectures.topk import TopK, TopKConfig
from components.dictionary.encode import EncodeConfig
from components.experiment import ENCODE
from components.interpretation import neighbours, searched
from components.interpretation.config import InterpretConfig
from components.interpretation.interpret import INTERPRET
from components.interpretation.run import Run
from components.model.reference import ModelReference
from components.report.tables import SCORES
from components.store import tables
from components.store.artifact import Artifact, Store
from components.store.shards import CodeShards
from tests import toys

CPU = Execution(device="cpu")
HOOK, LENGTH, D_IN, D_SAE, K = "resid_post.1", 64, 16, 40, 4
DOCUMENTS = {"explain": 260, "calibrate": 90, "test": 240}
SPLITS = tuple(DOCUMENTS)
CONFIG = InterpretConfig(
    latents=12,
    scorers=["detection", "fuzzing", "simulation"],
    latent_scorers=["input_score"],
    dictionary_scorers=["round_trip"],
    controls=["untrained"],
    contexts={"per_tenth": 2, "top": 5, "per_stratum": 5, "fewest": 5, "weighted": 4},
    dictionary_scorer_settings={"round_trip": {"dimensions": 2, "tokens": 3000}},
)
TABLES = (
    tables.CONTEXTS,
    tables.COOCCURRING,
    tables.EXPLANATIONS,
    tables.EXPLANATION_SCORES,
    tables.CONTROL_SCORES,
    tables.EXPLANATION_STRATA,
    tables.LATENT_SCORES,
    SCORES,
)


@dataclasses.dataclass(frozen=True)
class Road:
    """One way from text to explanations, in a store of its own."""

    store: Store
    inputs: dict[str, object]
    interpreted: Artifact


def read(store: Store) -> Artifact:
    """Random text: two documents of different lengths in each context, parted by an end token."""

    def write(folder: Path) -> None:
        random, number = np.random.default_rng(0), 0
        (folder / "contexts").mkdir()
        for split, n in DOCUMENTS.items():
            token = np.zeros((n // 2, LENGTH), np.int32)
            document, position = (np.full_like(token, -1) for _ in range(2))
            token[:, 0] = 1
            for row in range(n // 2):
                at = 1
                for size in (int(random.integers(24, 36)), int(random.integers(20, 27))):
                    token[row, at : at + size] = random.integers(4, len(toys.WORDS), size)
                    document[row, at : at + size] = number
                    position[row, at : at + size] = np.arange(size)
                    token[row, at + size] = 2
                    number, at = number + 1, at + size + 1
            columns = {"token": token, "document": document, "position": position}
            tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
            save_file(tensors, folder / f"contexts/{split}.safetensors")
        words = [{"token": i, "text": f" {word}"} for i, word in enumerate(toys.WORDS)]
        tables.VOCABULARY.write(folder, words)

    return toys.artifact(store, "read", write, {"context_length": LENGTH})


def dictionary(store: Store, seed: int) -> Artifact:
    """Random directions."""
    made = TopK(TopKConfig(d_sae=D_SAE, k=K), (HOOK,), (HOOK,), {HOOK: D_IN})
    rows = torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        made.W_enc.copy_(torch.nn.functional.normalize(rows, dim=1))
        made.W_dec.copy_(made.W_enc)
    facts = {"name": made.name, "n_seeds": 1, "hook_point": HOOK}
    return toys.artifact(store, "train", made.save, facts, seed)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelReference:
    return toys.tiny_reference(tmp_path_factory.mktemp("models") / "tiny")


def road(
    folder: Path, model: ModelReference, config: InterpretConfig = CONFIG, **capture: object
) -> Road:
    """Text, captured, encoded by two dictionaries, interpreted."""
    store = Store(folder)
    corpus = read(store)
    captured = CaptureConfig(
        hook_points=(HOOK,), splits=SPLITS, contexts_per_shard=32, batch_size=8
    )
    captured = override(captured, dict(capture))
    given = {"model": model, "corpus": corpus}
    activations = store.ensure(CAPTURE, captured, given, CPU)[0]
    inputs: dict[str, object] = {**given, "activations": activations}
    for role, seed in (("codes", 1), ("untrained", 2)):
        trained = {"dictionary": dictionary(store, seed), "activations": activations}
        section = EncodeConfig(splits=SPLITS, batch=512)
        inputs[role] = store.ensure(ENCODE, section, {**trained, "model": model}, CPU)[0]
    return Road(store, inputs, store.ensure(INTERPRET, config, inputs, CPU)[0])


@pytest.fixture(scope="module")
def stored(model: ModelReference, tmp_path_factory: pytest.TempPathFactory) -> Road:
    return road(tmp_path_factory.mktemp("stored"), model)


@pytest.fixture(scope="module")
def running(model: ModelReference, tmp_path_factory: pytest.TempPathFactory) -> Road:
    return road(tmp_path_factory.mktemp("running"), model, from_model=True)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_is_the_one_from_disk(table, stored: Road, running: Road) -> None:
    ours, theirs = table.read(running.interpreted), table.read(stored.interpreted)
    assert theirs.height and ours.equals(theirs)


def test_there_is_something_to_compare(stored: Road) -> None:
    explanations = tables.EXPLANATIONS.read(stored.interpreted)
    assert explanations["explanation"].drop_nulls().len() > 12
    contexts = tables.CONTEXTS.read(stored.interpreted)
    kinds = {"random", "same_token", "neighbour", "near"}
    assert set(contexts["stratum"].drop_nulls()) == kinds
    scores = SCORES.read(stored.interpreted)
    values = dict(scores.select("name", "value").iter_rows())
    for name in ("detection", "fuzzing", "simulation"):
        assert values[f"interpret.log_odds.{name}"] is not None
        assert values[f"interpret.log_odds.{name}.over_untrained"] is not None
    assert scores.filter(pl.col("scorer") == "round_trip")["value"].drop_nulls().len()


def test_neither_activations_nor_codes_are_written(stored: Road, running: Road) -> None:
    def shards(road: Road) -> list[Path]:
        return [path for path in road.store.root.rglob("[0-9]*.safetensors") if path.is_file()]

    assert len(shards(stored)) > 9 and not shards(running)
    written = [set(running.inputs[role].files) for role in ("activations", "codes", "untrained")]
    of_encode = {"latents.parquet", "neighbours.parquet", "pooled.parquet"}
    assert written == [set(), of_encode, of_encode]


def test_each_split_passes_the_model_once_for_all_dictionaries(running: Road) -> None:
    """But for the tokens whose activations the scorer of the dictionary asks for by number."""
    activations = running.inputs["activations"]
    n_tokens = {split: n // 2 * LENGTH for split, n in DOCUMENTS.items()}
    run = Run.of(CONFIG, running.inputs, CPU)
    roles = {None: running.inputs["codes"], "untrained": running.inputs["untrained"]}
    messages = []
    work = run.codes(roles)
    while True:
        try:
            messages.append(next(work))
        except StopIteration as end:
            codes = end.value
            break
    assert isinstance(run.activations, RunningActivations)
    assert run.activations.tokens_run == sum(n_tokens.values())
    total = sum(activations.facts["splits"][split]["rows"] for split in SPLITS)
    assert messages[-1].done == messages[-1].total == total
    more = running.interpreted.facts["tokens_run"] - sum(n_tokens.values())
    # both dictionaries, each by two explainers or one: 3,000 tokens of two splits
    assert 0 < more <= 3 * 2 * (3000 * LENGTH / 52 + 8 * LENGTH)
    assert codes[None].n_rows("explain") == activations.facts["splits"]["explain"]["rows"]


def test_what_is_kept_of_the_codes_is_bounded_where_text_is_long(
    running: Road, stored: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the searched windows only the sampled latents stay, and those exactly."""
    monkeypatch.setattr(searched, "SEARCHED", 20)
    monkeypatch.setattr(neighbours, "ROWS", 300)
    run = Run.of(CONFIG, running.inputs, CPU)
    work = run.codes({None: running.inputs["codes"]})
    while True:
        try:
            next(work)
        except StopIteration as end:
            codes = end.value[None]
            break
    whole = CodeShards(stored.inputs["codes"])
    sampled = tables.EXPLANATIONS.read(running.interpreted)["latent"].unique().to_numpy()
    for split in SPLITS:
        kept, all_ = codes.codes(split), whole.codes(split)
        assert kept.n_rows == all_.n_rows
        assert np.array_equal(
            kept.matrix()[:, sampled].toarray(), all_.matrix()[:, sampled].toarray()
        )
        tiling, places = run.cut[split].tiling, run.cut[split].place_of
        inside = (tiling.tile_of >= 0) & (places[tiling.tile_of] >= 0)
        rows = np.flatnonzero(inside)
        assert np.array_equal(kept.matrix()[rows].toarray(), all_.matrix()[rows].toarray())
        others = np.setdiff1d(np.arange(D_SAE), sampled)
        beyond = ~inside
        if split == "explain":
            beyond[:: -(-all_.n_rows // 300)] = False
        assert not kept.matrix()[np.flatnonzero(beyond)][:, others].nnz
        assert kept.nnz < all_.nnz


def test_the_tables_are_the_same_where_most_codes_are_let_go(
    stored: Road, running: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searched, "SEARCHED", 70)
    monkeypatch.setattr(neighbours, "ROWS", 300)
    config = override(CONFIG, {"seed": 1})
    ours, theirs = (
        each.store.ensure(INTERPRET, config, each.inputs, CPU)[0] for each in (running, stored)
    )
    assert tables.EXPLANATIONS.read(theirs)["explanation"].drop_nulls().len() > 12
    for table in TABLES:
        assert table.read(ours).equals(table.read(theirs)), table.name


def test_means_of_windows_are_those_from_disk(stored: Road, running: Road) -> None:
    ours, theirs = (Run.of(CONFIG, each.inputs, CPU) for each in (running, stored))
    for _ in ours.codes({None: running.inputs["codes"]}):
        pass
    for split in SPLITS:
        assert list(ours.cut[split].remembered) == [HOOK]
        assert np.array_equal(ours.cut[split].means(HOOK), theirs.cut[split].means(HOOK))


def test_a_limit_of_rows_leaves_the_same_tables(
    model: ModelReference, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows end inside a shard and inside a batch."""
    config = override(CONFIG, {"contexts.rows": 3101})
    folders = (tmp_path_factory.mktemp(name) for name in ("limited", "running"))
    theirs, ours = (
        road(folder, model, config, from_model=from_model).interpreted
        for folder, from_model in zip(folders, (False, True), strict=True)
    )
    for table in TABLES:
        assert table.read(ours).equals(table.read(theirs)), table.name


def test_controls_of_directions_say_why_they_are_absent(running: Road) -> None:
    config = override(CONFIG, {"controls": ["random", "untrained"], "latent_scorers": []})
    made = running.store.ensure(INTERPRET, config, running.inputs, CPU)[0]
    rows = SCORES.read(made).filter(pl.col("name").str.contains("over_random"))
    assert rows.height and rows["value"].null_count() == rows.height
    assert set(rows["reason"]) == {
        "neither activations nor codes are stored (capture.from_model=true), and this reads them "
        "from disk; set capture.from_model=false to have it"
    }
    assert made.facts["controls"] == {"untrained": 12}


def test_activations_are_opened_from_where_the_model_lies_now(
    running: Road, model: ModelReference, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(model.config.path, moved)
    place = ModelReference(model.config.model_copy(update={"path": str(moved)}))
    artifact = running.inputs["activations"]
    lost = dataclasses.replace(
        artifact,
        manifest={
            **artifact.manifest,
            "facts": {
                **artifact.facts,
                "model_config": {**artifact.facts["model_config"], "path": str(tmp_path / "gone")},
            },
        },
    )
    assert opened(lost, CPU, place).n_rows("test") == artifact.facts["splits"]["test"]["rows"]
