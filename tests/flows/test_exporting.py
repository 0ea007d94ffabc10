"""Latents of a real experiment as Neuronpedia's folder: every field of the format, and read back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from components.dictionary.contract import Dictionary
from components.errors import InputError
from components.experiment import ExperimentConfig
from components.export.contract import Findings
from components.interpretation.explainers.given import GivenConfig, _texts
from components.report.blind_texts import blind_texts
from components.store.artifact import Store
from components.store.notes import Notes
from components.store.tables import (
    CONTEXTS,
    EXPLANATION_SCORES,
    EXPLANATIONS,
    LATENTS,
    NEIGHBOURS,
)
from flows import exporting
from flows.__main__ import app

pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]
FEATURE = {
    "modelId", "layer", "index", "maxActApprox", "hasVector", "vector",
    "vectorDefaultSteerStrength", "hookName", "frac_nonzero", "pos_str", "pos_values", "neg_str",
    "neg_values", "freq_hist_data_bar_heights", "freq_hist_data_bar_values",
    "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "neuron_alignment_indices",
    "neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_indices",
    "correlated_neurons_pearson", "correlated_neurons_l1", "correlated_features_indices",
    "correlated_features_pearson", "correlated_features_l1", "topkCosSimIndices",
    "topkCosSimValues", "decoder_weights_dist",
}  # fmt: skip
ACTIVATION = {
    "tokens", "values", "maxValue", "maxValueTokenIndex", "minValue", "binMin", "binMax",
    "binContains", "qualifyingTokenIndex", "dataSource",
}  # fmt: skip
EXPLANATION = {"description", "typeName", "explanationModelName", "notes"}
OF_A_LATENT = {"modelId", "layer", "index"}


@pytest.fixture(scope="module")
def findings(config: ExperimentConfig, first: dict[str, str]) -> Findings:
    return Findings.of(Store(config.execution.store), first["key"])


@pytest.fixture(scope="module")
def folder(
    config: ExperimentConfig, first: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    to = tmp_path_factory.mktemp("export") / "neuronpedia"
    done = CliRunner().invoke(
        app,
        ["export", first["key"], "--to", str(to), "--format", "neuronpedia",
         f"execution.store={config.execution.store}"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (inside,) = to.glob("*/*")
    return inside


def rows(path: Path) -> list[dict[str, Any]]:
    """Strict JSON, one object a line."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text[:-1].split("\n")]


def batches(folder: Path, name: str) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / name).glob("batch-*.jsonl.gz")) for row in rows(path)]


def test_the_folder_has_the_files_that_the_importer_looks_for(folder: Path) -> None:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    single = {f"{name}.jsonl" for name in ("release", "model", "sourceset", "source")}
    batch = {f"{name}/batch-0.jsonl.gz" for name in ("features", "activations", "explanations")}
    assert names == single | batch | {"scores.jsonl.gz"}
    assert all(len(rows(folder / name)) == 1 for name in single)


def test_the_single_rows_name_one_another(folder: Path) -> None:
    release, model, group, source = (
        rows(folder / f"{name}.jsonl")[0] for name in ("release", "model", "sourceset", "source")
    )
    assert (folder.parent.name, folder.name) == (model["id"], source["id"])
    assert group["releaseName"] == release["name"]
    assert group["modelId"] == source["modelId"] == model["id"]
    assert source["setName"] == group["name"] and source["id"].partition("-")[2] == group["name"]


def test_every_row_has_every_field_of_the_format(folder: Path) -> None:
    for name, wanted in (
        ("features", FEATURE),
        ("activations", ACTIVATION | OF_A_LATENT),
        ("explanations", EXPLANATION | OF_A_LATENT),
    ):
        written = batches(folder, name)
        assert written
        assert all(wanted <= set(row) for row in written), name
        layers = {(row["modelId"], row["layer"]) for row in written}
        assert layers == {(folder.parent.name, folder.name)}


