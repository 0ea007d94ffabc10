"""Export to SAELens: the scale is folded, and the check compares numbers."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from components.dictionary.architectures.relu import ReluConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import untrained
from components.dictionary.interchange.saelens import export, read_as_peer
from components.errors import DictionaryError
from tests.planted import HOOK, directions, rows

X = 7 * rows(100, directions())


@pytest.fixture(params=[TopKConfig(d_sae=48, k=5), ReluConfig(d_sae=48)], ids=["topk", "relu"])
def dictionary(request):
    made = untrained(request.param, HOOK, {HOOK: 24}, {HOOK: X}, torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.b_enc.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(1))
    return made


def test_the_peers_convention_gives_the_same_codes_and_reconstruction_without_any_scale(dictionary, tmp_path):
    assert abs(dictionary.scale - 1) > 0.1
    export(dictionary, tmp_path, X)
    codes, reconstruction = read_as_peer(tmp_path, X)
    ours = dictionary.encode(X)
    torch.testing.assert_close(codes, ours.dense(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(reconstruction, dictionary.decode(ours), atol=1e-4, rtol=1e-4)


def test_files_have_the_peers_names_shapes_and_fields(dictionary, tmp_path):
    export(dictionary, tmp_path, X, model_name="toy")
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {"W_enc": (24, 48), "W_dec": (48, 24), "b_enc": (48,), "b_dec": (24,)}
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == {"topk": "topk", "relu": "standard"}[dictionary.kind]
    assert config.get("k") == {"topk": 5, "relu": None}[dictionary.kind]
    assert config["apply_b_dec_to_input"] is True and config["normalize_activations"] == "none"
    assert config["metadata"]["hook_name"] == HOOK and config["metadata"]["model_name"] == "toy"


def test_an_export_that_computes_something_else_is_refused(dictionary, tmp_path, monkeypatch):
    monkeypatch.setitem(dictionary.scales, HOOK, float("nan"))
    with pytest.raises(DictionaryError, match="does not compute the same: codes differ by nan of their norm"):
        export(dictionary, tmp_path, X)


def test_an_architecture_without_counterpart_is_refused(dictionary, tmp_path, monkeypatch):
    monkeypatch.setattr(type(dictionary), "kind", "molt")
    with pytest.raises(DictionaryError, match="SAELens has no counterpart of 'molt'; it has one of: topk, relu"):
        export(dictionary, tmp_path, X)
