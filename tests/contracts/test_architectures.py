"""Laws for every registered architecture. A new file in the table is held to them with no edit
here.

`OPTIONS` only says how sparse an entry has to be for the planted data; an entry that is not listed
takes its defaults. `FORMS` are further forms of an entry, held to the same laws.
"""

from __future__ import annotations

import functools

import pytest
import torch

from components.device import Execution
from components.dictionary.contract import Dictionary, Moment, architectures, untrained
from components.dictionary.encode import ENCODE, EncodeConfig
from components.dictionary.fit import evaluate
from components.dictionary.learner import Learner
from components.dictionary.settings import TrainConfig
from components.dictionary.train import TRAIN, control, make
from components.store.shards import CodeShards
from components.store.tables import LATENTS
from tests import toys
from tests.planted import HOOK, directions, recovered, rows

D_IN, D_SAE = 24, 64
SPARSE = {"k": 3}
OPTIONS = {
    "vectors": {"path": toys.vectors(D_SAE, D_IN)},
    "relu": {"l1": 2.0},
    "gated": {"l1": 3.0},
    "jumprelu": {"target_l0": 3.0},
    "matryoshka": {"prefixes": (0.75, 1.0), "weights": (0.5, 0.5)},
}
FORMS = {
    "relu+unit": {"l1": 2.0, "decoder": "unit"},
    "topk+multi": {"multi_topk_coefficient": 0.125},
    "jumprelu+l0": {"penalty": "l0", "coefficient": 0.5, "target_l0": 3.0},
    "jumprelu+tanh": {"penalty": "tanh", "coefficient": 0.3, "target_l0": 3.0},
}
PLANTED = directions(d=D_IN)
X, HELD_OUT = rows(6000, PLANTED), rows(500, PLANTED, seed=9)


def options(form):
    """Three latents a token where an entry counts them, 64 latents where their number does not
    follow from the width."""
    fields = entry(form).config.model_fields
    chosen = {name: value for name, value in (SPARSE | {"d_sae": D_SAE}).items() if name in fields}
    return entry(form).config(**(chosen | (OPTIONS | FORMS).get(form, {})))


def entry(form):
    return architectures[form.partition("+")[0]]


def names(form):
    """Everything that it reads or reconstructs; every name has the same rows here."""
    reads, reconstructs = entry(form).wiring(options(form), HOOK)
    return tuple(dict.fromkeys((*reads, *reconstructs)))


def written(form):
    """What `decode` gives by default."""
    return entry(form).wiring(options(form), HOOK)[1][0]


def batch(form, x):
    return dict.fromkeys(names(form), x)


def captured(store, form):
    rows = {"train": X[:600], "validate": HELD_OUT[:100]}
    splits = {
        split: {name: x.clone() for name, x in batch(form, part).items()}
        for split, part in rows.items()
    }
    return toys.activations(store, splits, None, 250)


def explained(form, dictionary):
    return 1 - evaluate(dictionary, [batch(form, HELD_OUT)])["fvu"]


def share_recovered(dictionary):
    return (recovered(PLANTED, dictionary.decoder_directions()) > 0.9).float().mean().item()


def begun(form, seed=0):
    return untrained(
        options(form), HOOK, batch(form, D_IN), batch(form, X), torch.Generator().manual_seed(seed)
    )


def config(form, **changes):
    defaults = {"tokens": 100_000, "batch_size": 250, "lr": 1e-2, "dead_after": 5000}
    return TrainConfig(dictionary=options(form), **(defaults | changes))


@functools.cache
def trained(form):
    """One trained dictionary and its loss at the beginning and at the end (none without gradients),
    for all the laws."""
    learner = Learner(begun(form), config(form))
    losses = []
    for step in range(learner.steps):
        learner.learn(batch(form, X[torch.arange(step * 250, step * 250 + 250) % len(X)]))
        if step in (4, learner.steps - 1):
            losses.append(learner.metrics().get("loss.reconstruction"))
    learner.dictionary.finish()
    return learner.dictionary, *(losses or (None, None))


pytestmark = pytest.mark.parametrize("form", [*architectures.names(), *FORMS])