def test_features_say_what_encode_found_out(folder: Path, findings: Findings) -> None:
    encode, train = findings.artifacts["encode"], findings.artifacts["train"]
    latents = LATENTS.read(encode).filter(pl.col("split") == "test").sort("latent")
    features = batches(folder, "features")
    assert [row["index"] for row in features] == [str(n) for n in latents["latent"]]
    assert [row["frac_nonzero"] for row in features] == latents["density"].to_list()
    directions = Dictionary.load(train).decoder_directions().numpy()
    np.testing.assert_allclose([row["vector"] for row in features], directions, rtol=1e-5)
    assert features[0]["hookName"] == "blocks.2.hook_resid_post"
    near = NEIGHBOURS.read(encode).filter(pl.col("latent") == 5).sort("rank")
    assert features[5]["topkCosSimIndices"] == near["neighbour"].to_list()
    for row, latent in zip(features, latents.iter_rows(named=True), strict=True):
        assert sum(row["freq_hist_data_bar_heights"]) == latent["n_active"]
        assert len(row["freq_hist_data_bar_values"]) == len(row["freq_hist_data_bar_heights"])
        largest = int(np.argmax(np.abs(directions[latent["latent"]])))
        assert row["neuron_alignment_indices"][0] == largest
        assert row["pos_str"] == latent["promoted"] and len(row["neg_values"]) <= 20


def test_activations_are_the_active_windows(folder: Path, findings: Findings) -> None:
    written = batches(folder, "activations")
    active = CONTEXTS.read(findings.artifacts["interpret"]).filter(pl.col("role") != "silent")
    assert len(written) == active.height == len({row["id"] for row in written})
    for row in written:
        assert 1 <= len(row["tokens"]) == len(row["values"]) <= 1024
        assert row["maxValue"] == row["values"][row["maxValueTokenIndex"]] > 0
        assert row["minValue"] == min(row["values"])
        top = row["binMin"] == row["binMax"] == row["binContains"] == -1
        assert top or row["binMin"] <= row["maxValue"] <= row["binMax"]
    assert any(row["binContains"] == -1 for row in written)


def test_explanations_are_read_back_by_the_explainer_given(
    folder: Path, findings: Findings
) -> None:
    ours = EXPLANATIONS.read(findings.artifacts["interpret"])
    ours = ours.filter(pl.col("explanation").is_not_null(), pl.col("explainer") == "log_odds")
    files = sorted((folder / "explanations").iterdir())
    settings = GivenConfig(path=str(folder / "explanations"), author="log_odds")
    assert _texts(files, settings) == dict(ours.select("latent", "explanation").iter_rows())
    assert all(1 <= len(row["description"]) <= 512 for row in batches(folder, "explanations"))


def test_scores_stand_beside_as_the_table_has_them(folder: Path, findings: Findings) -> None:
    scores = EXPLANATION_SCORES.read(findings.artifacts["interpret"])
    assert rows(folder / "scores.jsonl.gz") == scores.sort(EXPLANATION_SCORES.key).to_dicts()


