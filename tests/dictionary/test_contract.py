"""The contract: one scale folded in one place, files without pickle, errors that help, and room for
what comes later."""

from __future__ import annotations

import json
from pickle import dumps

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from components.dictionary.architectures.relu import ReluConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import Dictionary, architectures, untrained
from components.dictionary.saved import DESCRIBES, is_pickle
from components.errors import DictionaryError, UnknownNameError
from components.store.shards import Codes
from tests import toys
from tests.planted import HOOK, directions, rows

OPTIONS = (TopKConfig(d_sae=48, k=5), ReluConfig(d_sae=48))
X = rows(300, directions())


def begun(options, x=X, seed=0):
    return untrained(
        options, HOOK, {HOOK: x.shape[1]}, {HOOK: x}, torch.Generator().manual_seed(seed)
    )


def test_an_unknown_architecture_lists_the_known_and_the_nearest():
    with pytest.raises(
        UnknownNameError,
        match=r"no architecture named 'topkk'; known: .*relu.*topk.*; did you mean 'topk'",
    ):
        architectures["topkk"]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.kind)
def test_the_scale_makes_the_mean_norm_the_root_of_the_width(options):
    dictionary = begun(options)
    assert dictionary.scaled({HOOK: X})[HOOK].norm(dim=1).mean().item() == pytest.approx(
        24**0.5, rel=1e-5
    )


@given(st.floats(1e-3, 1e3), st.sampled_from(OPTIONS))
@settings(max_examples=20, deadline=None)
def test_activations_in_other_units_give_the_same_codes_in_those_units(factor, options):
    plain, other = begun(options), begun(options, X * factor)
    assert other.scale * factor == pytest.approx(plain.scale, rel=1e-4)
    codes, scaled = plain.encode(X[:20]), other.encode(X[:20] * factor)
    torch.testing.assert_close(scaled.dense() / factor, codes.dense(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        other.decode(scaled) / factor, plain.decode(codes), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(other.decoder_directions(), plain.decoder_directions())


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.kind)
def test_decoding_is_bias_plus_codes_times_directions_in_activation_units(options):
    dictionary = begun(options)
    codes = dictionary.encode(X[:20])
    bias = dictionary.decode(Codes.from_dense(torch.zeros(1, 48)))
    torch.testing.assert_close(
        dictionary.decode(codes), bias + codes.dense() @ dictionary.decoder_directions()
    )
    torch.testing.assert_close(bias[0] * dictionary.scale, dictionary.b_dec.detach())


def test_the_decoder_bias_starts_at_the_geometric_median_in_scaled_units():
    outliers = torch.cat([X, torch.full((6, 24), 500.0)])
    dictionary = begun(OPTIONS[0], outliers)
    bias = dictionary.decode(Codes.from_dense(torch.zeros(1, 48)))[0]
    assert (bias - X.mean(0)).norm() < 0.3 * (outliers.mean(0) - X.mean(0)).norm()


def test_two_lines_from_python(tmp_path):
    begun(OPTIONS[0]).save(tmp_path)
    dictionary = Dictionary.load(tmp_path)
    assert dictionary.decode(dictionary.encode(X)).shape == X.shape
    described = json.loads((tmp_path / "dictionary.json").read_text())
    assert described["options"] == OPTIONS[0].model_dump(mode="json")
    assert (described["d_in"], described["dtype"], described["reads"]) == (24, "float32", [HOOK])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dictionary.json",
        "dictionary.safetensors",
    ]


def test_many_rows_are_encoded_in_bounded_pieces(monkeypatch):
    whole = begun(OPTIONS[0]).encode(X)
    monkeypatch.setattr("components.dictionary.contract._ENTRIES_AT_ONCE", 48 * 7)
    pieces = begun(OPTIONS[0]).encode(X)
    torch.testing.assert_close(pieces.dense(), whole.dense())
    assert begun(OPTIONS[0]).encode(X[:0]).n_rows == 0


def test_half_precision_activations_are_read_in_the_dictionarys_dtype():
    dictionary = begun(OPTIONS[1])
    low = dictionary.encode(X[:50].bfloat16())
    assert low.values.dtype == torch.float32
    torch.testing.assert_close(low.dense(), dictionary.encode(X[:50].bfloat16().float()).dense())


# Errors.


def test_activations_of_another_width_are_refused_in_words():
    wanted = (
        r"dictionary topk-48-k5 was trained at resid_post\.1 with d_in 24, got activations of width 16; "
        "use activations of the model it was trained on, or train one on these"
    )
    with pytest.raises(DictionaryError, match=wanted):
        begun(OPTIONS[0]).encode(torch.zeros(3, 16))


