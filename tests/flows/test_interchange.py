"""Another project's dictionary as an artifact: made, registered, and taken through every later
stage."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from components.config import override
from components.dictionary.contract import Dictionary
from components.dictionary.interchange.files import conversion
from components.errors import DictionaryError, MissingArtifactError
from components.experiment import ExperimentConfig
from components.model.reference import ModelConfig
from components.report.tables import REPORT, SCORES
from components.store import tables
from components.store.artifact import Artifact, Store
from flows import interchange
from flows.chain import Chain
from flows.tracking.registry import resolve_dictionary
from tests import foreign
from tests.hubs import hub

pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def trained(config: ExperimentConfig, first: dict[str, str]) -> Artifact:
    store = Store(config.execution.store)
    return store.get(**store.get(**first).manifest["inputs"]["train"])


@pytest.fixture(scope="module")
def folder(
    config: ExperimentConfig, trained: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    to = tmp_path_factory.mktemp("peer") / "saelens"
    interchange.write(trained.key, to, "saelens", config)
    return to


@pytest.fixture(scope="module")
def imported(config: ExperimentConfig, folder: Path) -> Artifact:
    """Through Prefect and MLflow."""
    reference = interchange.import_(config, "saelens", str(folder))
    return Store(config.execution.store).get(**reference)


def test_it_is_an_artifact_of_train_that_measures_as_what_it_was_exported_from(
    trained: Artifact, imported: Artifact
) -> None:
    assert (imported.stage, imported.facts["imported_from"]) == (
        "train",
        "saelens",
    ) and imported.key != trained.key
    of_learning = {
        "batch_size",
        "lr",
        "rates_tried",
        "converged",
        "convergence",
        "half_fvu_ratio",
        "rows_turned_cosine",
    }
    assert set(trained.facts) - set(imported.facts) == {"trained_together"} | of_learning
    for fact in ("d_in", "d_sae", "dtype", "hook_point", "architecture", "held_out_rows"):
        assert imported.facts[fact] == trained.facts[fact]
    for fact in ("fvu", "l0", "dead_share"):
        assert imported.facts[fact] == pytest.approx(trained.facts[fact], rel=1e-4)
    assert imported.facts["name"] == "saelens-topk-128-k8" and imported.facts["scale"] == 1.0


def test_the_registry_has_it_by_name_and_alias(imported: Artifact) -> None:
    assert resolve_dictionary("saelens-topk-128-k8@champion") == imported.key


def test_the_same_files_elsewhere_are_the_same_artifact_and_other_files_are_not(
    config: ExperimentConfig, folder: Path, imported: Artifact, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "moved")
    with Chain(config, plain=True) as chain:
        assert interchange.bring(chain, "saelens", tmp_path / "moved").key == imported.key
    changed = json.loads((tmp_path / "moved" / "cfg.json").read_text()) | {"k": 7}
    (tmp_path / "moved" / "cfg.json").write_text(json.dumps(changed))
    with Chain(config, plain=True) as chain:
        other = interchange.bring(chain, "saelens", tmp_path / "moved")
    assert other.key != imported.key and other.facts["l0"] == pytest.approx(7, abs=0.1)


def test_it_runs_through_every_later_stage_beside_an_untrained_one(
    config: ExperimentConfig, imported: Artifact
) -> None:
    with Chain(override(config, {"dictionary": imported.key}), plain=True) as chain:
        frame = REPORT.read(chain.artifact("report"))
        assert chain.artifact("train").key == imported.key
        assert (
            chain.artifact("train", control="untrained").facts["d_sae"] == imported.facts["d_sae"]
        )
    assert set(frame["stage"]) == {"evaluate", "interpret", "steer"}
    assert (
        frame.filter(frame["name"] == "evaluate.loss_recovered.mean_ablation")["value"].null_count()
        == 0
    )


def test_it_is_explained_as_what_it_was_exported_from(
    config: ExperimentConfig, first: dict[str, str], imported: Artifact
) -> None:
    """The weights are the same, so latents, explanations and scores are."""
    store = Store(config.execution.store)
    ours = store.get(**store.get(**first).manifest["inputs"]["interpret"])
    with Chain(override(config, {"dictionary": imported.key}), plain=True) as chain:
        theirs = chain.artifact("interpret")
    assert theirs.key != ours.key and theirs.facts["name"] == imported.facts["name"]
    assert tables.EXPLANATIONS.read(theirs).equals(tables.EXPLANATIONS.read(ours))
    assert tables.EXPLANATIONS.read(theirs)["explanation"].drop_nulls().len() > 0
    scores, originals = (
        dict(SCORES.read(each).select("name", "value").drop_nulls().iter_rows())
        for each in (theirs, ours)
    )
    assert "interpret.log_odds.simulation" in scores
    assert scores == pytest.approx(originals, rel=1e-4)


def test_it_loads_in_two_lines_of_python(imported: Artifact) -> None:
    dictionary = Dictionary.load(imported.folder)
    assert dictionary.decode(dictionary.encode(dictionary.decoder_directions()[:3])).shape == (
        3,
        dictionary.d_in,
    )


def test_a_hook_point_that_was_not_captured_says_what_to_set(
    config: ExperimentConfig, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    changed = json.loads((tmp_path / "elsewhere" / "cfg.json").read_text())
    changed["metadata"]["hook_name"] = "blocks.0.hook_mlp_out"
    (tmp_path / "elsewhere" / "cfg.json").write_text(json.dumps(changed))
    said = r"reads blocks.0.hook_mlp_out, but these activations are captured at .*; set capture.hook_points=\[mlp_out.0\]"
    with Chain(config, plain=True) as chain, pytest.raises(DictionaryError, match=said):
        interchange.bring(chain, "saelens", tmp_path / "elsewhere")


def named(folder: Path, to: Path, hook_point: str) -> Path:
    """A copy of a dictionary's files that says another place."""
    shutil.copytree(folder, to)
    changed = json.loads((to / "cfg.json").read_text())
    changed["metadata"]["hook_name"] = hook_point
    (to / "cfg.json").write_text(json.dumps(changed))
    return to