def test_a_dictionary_is_exported_as_its_newest_report_sees_it_and_only_what_was_asked_for(
    config: ExperimentConfig, findings: Findings, tmp_path: Path
) -> None:
    store = Store(config.execution.store)
    exporting.write(
        findings.artifacts["train"].key, tmp_path / "some", "neuronpedia", "3, 1,3", store
    )
    (inside,) = (tmp_path / "some").glob("*/*")
    assert [row["index"] for row in batches(inside, "features")] == ["1", "3"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{key}", "--latents", "1,x"], "wanted whole numbers with commas between"),
        (["{key}", "--latents", "128"], "no latent 128 in this dictionary; it has 0 to 127"),
        (["0" * 24], "neither a report '000000000000000000000000' nor a report of a dictionary"),
        (["{key}", "--format", "html"], "say which latents: --format html --latents 1,2,3"),
        (["{key}", "--format", "saelens", "--latents", "1"], "files hold a whole dictionary"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(
    config: ExperimentConfig,
    first: dict[str, str],
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
) -> None:
    said = [part.format(key=first["key"]) for part in arguments]
    format = [] if "--format" in said else ["--format", "neuronpedia"]
    store = f"execution.store={config.execution.store}"
    done = CliRunner().invoke(app, ["export", *said, "--to", str(tmp_path / "out"), *format, store])
    assert done.exit_code == 1 and sentence in str(done.exception)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_left_as_it_was(
    config: ExperimentConfig, first: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Exception, match="is not an empty folder; give a new one"):
        exporting.write(first["key"], tmp_path, "neuronpedia", "", Store(config.execution.store))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_people_said_goes_along_and_can_be_had_alone(
    config: ExperimentConfig, findings: Findings, first: dict[str, str], tmp_path: Path
) -> None:
    store, key = Store(config.execution.store), findings.artifacts["train"].key
    with pytest.raises(InputError, match="nobody has said anything of these latents yet"):
        exporting.write(first["key"], tmp_path / "early", "notes", "", store)
    notes, interpret = Notes(store, key), findings.artifacts["interpret"]
    written = EXPLANATIONS.read(interpret).filter(pl.col("explanation").is_not_null())
    latent = written["latent"][0]
    notes.say(latent, label="my own label", tags=["a"], vote=1, author="Ann")
    notes.rate(interpret.key, latent, [("log_odds", "text", True)], "Ann")
    steer = findings.artifacts["steer"]
    rated = blind_texts(steer).head(3).to_dicts()
    for row in rated:
        notes.rate_text(
            steer.key, row["generation"], row["concept"], text=row["text"], has_target=None,
            fluent=True, goes_on=False, author="Ann",
        )  # fmt: skip
    exporting.write(first["key"], tmp_path / "notes", "notes", "", store)
    there = {path.name for path in (tmp_path / "notes").iterdir()}
    lists = ("notes", "ratings", "agreement", "text_ratings", "text_agreement")
    assert there == {"labels.csv", *(f"{name}.jsonl" for name in lists)}
    told = rows(tmp_path / "notes" / "text_ratings.jsonl")
    assert {row["text"] for row in told} == {row["text"] for row in rated}
    assert {(row["has_target"], row["fluent"], row["goes_on"]) for row in told} == {
        (None, True, False)
    }
    agreed = {row["judge"]: row for row in rows(tmp_path / "notes" / "text_agreement.jsonl")}
    assert {"concept", "fluency", "composite"} <= set(agreed)
    assert (agreed["concept"]["n"], agreed["concept"]["n_left_out"]) == (0, 3)
    assert agreed["fluency"]["n"] == 3 and "wanted at least 20" in agreed["fluency"]["reason"]
    exporting.write(first["key"], tmp_path / "one", "notes", str(latent), store)
    assert not list((tmp_path / "one").glob("text_*")), "no latent wrote these texts"
    settings = GivenConfig(path=str(tmp_path / "notes" / "labels.csv"))
    assert _texts([tmp_path / "notes" / "labels.csv"], settings) == {latent: "my own label"}
    exporting.write(first["key"], tmp_path / "np", "neuronpedia", str(latent), store)
    (inside,) = (tmp_path / "np").glob("*/*")
    typed = [row for row in batches(inside, "explanations") if row["typeName"] is None]
    assert [row["description"] for row in typed] == ["my own label"]
    assert [row["tags"] for row in rows(inside / "notes.jsonl.gz")] == [["a"]]
    exporting.write(first["key"], tmp_path / "page", "html", str(latent), store)
    page = (tmp_path / "page" / "latents.html").read_text(encoding="utf-8")
    assert "my own label" in page and "said by Ann" in page
    notes.path.unlink()