def test_a_missing_hook_point_is_named():
    with pytest.raises(
        DictionaryError, match=r"reads resid_post\.1, got activations at mlp_out\.0; capture that"
    ):
        begun(OPTIONS[0]).encode({"mlp_out.0": X})


def test_codes_of_a_dictionary_of_another_size_are_refused():
    with pytest.raises(DictionaryError, match="has 48 latents, got codes over 7"):
        begun(OPTIONS[0]).decode(Codes.from_dense(torch.zeros(1, 7)))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_activations_are_refused(value):
    with pytest.raises(
        DictionaryError, match=r"the 9 activations sampled at resid_post\.1 are all equal"
    ):
        begun(OPTIONS[0], torch.full((9, 24), value))


def test_a_folder_without_a_dictionary_says_what_was_wanted(tmp_path):
    with pytest.raises(
        DictionaryError, match=r"wanted dictionary\.json and dictionary\.safetensors"
    ):
        Dictionary.load(tmp_path)


def test_truncated_missing_or_transposed_tensors_are_refused(tmp_path):
    dictionary = begun(OPTIONS[0])
    dictionary.save(tmp_path)
    weights = {name: tensor.clone() for name, tensor in dictionary.state_dict().items()}
    path = tmp_path / "dictionary.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DictionaryError, match="no dictionary in"):
        Dictionary.load(tmp_path)
    save_file(weights | {"W_enc": weights["W_enc"].T.contiguous()}, path)
    with pytest.raises(
        DictionaryError, match=r"wanted tensors of shapes .*'W_enc': \(48, 24\).*found"
    ):
        Dictionary.load(tmp_path)
    weights.pop("b_dec")
    save_file(weights, path)
    with pytest.raises(DictionaryError, match="wanted tensors of shapes"):
        Dictionary.load(tmp_path)


@pytest.mark.parametrize("name", DESCRIBES)
def test_a_description_that_lacks_something_is_damaged(tmp_path, name):
    begun(OPTIONS[0]).save(tmp_path)
    path = tmp_path / "dictionary.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in description.items() if key != name}))
    with pytest.raises(
        DictionaryError, match=rf"dictionary\.json is damaged: it lacks {name}; take the file from"
    ):
        Dictionary.load(tmp_path)


@pytest.mark.parametrize("damage", [b"[]", b"3", b"\xff\xfe", b"{"])
def test_a_description_that_is_none_is_refused(tmp_path, damage):
    begun(OPTIONS[0]).save(tmp_path)
    (tmp_path / "dictionary.json").write_bytes(damage)
    with pytest.raises(DictionaryError, match="is damaged|no dictionary in"):
        Dictionary.load(tmp_path)


def test_a_newer_format_is_refused(tmp_path):
    begun(OPTIONS[0]).save(tmp_path)
    path = tmp_path / "dictionary.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(DictionaryError, match="has format 99, this version reads up to 1"):
        Dictionary.load(tmp_path)


def test_the_bytes_of_an_artifact_are_verified(store):
    made = toys.artifact(
        store, "train", lambda folder: begun(OPTIONS[0]).save(folder), {"name": "topk-48-k5"}
    )
    assert Dictionary.load(made).name == "topk-48-k5"
    path = made.folder / "dictionary.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(Exception, match=r"dictionary\.safetensors is damaged"):
        Dictionary.load(made)


def test_a_pickle_is_refused_with_the_reason_and_the_way_round(tmp_path):
    """Real pickles: none of them is read, under whatever name it comes."""
    pickled = dumps({"W_dec": [1.0]})
    (tmp_path / "as_safetensors").mkdir()
    (tmp_path / "as_safetensors" / "dictionary.safetensors").write_bytes(pickled)
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "ae.pt").write_bytes(pickled)
    (tmp_path / "sae.pth").write_bytes(pickled)
    for name in ("as_safetensors", "beside", "sae.pth"):
        with pytest.raises(
            DictionaryError, match=r"is a pickle, which can run any code when it is read"
        ) as caught:
            Dictionary.load(tmp_path / name)
        assert "write its tensors with safetensors.torch.save_file" in str(caught.value)


def test_a_safetensors_file_that_begins_like_a_pickle_is_none(tmp_path):
    """The length of a header may be 0x280: the first bytes of a pickle of protocol 2."""
    (tmp_path / "x.safetensors").write_bytes(
        (0x280).to_bytes(8, "little") + b"{" + b" " * (0x280 - 2) + b"}"
    )
    assert load_file(tmp_path / "x.safetensors") == {} and not is_pickle(tmp_path / "x.safetensors")
