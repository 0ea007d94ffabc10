"""Other projects' files become dictionaries that compute what the files say; what cannot is refused
in a sentence."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from components.dictionary.contract import Dictionary, architectures
from components.dictionary.interchange.contract import formats
from components.dictionary.interchange.exchange import bring, deviation
from components.dictionary.interchange.files import conversion
from components.errors import DictionaryError, UnknownNameError
from tests import foreign
from tests.foreign import D_IN, D_SAE, K

# the release's name tells, no other
GEMMA = "my-transcoders/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
X = 3 * torch.randn(400, D_IN, generator=torch.Generator().manual_seed(9)) + 0.5
FOLDERS = {
    "saelens standard": ("saelens", "relu", lambda to, w: foreign.saelens(to, "standard", w)),
    "saelens standard uncentred": (
        "saelens",
        "relu",
        lambda to, w: foreign.saelens(to, "standard", w, apply_b_dec_to_input=False),
    ),
    "saelens topk": ("saelens", "topk", lambda to, w: foreign.saelens(to, "topk", w)),
    "saelens topk by norm": (
        "saelens",
        "topk",
        lambda to, w: foreign.saelens(to, "topk", w, rescale_acts_by_decoder_norm=True),
    ),
    "saelens gated": ("saelens", "gated", lambda to, w: foreign.saelens(to, "gated", w)),
    "saelens gated uncentred": (
        "saelens",
        "gated",
        lambda to, w: foreign.saelens(to, "gated", w, apply_b_dec_to_input=False),
    ),
    "saelens jumprelu": (
        "saelens",
        "jumprelu",
        lambda to, w: foreign.saelens(to, "jumprelu", w, apply_b_dec_to_input=False),
    ),
    "sparsify": ("sparsify", "topk", lambda to, w: foreign.sparsify(to / "layers.1", w)),
    **{
        f"dictionary_learning {kind}": (
            "dictionary_learning",
            ours,
            lambda to, w, kind=kind: foreign.dictionary_learning(to, kind, w),
        )
        for kind, ours in {
            "AutoEncoder": "relu",
            "AutoEncoderNew": "relu",
            "AutoEncoderTopK": "topk",
            "GatedAutoEncoder": "gated",
            "BatchTopKSAE": "batch_topk",
            "MatryoshkaBatchTopKSAE": "matryoshka",
            "JumpReluAutoEncoder": "jumprelu",
        }.items()
    },
    "gemma_scope": ("gemma_scope", "jumprelu", lambda to, w: foreign.gemma_scope(to / GEMMA, w)),
    **{
        f"llama_scope {act_fn} {by_norm}": (
            "llama_scope",
            act_fn,
            lambda to, w, act_fn=act_fn, by_norm=by_norm: foreign.llama_scope(
                to, act_fn, w, sparsity_include_decoder_norm=by_norm
            ),
        )
        for act_fn in ("relu", "topk", "jumprelu")
        for by_norm in (True, False)
    },
    "llama_scope release": ("llama_scope", "jumprelu", foreign.llama_scope_release),
}
known = [name for name, (_, kind, _) in FOLDERS.items() if kind in architectures.names()]


def format_of(name):
    return formats[name]()


@pytest.mark.parametrize("name", known)
def test_a_file_becomes_a_dictionary_that_computes_what_the_file_says(name, tmp_path):
    format_, kind, write = FOLDERS[name]
    folder = write(tmp_path, foreign.numbers())
    dictionary = bring(format_of(format_), folder, X)
    assert dictionary.kind == kind and (dictionary.d_in, dictionary.d_sae) == (D_IN, D_SAE)
    codes, rebuilt = format_of(format_).as_peer(folder, X)
    ours = dictionary.encode(X)
    assert codes.count_nonzero() > len(X), "the test has codes to compare"
    assert (
        deviation(ours.dense(), codes) < 1e-5 and deviation(dictionary.decode(ours), rebuilt) < 1e-5
    )
    assert dictionary.hook_point in ("blocks.1.hook_resid_post", "resid_post.1", "resid_post.20")


@pytest.mark.parametrize("name", known)
def test_what_is_imported_saves_and_loads_in_two_lines(name, tmp_path):
    format_, _, write = FOLDERS[name]
    bring(format_of(format_), write(tmp_path / "theirs", foreign.numbers()), X).save(
        tmp_path / "ours"
    )
    dictionary = Dictionary.load(tmp_path / "ours")
    rebuilt = dictionary.decode(dictionary.encode(X))
    assert rebuilt.shape == X.shape


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    d_in=st.integers(2, 9),
    d_sae=st.integers(K, 17),
    centred=st.booleans(),
)
def test_centring_is_folded_exactly_for_any_weights(seed, d_in, d_sae, centred, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    w = foreign.numbers(seed, d_in, d_sae)
    x = torch.randn(50, d_in, generator=torch.Generator().manual_seed(seed))
    for architecture in ("standard", "topk"):
        foreign.saelens(folder, architecture, w, apply_b_dec_to_input=centred)
        dictionary = bring(format_of("saelens"), folder, x)
        codes, _ = format_of("saelens").as_peer(folder, x.double())
        assert deviation(dictionary.encode(x).dense().double(), codes) < 1e-5


def test_the_peers_side_is_computed_from_the_file_alone_as_a_hand_computed_example_says(tmp_path):
    w = {
        "W_enc": torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]]),
        "W_dec": torch.tensor([[1.0, 1.0], [0.0, 1.0], [2.0, 0.0]]),
        "b_enc": torch.tensor([0.0, -1.0, 0.5]),
        "b_dec": torch.tensor([1.0, 0.0]),
    }
    foreign.saelens(
        tmp_path,
        "topk",
        w | dict.fromkeys(("threshold", "b_gate", "b_mag", "r_mag"), w["b_enc"]),
        k=1,
    )
    # x - b_dec = (2, 1): pre-activations 2, 1, -0.5; with (0, 1): 0, 1, 1.5
    codes, rebuilt = format_of("saelens").as_peer(tmp_path, torch.tensor([[3.0, 1.0], [1.0, 1.0]]))
    assert codes.tolist() == [[2.0, 0.0, 0.0], [0.0, 0.0, 1.5]]
    assert rebuilt.tolist() == [[3.0, 2.0], [4.0, 0.0]]


def test_a_topk_dictionary_of_saelens_before_version_6_is_not_read_as_relu(tmp_path):
    folder = foreign.saelens(tmp_path, "standard", foreign.numbers())
    config = json.loads((folder / "cfg.json").read_text())
    config |= {
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "hook_point": "blocks.2.hook_mlp_out",
    }
    del config["metadata"], config["architecture"]
    (folder / "cfg.json").write_text(json.dumps(config))
    dictionary = bring(format_of("saelens"), folder, X)
    assert (dictionary.kind, dictionary.options.k) == ("topk", 3)
    assert dictionary.hook_point == "blocks.2.hook_mlp_out"


def test_a_file_in_half_precision_is_read_as_the_numbers_it_holds(tmp_path):
    folder = foreign.sparsify(tmp_path / "layers.1", foreign.numbers())
    held = load_file(folder / "sae.safetensors")
    save_file(
        {name: tensor.bfloat16() for name, tensor in held.items()}, folder / "sae.safetensors"
    )
    dictionary = bring(format_of("sparsify"), folder, X)
    assert torch.equal(dictionary.W_dec, held["W_dec"].bfloat16().float())


def resized(folder, **tensors):
    """dictionary_learning's folder with other counts."""
    save_file(load_file(folder / "ae.safetensors") | tensors, folder / "ae.safetensors")
    return folder


