"""Ours as another project's files: the scale is folded, names and shapes are theirs, and reading
them back gives ours."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from components.dictionary.architectures.relu import ReluConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import architectures, untrained
from components.dictionary.interchange.contract import formats, written
from components.dictionary.interchange.exchange import bring, deviation, export
from components.errors import DictionaryError
from tests.planted import HOOK, directions, rows

X = 7 * rows(200, directions())
D_IN, D_SAE = 24, 48
# what both have
PAIRS = [
    (name, kind)
    for name in written()
    for kind in formats[name].exports
    if kind in architectures.names()
]


def begun(kind, seed=0):
    options = {"k": 5} if "k" in architectures[kind].config.model_fields else {}
    config = architectures[kind].config(d_sae=D_SAE, **options)
    made = untrained(config, HOOK, {HOOK: D_IN}, {HOOK: X}, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name.startswith(("b_enc", "b_gate", "b_mag", "r_mag")):
                tensor.uniform_(-0.5, 0.5, generator=generator)
            if name == "threshold":
                tensor.uniform_(0.1, 0.6, generator=generator)
    return made


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_ours_through_their_files_and_back_gives_the_same_codes(name, kind, tmp_path):
    dictionary = begun(kind)
    assert abs(dictionary.scale - 1) > 0.1, "there is a scale to fold"
    export(formats[name](), dictionary, tmp_path, X)
    back = bring(formats[name](), tmp_path, X, HOOK)
    assert back.scale == 1.0
    ours, again = dictionary.encode(X), back.encode(X)
    weight = (
        dictionary.decoder_directions().norm(dim=1)
        if (name, kind) == ("saelens", "batch_topk")
        else 1.0
    )
    assert deviation(ours.dense() * weight, again.dense()) < 1e-5
    assert deviation(dictionary.decode(ours), back.decode(again)) < 1e-5


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_their_convention_gives_our_codes_from_activations_without_any_scale(name, kind, tmp_path):
    dictionary = begun(kind)
    export(formats[name](), dictionary, tmp_path, X)
    codes, rebuilt = formats[name]().as_peer(tmp_path, X)
    ours = dictionary.encode(X)
    assert (
        deviation(ours.dense(), codes) < 1e-5 and deviation(dictionary.decode(ours), rebuilt) < 1e-5
    )


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_saelens_files_have_its_names_shapes_and_fields(kind, tmp_path):
    dictionary = begun(kind)
    export(formats["saelens"](), dictionary, tmp_path, X, model="toy")
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {"W_enc": (24, 48), "W_dec": (48, 24), "b_enc": (48,), "b_dec": (24,)}
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == {"topk": "topk", "relu": "standard"}[kind]
    assert config.get("k") == {"topk": 5, "relu": None}[kind]
    assert config["apply_b_dec_to_input"] is True and config["normalize_activations"] == "none"
    assert config["metadata"]["hook_name"] == HOOK and config["metadata"]["model_name"] == "toy"


def test_an_export_that_computes_something_else_is_refused_and_leaves_nothing(
    tmp_path, monkeypatch
):
    dictionary, format_ = begun("topk"), formats["saelens"]()
    honest = type(format_).as_peer
    monkeypatch.setattr(
        type(format_), "as_peer", lambda self, folder, x: honest(self, folder, x + 0.1)
    )
    said = rf"the export of topk-48-k5 \(SAELens, {tmp_path / 'out'}\) does not compute the same: codes differ by"
    with pytest.raises(DictionaryError, match=said):
        export(format_, dictionary, tmp_path / "out", X)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    export(format_, dictionary, tmp_path / "out", X)  # the same folder, tried again
    assert {path.name for path in tmp_path.rglob("*")} == {
        "out",
        "cfg.json",
        "sae_weights.safetensors",
    }
    with pytest.raises(
        DictionaryError, match="out is not empty; give a new folder, so that nothing of another"
    ):
        export(format_, dictionary, tmp_path / "out", X)
    with pytest.raises(DictionaryError, match="cfg.json is a file; give a new folder"):
        export(format_, dictionary, tmp_path / "out" / "cfg.json", X)


def test_a_dictionary_that_holds_no_numbers_is_refused(tmp_path, monkeypatch):
    dictionary = begun("topk")
    monkeypatch.setitem(dictionary.scales, HOOK, float("nan"))
    with pytest.raises(DictionaryError, match="holds NaN or infinity"):
        export(formats["saelens"](), dictionary, tmp_path / "out", X)
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_without_counterpart_is_refused(tmp_path, monkeypatch):
    dictionary = begun("relu")
    with pytest.raises(
        DictionaryError, match="'relu' is not written as files of sparsify; written are: topk"
    ):
        export(formats["sparsify"](), dictionary, tmp_path, X)
    with pytest.raises(
        DictionaryError, match="the format gemma_scope is read, not written; written are: "
    ):
        export(formats["gemma_scope"](), dictionary, tmp_path, X)


def test_the_options_of_what_is_exported_come_back(tmp_path):
    assert bring_back("topk", tmp_path).options == TopKConfig(d_sae=D_SAE, k=5)
    assert bring_back("relu", tmp_path / "relu").options == ReluConfig(d_sae=D_SAE)


def bring_back(kind, folder):
    export(formats["saelens"](), begun(kind), folder, X)
    return bring(formats["saelens"](), folder, X)
