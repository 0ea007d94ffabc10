"""Vectors from a file as latents: thresholds by hand, the share of active tokens, the key, and what
is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from components.config import load
from components.dictionary.architectures.vectors import Vectors, VectorsConfig, read
from components.dictionary.contract import Dictionary, untrained
from components.dictionary.settings import TrainConfig
from components.dictionary.train import TRAIN
from components.errors import DictionaryError
from components.evaluation.contract import evaluations
from components.store.artifact import key_of
from components.sweep import SweepConfig, cells
from tests import toys
from tests.evaluation import bench
from tests.planted import HOOK, directions, rows

PLANTED = directions()
X = rows(4000, PLANTED)


def begun(path, x=X, **options):
    config = VectorsConfig(path=str(path), **options)
    return untrained(config, HOOK, {HOOK: x.shape[1]}, {HOOK: x}, torch.Generator())


def written(folder, tensors, name="mine.safetensors"):
    save_file(tensors, folder / name)
    return folder / name


def test_a_hand_computed_example(tmp_path):
    # around the mean (2, 0) the ten rows lie at -4.5 to 4.5 along the first axis; the vector counts
    # by its direction alone
    x = torch.stack([torch.arange(10.0) - 2.5, torch.zeros(10)], dim=1)
    dictionary = begun(written(tmp_path, {"v": torch.tensor([6.0, 0.0])}), x, density=0.2)
    codes = dictionary.encode(x)
    assert codes.dense().flatten().tolist() == pytest.approx([0] * 8 + [3.5, 4.5])
    assert dictionary.decode(codes)[9].tolist() == pytest.approx([6.5, 0])
    assert dictionary.decoder_directions()[0].tolist() == pytest.approx([1, 0])


@pytest.mark.parametrize("density", [0.01, 0.1])
def test_every_vector_is_active_on_its_share_of_the_tokens(tmp_path, density):
    dictionary = begun(written(tmp_path, {"v": PLANTED}), density=density)
    shares = (dictionary.encode(X).dense() > 0).float().mean(0)
    assert shares.numpy() == pytest.approx(np.full(40, density), abs=1e-3)


def test_a_share_above_half_leaves_thresholds_at_zero(tmp_path):
    dictionary = begun(written(tmp_path, {"v": PLANTED}), density=0.9)
    assert not dictionary.threshold.any() and (dictionary.encode(X).values > 0).all()


def test_the_latent_of_a_planted_direction_follows_it(tmp_path):
    planted = directions(n=1)
    present = torch.arange(1000) % 50 == 0
    x = 0.1 * torch.randn(1000, 24, generator=torch.Generator().manual_seed(3))
    x += 5 * present[:, None] * planted
    dictionary = begun(written(tmp_path, {"v": 0.1 * planted}), x, density=0.02)
    assert torch.equal(dictionary.encode(x).dense()[:, 0] > 0, present)


def test_vectors_stand_in_the_order_of_their_names(tmp_path):
    path = written(tmp_path, {"sea": PLANTED[0], "anger": PLANTED[1], "many": PLANTED[2:5]})
    torch.testing.assert_close(read(str(path))[0], PLANTED[[1, 2, 3, 4, 0]])
    np.save(tmp_path / "matrix.npy", PLANTED.double().numpy())
    torch.testing.assert_close(read(str(tmp_path / "matrix.npy"))[0], PLANTED)


def test_latents_keep_the_names_of_their_vectors(tmp_path):
    path = written(tmp_path, {"sea": PLANTED[0], "anger": PLANTED[1], "many": PLANTED[2:4]})
    begun(path).save(tmp_path / "saved")
    path.unlink()
    named = ("anger", "many[0]", "many[1]", "sea")
    assert Dictionary.load(tmp_path / "saved").latent_names == named
    np.save(tmp_path / "matrix.npy", PLANTED.double().numpy())
    begun(tmp_path / "matrix.npy").save(tmp_path / "unnamed")
    assert Dictionary.load(tmp_path / "unnamed").latent_names == ()


def test_numbers_in_names_count_as_numbers(tmp_path):
    path = written(tmp_path, {f"latent_{i}": PLANTED[i] for i in range(12)})
    torch.testing.assert_close(read(str(path))[0], PLANTED[:12])


def test_a_direction_is_one_whatever_its_length_and_type(tmp_path):
    for factor in (1e-300, 1e300):
        np.save(tmp_path / "wide.npy", PLANTED.double().numpy() * factor)
        torch.testing.assert_close(read(str(tmp_path / "wide.npy"))[0], PLANTED)
    path = written(tmp_path, {"v": PLANTED.bfloat16()})
    torch.testing.assert_close(read(str(path))[0], PLANTED, atol=0.01, rtol=0)


def test_vectors_that_are_off_their_share_are_told_of(tmp_path, caplog):
    x = X.clone()
    x[::50] = x.mean(0) + 9 * PLANTED[0]  # two tokens in a hundred lie equally far along it
    begun(written(tmp_path, {"v": PLANTED[:1]}), x, density=0.01)
    assert "1 of 1 vectors are not active on a share of 0.01 of the tokens" in caplog.text


def test_a_sweep_takes_it_only_where_it_is_listed_and_at_its_own_size(tmp_path):
    options = {"kind": "vectors", "path": str(written(tmp_path, {"v": PLANTED}))}
    assert "vectors" not in {cell.label for cell in cells(TrainConfig(), SweepConfig())}
    listed = load(SweepConfig, {"dictionaries": {"mine": options}, "widths": [64, 128]})
    assert [cell.name for cell in cells(TrainConfig(), listed)] == ["mine-40-density=0.01-seed0"]


def test_a_saved_one_loads_without_the_file(tmp_path):
    path = written(tmp_path, {"v": PLANTED})
    dictionary = begun(path)
    dictionary.save(tmp_path / "saved")
    path.unlink()
    loaded = Dictionary.load(tmp_path / "saved")
    assert isinstance(loaded, Vectors) and (loaded.d_sae, loaded.name) == (40, "vectors-40-d0.01")
    assert torch.equal(loaded.encode(X).values, dictionary.encode(X).values)


def test_other_bytes_under_the_same_name_are_another_dictionary(tmp_path, store):
    captured = toys.activations(store, {"train": {HOOK: X}, "validate": {HOOK: X[:100]}}, None, 250)
    config = TrainConfig(dictionary=VectorsConfig(path=str(written(tmp_path, {"v": PLANTED}))))
    first = key_of(TRAIN, config, {"activations": captured})
    written(tmp_path, {"v": -PLANTED})
    assert key_of(TRAIN, config, {"activations": captured}) != first
    written(tmp_path, {"v": PLANTED})
    assert key_of(TRAIN, config, {"activations": captured}) == first


def test_what_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", PLANTED.numpy())
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    named = {
        "several.npy": "is no matrix of numbers",
        "": "set train.dictionary.path to it",
        "absent.npy": "no file .*absent.npy; set train.dictionary.path",
        "mine.pt": "wanted a file of the kinds .safetensors, .npy",
        "broken.safetensors": "is no safetensors file",
        "objects.npy": "is no matrix of numbers",
    }
    for name, message in named.items():
        with pytest.raises(DictionaryError, match=message):
            read(str(tmp_path / name) if name else "")
    held = [
        (
            {"a": torch.zeros(2, 24), "b": PLANTED},
            r"2 of 42 vectors have no direction, .* \('a\[0\]'",
        ),
        ({"a": torch.full((24,), torch.nan)}, "1 of 1 vectors have no direction"),
        ({"a": PLANTED, "b": torch.ones(3)}, r"of one width, found a \[40, 24\], b \[3\]"),
        ({"a": torch.ones(2, 2, 2)}, r"found a \[2, 2, 2\]"),
        ({"a": torch.tensor(1.0)}, r"found a \[\]"),
        ({"a": torch.zeros(0, 24)}, r"found a \[0, 24\]"),
        ({"a": torch.zeros(3, 0)}, r"found a \[3, 0\]"),
        ({"a": torch.ones(3, 24, dtype=torch.complex64)}, r"found a \[3, 24\] complex"),
    ]
    for tensors, message in held:
        with pytest.raises(DictionaryError, match=message):
            read(str(written(tmp_path, tensors)))


def test_vectors_of_another_width_or_number_are_refused(tmp_path):
    path = written(tmp_path, {"v": torch.ones(3, 8)})
    with pytest.raises(DictionaryError, match="holds 3 vectors of width 8, wanted 3 of width 24"):
        begun(path)
    path = written(tmp_path, {"v": PLANTED})
    with pytest.raises(DictionaryError, match="holds 40 vectors .* wanted 7 .*leave .* at 0"):
        begun(path, d_sae=7)


def test_it_is_configured_by_name():
    options = {"dictionary": {"kind": "vectors", "path": "mine.npy", "density": 0.05}}
    assert load(TrainConfig, options).dictionary == VectorsConfig(path="mine.npy", density=0.05)


@pytest.mark.parametrize("evaluation", ["reconstruction", "loss_recovered", "description_length"])
def test_no_score_says_how_near_vectors_come_to_an_activation(tmp_path, store, evaluation):
    path = written(tmp_path, {"v": torch.eye(bench.D_IN)[:5]})
    options = VectorsConfig(path=str(path))
    sample = torch.randn(500, bench.D_IN, generator=torch.Generator().manual_seed(0))
    at = bench.HOOK_POINT
    vectors = untrained(options, at, {at: bench.D_IN}, {at: sample}, torch.Generator())
    kind = evaluations[evaluation]
    scores, _ = bench.measure(
        kind(kind.config(), bench.services()), bench.of_model(store, tmp_path, vectors)
    )
    found = {name: score for (name, _), score in scores.items()}
    told = {name for name, score in found.items() if score.interval.value is not None}
    assert told == ({"l0", "dead_share"} if evaluation == "reconstruction" else set())
    assert all("add up to" in found[name].reason for name in found.keys() - told)