REFUSED = {
    "saelens transcoder": (
        "saelens",
        lambda to, w: foreign.saelens(to, "standard", w, architecture="transcoder"),
        r"architecture 'transcoder' has no counterpart here; read are: standard, topk, jumprelu, gated",
    ),
    "saelens layer_norm": (
        "saelens",
        lambda to, w: foreign.saelens(to, "standard", w, normalize_activations="layer_norm"),
        r"its activations are normalised \(layer_norm\), token by token, which no weights can fold",
    ),
    "saelens scale": (
        "saelens",
        lambda to, w: foreign.saelens(
            to, "standard", w, normalize_activations="expected_average_only_in"
        ),
        r"the scale is not in the file: save it with SAELens's save_inference_model, which folds the scale",
    ),
    "saelens k": (
        "saelens",
        lambda to, w: foreign.saelens(to, "topk", w, k=D_SAE + 1),
        rf"holds no topk dictionary of {D_SAE} latents that can be: it has k = {D_SAE + 1}; .* there are only d_sae = {D_SAE}",
    ),
    "sparsify k": (
        "sparsify",
        lambda to, w: foreign.sparsify(to, w, k=0),
        "cfg.json: wanted a whole number k above 0, found 0",
    ),
    "dictionary_learning k": (
        "dictionary_learning",
        lambda to, w: resized(
            foreign.dictionary_learning(to, "BatchTopKSAE", w), k=torch.tensor(0)
        ),
        rf"holds no batch_topk dictionary of {D_SAE} latents that can be: it has k = 0; k Input should be greater than 0",
    ),
    "dictionary_learning k twice": (
        "dictionary_learning",
        lambda to, w: resized(
            foreign.dictionary_learning(to, "AutoEncoderTopK", w), k=torch.tensor([4, 5])
        ),
        r"ae.safetensors: wanted k as one whole number, found \[4, 5\]",
    ),
    "dictionary_learning groups": (
        "dictionary_learning",
        lambda to, w: resized(
            foreign.dictionary_learning(to, "MatryoshkaBatchTopKSAE", w),
            group_sizes=torch.tensor([8, 9]),
        ),
        rf"wanted group_sizes as whole numbers above 0 that add up to dict_size = {D_SAE}, found \[8, 9\]",
    ),
    "llama_scope k": (
        "llama_scope",
        lambda to, w: foreign.llama_scope(to, "topk", w, top_k=D_SAE + 1),
        rf"holds no topk dictionary of {D_SAE} latents that can be: it has k = {D_SAE + 1};",
    ),
    "sparsify transcoder": (
        "sparsify",
        lambda to, w: foreign.sparsify(to, w, transcode=True),
        "is a transcoder; only autoencoders are read",
    ),
    "sparsify skip": (
        "sparsify",
        lambda to, w: foreign.sparsify(to, w, skip_connection=True),
        "has a skip connection, which no dictionary here has",
    ),
    "sparsify groupmax": (
        "sparsify",
        lambda to, w: foreign.sparsify(to, w, activation="groupmax"),
        "activation 'groupmax' has no counterpart here; read is: topk",
    ),
    "dictionary_learning class": (
        "dictionary_learning",
        lambda to, w: foreign.dictionary_learning(to, "AutoEncoder", w, dict_class="CrossCoder"),
        "dict_class 'CrossCoder' has no counterpart here; read are: AutoEncoder, ",
    ),
    "dictionary_learning threshold": (
        "dictionary_learning",
        lambda to, w: foreign.dictionary_learning(
            to, "BatchTopKSAE", w | {"threshold": torch.tensor([-1.0])}
        ),
        r"its threshold is -1, so training stopped before it was ever set",
    ),
    "gemma_scope transcoder": (
        "gemma_scope",
        lambda to, w: foreign.gemma_scope(to / "gemma-scope-2b-pt-transcoders", w),
        "is a transcoder; only autoencoders are read",
    ),
    "llama_scope transcoder": (
        "llama_scope",
        lambda to, w: foreign.llama_scope(to, "relu", w, hook_point_out="blocks.1.hook_mlp_out"),
        r"is a transcoder \(blocks.1.hook_resid_post to blocks.1.hook_mlp_out\)",
    ),
    "llama_scope gated encoder": (
        "llama_scope",
        lambda to, w: foreign.llama_scope(to, "relu", w, use_glu_encoder=True),
        r"its encoder is gated \(use_glu_encoder\)",
    ),
    "llama_scope token-wise": (
        "llama_scope",
        lambda to, w: foreign.llama_scope(to, "relu", w, norm_activation="token-wise"),
        "its activations are normalised token-wise, which no weights can fold",
    ),
    "llama_scope crosscoder": (
        "llama_scope",
        lambda to, w: foreign.llama_scope(to, "relu", w, sae_type="crosscoder"),
        "sae_type 'crosscoder' has no counterpart here; read is: sae",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused_in_a_sentence(name, tmp_path):
    format_, write, said = REFUSED[name]
    with pytest.raises(DictionaryError, match=said):
        bring(format_of(format_), write(tmp_path, foreign.numbers()), X)


def damaged(folder, file, change):
    tensors = load_file(folder / file)
    save_file(
        {name: tensor.contiguous() for name, tensor in change(tensors).items()}, folder / file
    )
    return folder


TRAPS = {
    "transposed decoder": (
        lambda t: t | {"W_dec": t["W_dec"].T},
        rf"wanted W_dec of shape \[{D_SAE}, {D_IN}\], found \[{D_IN}, {D_SAE}\], which is transposed",
    ),
    "missing bias": (
        lambda t: {name: tensor for name, tensor in t.items() if name != "encoder.bias"},
        r"lacks encoder.bias: wanted encoder.weight, encoder.bias, W_dec, b_dec, found W_dec, b_dec, encoder.weight",
    ),
    "whole numbers": (
        lambda t: t | {"b_dec": t["b_dec"].int()},
        r"b_dec holds torch.int32, wanted floating-point numbers",
    ),
    "not a number": (
        lambda t: t | {"b_dec": t["b_dec"] / 0 * 0},
        r"b_dec holds NaN or infinity; the file is damaged",
    ),
    "another size": (
        lambda t: t | {"b_dec": t["b_dec"][:-1]},
        rf"wanted b_dec of shape \[{D_IN}\], found \[{D_IN - 1}\]$",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_damaged_file_is_refused_with_what_is_wrong(trap, tmp_path):
    change, said = TRAPS[trap]
    folder = damaged(foreign.sparsify(tmp_path, foreign.numbers()), "sae.safetensors", change)
    with pytest.raises(DictionaryError, match=said):
        bring(format_of("sparsify"), folder, X, "resid_post.1")


def test_a_pickle_is_refused_with_the_reason_and_the_way_round(tmp_path):
    folder = foreign.dictionary_learning(tmp_path, "AutoEncoder", foreign.numbers())
    tensors = load_file(folder / "ae.safetensors")
    (folder / "ae.safetensors").unlink()
    torch.save(tensors, folder / "ae.pt")
    with pytest.raises(
        DictionaryError, match=r"ae.pt is a pickle: loading it could run any code .* python -c"
    ) as told:
        bring(format_of("dictionary_learning"), folder, X)
    assert conversion("ae.pt", "ae.safetensors") in str(told.value)


def test_a_pickle_under_another_name_is_refused_too(tmp_path):
    folder = foreign.dictionary_learning(tmp_path, "AutoEncoder", foreign.numbers())
    torch.save({"bias": torch.zeros(1)}, folder / "ae.safetensors")
    with pytest.raises(DictionaryError, match="is a pickle under another name"):
        bring(format_of("dictionary_learning"), folder, X)


def test_the_way_round_works(tmp_path, monkeypatch):
    folder = foreign.dictionary_learning(tmp_path, "AutoEncoder", foreign.numbers())
    (folder / "ae.safetensors").rename(folder / "kept.safetensors")
    torch.save(load_file(folder / "kept.safetensors"), folder / "ae.pt")
    monkeypatch.chdir(folder)
    exec(conversion("ae.pt", "ae.safetensors"), {})
    assert bring(format_of("dictionary_learning"), folder, X).kind == "relu"


@pytest.mark.parametrize(
    "kind", ["AutoEncoder", "GatedAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE"]
)
@pytest.mark.parametrize("norm", [None, 7.0])
def test_the_way_round_works_for_a_backup_in_units_of_normalised_activations(
    kind, norm, tmp_path, monkeypatch
):
    folder = foreign.dictionary_learning(tmp_path, kind, foreign.numbers())
    trained = load_file(folder / "ae.safetensors")
    # of activations divided by the norm
    codes, rebuilt = format_of("dictionary_learning").as_peer(folder, X)
    (folder / "ae.safetensors").unlink()
    state = {"step": 5, "ae": trained, "optimizer": {"state": {}, "param_groups": []}, "config": {}}
    torch.save(state | {"norm_factor": norm}, folder / "ae.pt")
    monkeypatch.chdir(folder)
    exec(conversion("ae.pt", "ae.safetensors"), {})
    scale = norm or 1.0
    dictionary = bring(format_of("dictionary_learning"), folder, scale * X)
    ours = dictionary.encode(scale * X)
    assert deviation(ours.dense(), scale * codes) < 1e-5
    assert deviation(dictionary.decode(ours), scale * rebuilt) < 1e-5


def test_objects_in_an_npz_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    folder = tmp_path / GEMMA
    foreign.gemma_scope(folder, foreign.numbers(), b_dec=np.array([Trap()], dtype=object))
    with pytest.raises(
        DictionaryError,
        match="holds a pickle .b_dec is of Python objects.: loading it could run any",
    ):
        bring(format_of("gemma_scope"), folder, X)
    with pytest.raises(SystemExit, match="ran"):  # the trap is a real one
        np.load(folder / "params.npz", allow_pickle=True)["b_dec"]


def saved(save, array):
    """The bytes that a function writes of an array."""
    file = io.BytesIO()
    save(file, array)
    return file.getvalue()


NOT_NPZ = {
    "nothing": (b"", "params.npz is empty; fetch the file again"),
    "one array": (
        saved(np.save, np.zeros(3)),
        r"is one array \(npy\), wanted an archive of several \(npz\)",
    ),
    "text": (
        b"version https://git-lfs",
        "begins with b'versio', which no npz archive does; fetch the file again",
    ),
    "a pickle": (
        b"\x80\x04N.",
        "is a pickle under another name: loading it could run any code that is in it",
    ),
    "torch's pickle": (
        saved(lambda file, array: torch.save(array, file), torch.zeros(3)),
        r"is a pickle under another name \(it holds .*data.pkl\): loading it could run any code",
    ),
    "half an archive": (saved(np.savez, np.zeros(99))[:200], "is no npz archive, or a damaged one"),
    "words": (
        saved(lambda file, array: np.savez(file, W_enc=array), np.array(["a"])),
        "W_enc holds <U1, wanted floating-point numbers",
    ),
    "one number": (
        saved(lambda file, array: np.savez(file, W_enc=array, b_dec=array), np.float32(1)),
        r"wanted W_enc of shape \[d_in, d_sae\] and b_dec of shape \[d_in\], found \[\] and \[\]",
    ),
    "a changed byte": (
        saved(np.savez, np.zeros(99)).replace(b"\0" * 99, b"\1" * 99, 1),
        r"is no npz archive, or a damaged one \(Bad CRC-32",
    ),
    "nothing in it": (
        saved(lambda file, array: np.savez(file), None),
        "lacks W_enc or b_dec: found none",
    ),
}


@pytest.mark.parametrize("came", NOT_NPZ)
def test_what_is_no_npz_archive_is_refused_as_what_it_is(came, tmp_path):
    content, said = NOT_NPZ[came]
    (tmp_path / "params.npz").write_bytes(content)
    with pytest.raises(DictionaryError, match=said):
        bring(format_of("gemma_scope"), tmp_path, X, "resid_post.1")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("saelens topk", "cfg.json"),
        ("sparsify", "cfg.json"),
        ("dictionary_learning MatryoshkaBatchTopKSAE", "config.json"),
        ("llama_scope topk True", "config.json"),
        ("llama_scope release", "hyperparams.json"),
    ],
)
def test_whatever_the_settings_hold_is_read_or_refused_in_a_sentence(name, file, tmp_path):
    format_, _, write = FOLDERS[name]
    folder = write(tmp_path, foreign.numbers())
    kept = json.loads((folder / file).read_text())
    n_refused = 0
    for keys in [
        (),
        *((key,) for key in kept),
        *((key, inner) for key in kept for inner in inside(kept[key])),
    ]:
        for value in (None, 0, -1, True, 1.5, 10**6, "x", [], {}):
            changed = json.loads(json.dumps(kept))
            place = changed
            for key in keys[:-1]:
                place = place[key]
            if keys:
                place[keys[-1]] = value
            (folder / file).write_text(json.dumps(changed if keys else value))
            try:
                bring(format_of(format_), folder, X)
            except DictionaryError:
                n_refused += 1
    assert n_refused > 20


def inside(value):
    return value if isinstance(value, dict) else ()


def test_activations_of_another_width_are_refused_by_name(tmp_path):
    folder = foreign.saelens(tmp_path, "topk", foreign.numbers())
    with pytest.raises(
        DictionaryError, match=rf"has d_in {D_IN}, got activations of width 7 at .*made for \(toy\)"
    ):
        bring(format_of("saelens"), folder, torch.zeros(3, 7))


def test_a_file_that_does_not_say_where_it_reads_needs_to_be_told(tmp_path):
    folder = foreign.sparsify(tmp_path / "somewhere", foreign.numbers())
    with pytest.raises(
        DictionaryError, match="does not say at which hook point its dictionary reads; give it"
    ):
        bring(format_of("sparsify"), folder, X)
    assert bring(format_of("sparsify"), folder, X, "mlp_out.3").hook_point == "mlp_out.3"


def test_a_folder_without_the_files_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(
        DictionaryError,
        match=r"no cfg.json in .*; it holds notes.txt; give the folder that holds it",
    ):
        bring(format_of("saelens"), tmp_path, X)
    with pytest.raises(
        UnknownNameError, match="no format named 'saelense'; known: .*did you mean 'saelens'"
    ):
        formats["saelense"]


@pytest.mark.parametrize(
    ("folder", "place"),
    [
        ("layers.10", "resid_post.10"),
        ("h.3.mlp", "mlp_out.3"),
        ("layers.4.self_attn", "attn_out.4"),
        ("other", ""),
    ],
)
def test_sparsifys_folder_names_are_places(folder, place, tmp_path):
    assert (
        format_of("sparsify")
        .read(foreign.sparsify(tmp_path / folder, foreign.numbers()))
        .hook_point
        == place
    )


def test_an_import_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    folder = foreign.saelens(tmp_path, "topk", foreign.numbers())
    Format = type(format_of("saelens"))
    honest = Format.as_peer
    monkeypatch.setattr(Format, "as_peer", lambda self, folder, x: honest(self, folder, x + 0.1))
    with pytest.raises(
        DictionaryError,
        match=r"the import of topk-20-k4 .* does not compute the same: codes differ by",
    ):
        bring(format_of("saelens"), folder, X)


def test_a_tie_that_folding_decides_is_no_deviation_but_a_wrong_row_in_a_hundred_is():
    ours = torch.ones(400, 3)
    one_row, five_rows = ours.clone(), ours.clone()
    one_row[0], five_rows[:5] = 7.0, 7.0
    assert deviation(ours, one_row) == 0 and deviation(ours, five_rows) > 0.1
    assert deviation(ours, torch.full_like(ours, torch.nan)) != deviation(ours, ours)