@pytest.mark.parametrize("hook_name", ["blocks.0.hook_mlp_out", "model.layers.0.mlp"])
def test_the_advice_on_a_hook_point_is_taken_by_the_next_command(
    config: ExperimentConfig, folder: Path, tmp_path: Path, hook_name: str
) -> None:
    files = named(folder, tmp_path / "elsewhere", hook_name)
    with Chain(config, plain=True) as chain, pytest.raises(DictionaryError) as caught:
        interchange.bring(chain, "saelens", files)
    [(name, value)] = re.findall(r"set (capture\.hook_points)=(\[\S+\]),", str(caught.value))
    advised = override(config, {name: yaml.safe_load(value), "train.hook_point": ""})
    with Chain(advised, plain=True) as chain:
        brought = interchange.bring(chain, "saelens", files)
        assert brought.facts["hook_point"] in chain.artifact("capture").facts["hook_points"]


@pytest.mark.parametrize(
    "hook_name", ["blocks.0.hook_resid_mid", "blocks.1.ln2.hook_normalized", "hook_embed"]
)
def test_a_place_that_has_no_name_here_is_refused_before_anything_is_captured(
    config: ExperimentConfig, folder: Path, tmp_path: Path, hook_name: str
) -> None:
    files = named(folder, tmp_path / "elsewhere", hook_name)
    with (
        Chain(override(config, {"execution.store": str(tmp_path / "empty")}), plain=True) as chain,
        pytest.raises(
            DictionaryError, match=rf"reads {hook_name}, a place of another library.*module:<path>"
        ) as caught,
    ):
        interchange.bring(chain, "saelens", files)
    assert f"[{hook_name}]" not in str(caught.value) and not (tmp_path / "empty").exists()