def test_its_name_is_its_files_and_its_configs(form):
    assert entry(form).kind == form.partition("+")[0] == options(form).kind
    assert begun(form).name.startswith(f"{entry(form).kind}-")
    assert architectures.version(entry(form).kind) >= 1


def test_every_option_has_its_sentence(form):
    fields = entry(form).config.model_fields
    assert all(field.description and len(field.description) > 10 for field in fields.values())


def test_shapes(form):
    dictionary = begun(form)
    codes = dictionary.encode(batch(form, HELD_OUT))
    d_sae = dictionary.d_sae
    assert d_sae == entry(form).size(options(form), D_IN)
    assert (codes.n_rows, codes.d_sae) == (500, d_sae) and (codes.values > 0).all()
    assert dictionary.decode(codes).shape == HELD_OUT.shape
    assert dictionary.decoder_directions().shape == (d_sae, D_IN)
    outcome = dictionary.loss(
        batch(form, X[:50]), Moment(0, 10, torch.zeros(d_sae).bool(), torch.Generator())
    )
    assert ("reconstruction" in outcome.losses) == (entry(form).learns == "gradients")
    assert all(term.shape == () for term in outcome.losses.values())
    assert outcome.fired.shape == (d_sae,) and outcome.reconstruction[written(form)].shape == (
        50,
        D_IN,
    )


def test_training_and_encoding_agree_on_codes_and_reconstruction(form):
    if not entry(form).trains_as_it_encodes:
        pytest.skip("the tokens of a training batch share a budget of latents")
    dictionary, *_ = trained(form)
    moment = Moment(10**6, 10**6, torch.zeros(dictionary.d_sae).bool(), torch.Generator())
    outcome = dictionary.loss(batch(form, HELD_OUT), moment)
    codes = dictionary.encode(batch(form, HELD_OUT))
    rebuilt = outcome.reconstruction[written(form)].detach() / dictionary.scales[written(form)]
    torch.testing.assert_close(dictionary.decode(codes), rebuilt, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outcome.fired, (codes.dense() != 0).sum(0).float())


def test_decoding_is_linear_in_the_codes(form):
    dictionary, *_ = trained(form)
    codes = dictionary.encode(batch(form, HELD_OUT[:20]))
    empty = dictionary.encode(batch(form, HELD_OUT[:20])).rows(0, 0)
    assert dictionary.decode(empty).shape == (0, D_IN)
    differences = dictionary.decode(codes).diff(dim=0)
    torch.testing.assert_close(
        differences,
        codes.dense().diff(dim=0) @ dictionary.decoder_directions(),
        atol=1e-4,
        rtol=1e-4,
    )


def test_one_row_encodes_as_in_a_batch(form):
    dictionary, *_ = trained(form)
    together = dictionary.encode(batch(form, HELD_OUT[:30])).dense()
    alone = torch.cat([dictionary.encode(batch(form, row[None])).dense() for row in HELD_OUT[:30]])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


def test_what_is_saved_is_what_is_loaded(form, tmp_path):
    dictionary, *_ = trained(form)
    dictionary.save(tmp_path)
    loaded = Dictionary.load(tmp_path)
    assert type(loaded) is type(dictionary) and loaded.options == dictionary.options
    assert (loaded.scales, loaded.reads, loaded.name) == (
        dictionary.scales,
        dictionary.reads,
        dictionary.name,
    )
    before, after = dictionary.encode(batch(form, HELD_OUT)), loaded.encode(batch(form, HELD_OUT))
    assert torch.equal(before.values, after.values) and torch.equal(before.indices, after.indices)
    assert torch.equal(dictionary.decode(before), loaded.decode(after))