def test_a_dictionary_on_another_model_of_its_width_gets_a_word(
    config: ExperimentConfig, trained: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = override(config, {"dictionary": trained.key})
    with Chain(own, plain=True) as chain:
        chain.artifact("train")
    assert "another model" not in caplog.text
    shutil.copytree(config.model.path, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, tmp_path / "other" / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with Chain(override(own, {"model.path": str(tmp_path / "other")}), plain=True) as chain:
        chain.artifact("train")
        chain.artifact("train")
    said = [
        record.getMessage() for record in caplog.records if "another model" in record.getMessage()
    ]
    assert len(said) == 1 and str(tmp_path / "other") in said[0] and config.model.path in said[0]


ASK = """
import json
from components.errors import DictionaryError
from components.model.reference import ModelConfig
from flows.interchange import local
told = []
for source, format, online in {asked!r}:
    try:
        folder = local(source, format, ModelConfig(online=online))
        told.append(sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()))
    except DictionaryError as error:
        told.append(str(error))
print(json.dumps(told))
"""
ASKED = {
    "without leave": ("them/topk/layers.1", "sparsify", False),
    "no folder named": ("them/topk", "sparsify", True),
    "a pickle": ("them/pickled/trainer_0", "dictionary_learning", True),
    "another format": ("them/topk/layers.1", "gemma_scope", True),
    "no such folder": ("them/topk/layers.3", "sparsify", True),
    "no such repository": ("them/none/layers.1", "sparsify", True),
    "with leave": ("them/topk/layers.1", "sparsify", True),
    "a folder in a folder": ("them/release/l1", "llama_scope", True),
    "again": ("them/topk/layers.1", "sparsify", False),
    "another folder": ("them/topk/layers.2", "sparsify", False),
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """What a hub on this machine gave in turn, and what was downloaded."""
    root, weights = tmp_path_factory.mktemp("repositories"), foreign.numbers()
    for layer in ("layers.1", "layers.2"):
        foreign.sparsify(root / "topk" / layer, weights)
        (root / "topk" / layer / "optimizer.pt").write_bytes(b"not asked for")
    pickled = foreign.dictionary_learning(root / "pickled" / "trainer_0", "AutoEncoder", weights)
    (pickled / "ae.safetensors").rename(pickled / "ae.pt")
    foreign.llama_scope_release(root / "release" / "l1", weights)
    with hub({f"them/{folder.name}": folder for folder in root.iterdir()}) as served:
        told = served.run(ASK.format(asked=list(ASKED.values())), tmp_path_factory.mktemp("home"))
    return dict(zip(ASKED, told, strict=True)), served.downloaded


def test_a_hub_id_is_not_asked_for_without_leave(asked: tuple[dict[str, Any], list[str]]) -> None:
    told, _ = asked
    assert (
        "model.online is false, so nothing is downloaded; set model.online=true"
        in told["without leave"]
    )
    with pytest.raises(
        DictionaryError, match=r"no folder './nowhere'; give a folder, or a hub id such as"
    ):
        interchange.local("./nowhere", "sparsify", ModelConfig())


def test_of_a_hub_repository_only_the_files_of_the_format_are_downloaded(
    asked: tuple[dict[str, Any], list[str]],
) -> None:
    told, downloaded = asked
    assert told["with leave"] == told["again"] == ["cfg.json", "sae.safetensors"]
    assert told["a folder in a folder"] == ["checkpoints/final.safetensors", "hyperparams.json"]
    assert sorted(downloaded) == [
        "them/release/l1/checkpoints/final.safetensors",
        "them/release/l1/hyperparams.json",
        "them/topk/layers.1/cfg.json",
        "them/topk/layers.1/sae.safetensors",
    ]
    assert "model.online is false" in told["another folder"]


def test_a_pickle_on_the_hub_is_refused_as_one_here_is(
    asked: tuple[dict[str, Any], list[str]],
) -> None:
    told, _ = asked
    assert told["a pickle"].startswith(
        "them/pickled/trainer_0/ae.pt is a pickle: loading it could run any code that is"
    )
    assert conversion("ae.pt", "ae.safetensors") in told["a pickle"]


def test_what_a_hub_repository_does_not_hold_is_said_with_what_it_does(
    asked: tuple[dict[str, Any], list[str]],
) -> None:
    told, _ = asked
    assert told["no folder named"] == (
        "no cfg.json in them/topk; it holds layers.1, layers.2; give the folder that holds it, "
        "for example them/topk/layers.1"
    )
    assert told["another format"].startswith(
        "no params.npz in them/topk/layers.1; it holds cfg.json, optimizer.pt, sae."
    )
    assert told["no such folder"] == "the hub repository them/topk has no folder layers.3"
    assert "and the hub did not give it: RepositoryNotFoundError" in told["no such repository"]


def test_what_is_not_there_or_in_the_way_is_said(
    config: ExperimentConfig, trained: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(DictionaryError, match="is not empty; give a new folder"):
        interchange.write(trained.key, tmp_path, "saelens", config)
    with pytest.raises(MissingArtifactError, match="no artifact train/abc"):
        interchange.write("abc", tmp_path / "new", "saelens", config)


def test_the_command_line_exports_and_imports(
    config: ExperimentConfig, trained: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.__main__ import app

    store = f"execution.store={config.execution.store}"
    tiny = ["--params", "examples/tiny.yaml"]
    to = tmp_path / "out"
    written = CliRunner().invoke(
        app, ["export", trained.key, "--to", str(to), "--format", "sparsify", *tiny, store]
    )
    assert written.exit_code == 0 and {path.name for path in to.iterdir()} == {
        "cfg.json",
        "sae.safetensors",
    }
    read = CliRunner().invoke(app, ["import", "sparsify", str(to), "--plain", *tiny, store])
    assert read.exit_code == 0 and "train/" in read.stdout