def test_the_same_seed_gives_the_same_dictionary_and_another_seed_another(form):
    first, again, other = begun(form), begun(form), begun(form, seed=1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )
    if entry(form).learns == "gradients":  # a baseline may have nothing to draw
        assert any(
            not torch.equal(a, b)
            for a, b in zip(first.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_its_control_is_untrained_of_its_size_and_of_its_wiring(form):
    """What stands beside it in every score: as many latents, as sparse, at the same hook points,
    nothing learnt."""
    trained_one, *_ = trained(form)
    measured = evaluate(trained_one, [batch(form, HELD_OUT)])
    facts = {
        "architecture": trained_one.kind,
        "d_sae": trained_one.d_sae,
        "l0": measured["l0"],
        "hook_point": trained_one.hook_point,
        "reads": list(trained_one.reads),
        "reconstructs": list(trained_one.reconstructs),
    }
    beside = control(config(form), facts)
    assert beside.updates == 0
    bare = untrained(
        beside.dictionary, beside.hook_point, batch(form, D_IN), batch(form, X), torch.Generator()
    )
    assert (bare.d_sae, bare.reads, bare.reconstructs) == (
        trained_one.d_sae,
        trained_one.reads,
        trained_one.reconstructs,
    )
    sparse = evaluate(bare, [batch(form, HELD_OUT)])["l0"]
    assert sparse == pytest.approx(max(1, measured["l0"]), abs=1)


def test_learning_does_what_the_entry_says(form):
    """Gradients: the loss falls. Statistics: more variance is explained. Nothing: first values are
    last values."""
    dictionary, before, after = trained(form)
    match entry(form).learns:
        case "gradients":
            assert after < (0.9 if entry(form).baseline else 0.7) * before
        case "statistics":
            assert explained(form, dictionary) > explained(form, begun(form)) + 0.02
        case "nothing":
            first = begun(form).state_dict()
            assert all(
                torch.equal(tensor, first[name]) for name, tensor in dictionary.state_dict().items()
            )


def test_held_out_variance_is_explained_with_few_latents(form):
    found = evaluate(trained(form)[0], [batch(form, HELD_OUT)])
    if entry(form).baseline:
        assert 0.25 < found["fvu"] < 1.2 and found["l0"] < 6
    else:
        assert found["fvu"] < 0.25 and found["l0"] < 6


def test_most_planted_directions_are_recovered_and_few_by_a_baseline(form):
    assert recovered(PLANTED, begun(form).decoder_directions()).max() < 0.9  # nothing is given away
    if entry(form).baseline:
        assert share_recovered(trained(form)[0]) < 0.7  # a basis of 24 has at most 24 of the 40
    else:
        assert share_recovered(trained(form)[0]) > 0.8


def test_resumed_equals_uninterrupted_bit_for_bit(form, store, tmp_path):
    activations = captured(store, form)
    plan = config(
        form, tokens=2000, batch_size=100, log_every=5, checkpoint_every=4, dead_after=300
    )
    written = []
    for name, stop in (("whole", 99), ("cut", 2)):
        (tmp_path / name).mkdir()
        work = make(tmp_path / name, plan, {"activations": activations}, Execution(device="cpu"))
        for _, _ in zip(work, range(stop), strict=False):
            pass
        work.close()
        for _ in make(tmp_path / name, plan, {"activations": activations}, Execution(device="cpu")):
            pass
        files = ("dictionary.safetensors", "dictionary.json", "curve.parquet")
        written.append([(tmp_path / name / file).read_bytes() for file in files])
    assert written[0] == written[1]


def test_the_stages_train_and_encode_take_it(form, store):
    activations = captured(store, form)
    made, _ = store.ensure(
        TRAIN, config(form, tokens=900, batch_size=100, log_every=5), {"activations": activations}
    )
    dictionary, learns = Dictionary.load(made), entry(form).learns
    assert made.facts["name"] == dictionary.name and made.facts["d_sae"] == dictionary.d_sae
    assert made.facts["tokens"] == (0 if learns == "nothing" else 900)
    encoded, _ = store.ensure(
        ENCODE, EncodeConfig(splits=("validate",)), {"activations": activations, "dictionary": made}
    )
    codes = CodeShards(encoded).codes("validate")
    assert torch.equal(codes.dense(), dictionary.encode(batch(form, HELD_OUT[:100])).dense())
    latents = LATENTS.read(encoded)
    assert latents.height == dictionary.d_sae and (latents["maximum"].drop_nulls() > 0).all()
    assert encoded.facts["l0"]["validate"] == pytest.approx(made.facts["l0"])
