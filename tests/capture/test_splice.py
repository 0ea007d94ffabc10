"""A dictionary inside the model's forward pass: its terms are the model's own numbers, and their
gradient is exact."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from components.capture import splice as module
from components.capture.capture import CAPTURE, CaptureConfig
from components.capture.splice import Splice, opened, passes
from components.device import Execution
from components.dictionary.architectures.pca import PcaConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import Dictionary
from components.dictionary.settings import SpliceConfig, TrainConfig
from components.dictionary.stream import Contexts, Stream
from components.dictionary.train import TRAIN, stage
from components.errors import CapabilityError, DictionaryError
from components.model.intervention import Places, replace
from components.store.estimate import Planned
from components.store.shards import ActivationShards
from components.store.tables import CURVE
from tests import toys
from tests.capture.test_capture import corpus
from tests.dictionary.test_estimate import Live

CPU = Execution(device="cpu")
EARLY, LATE = "mlp_out.0", "resid_post.1"
BOTH = {"kl": 1.0, "cross_entropy": 1.0}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return toys.tiny_reference(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(reference):
    return reference.load(CPU)


@pytest.fixture
def text(store):
    return corpus(store, ("train", "validate"), n=24, length=20)


@pytest.fixture
def captured(store, reference, text):
    config = CaptureConfig(hook_points=(EARLY, LATE), splits=("train", "validate"))
    return store.ensure(CAPTURE, config, {"model": reference, "corpus": text}, CPU)[0]


def spliced(model, text, weights):
    contexts = load_file(text.path("contexts/train.safetensors"))
    return Splice(model, contexts["token"], contexts["document"], weights)


def batch_of(captured, names=(EARLY, LATE), size=60):
    stream = Stream(ActivationShards(captured), "train", names, seed=3)
    return next(Contexts(stream).batches(size))


def noisy(batch, names):
    generator = torch.Generator().manual_seed(1)
    return {
        n: (batch[n] + 0.3 * torch.randn(batch[n].shape, generator=generator)).requires_grad_()
        for n in names
    }


def by_one_pass(model, text, batch, rebuilt):
    """The same terms, all contexts and all logits at once."""
    contexts = load_file(text.path("contexts/train.safetensors"))
    numbers = batch["context"].unique_consecutive().long()
    row = torch.repeat_interleave(batch["context"].unique_consecutive(return_counts=True)[1])
    token, document = contexts["token"][numbers], contexts["document"][numbers]
    place = row, batch["offset"].long()
    kept = torch.zeros_like(token, dtype=torch.bool)
    kept[place] = True
    plain = model.logits(token).log_softmax(-1)
    position = torch.arange(token.shape[1]).expand(len(token), -1)
    followed = kept[:, :-1] & (document[:, 1:] == document[:, :-1])
    kl, lost = [], []
    for name, rows in rebuilt.items():
        with model.edited(replace(name, lambda x, rows=rows: x.index_put(place, rows), kept)):
            logits = model.forward(
                token, Places(position, position.max(1).values + 1), use_cache=False
            ).logits
        after = logits.log_softmax(-1)
        kl.append((plain.exp() * (plain - after)).sum(-1)[kept].mean())
        lost.append(-after[:, :-1].gather(2, token[:, 1:, None].long())[:, :, 0][followed].mean())
    return {"kl": sum(kl) / len(kl), "cross_entropy": sum(lost) / len(lost)}


@pytest.mark.parametrize("at_once", [1, 10**9])
@pytest.mark.parametrize("names", [(LATE,), (EARLY, LATE)])
def test_terms_and_gradients_are_those_of_one_pass_however_many_contexts_are_held(
    model, text, captured, names, at_once, monkeypatch
):
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", at_once)
    batch = batch_of(captured)
    assert len(batch["context"].unique()) >= 3
    rebuilt, again = noisy(batch, names), noisy(batch, names)
    terms = spliced(model, text, BOTH)(batch, rebuilt)
    wanted = by_one_pass(model, text, batch, again)
    for name in BOTH:
        torch.testing.assert_close(terms[name], wanted[name])
    torch.stack(list(terms.values())).sum().backward()
    torch.stack(list(wanted.values())).sum().backward()
    for name in names:
        torch.testing.assert_close(rebuilt[name].grad, again[name].grad, atol=1e-6, rtol=1e-4)
        assert rebuilt[name].grad.abs().sum() > 0


def test_the_activations_themselves_cost_nothing_and_a_weight_scales_its_term(
    model, text, captured
):
    batch = batch_of(captured)
    same = {LATE: batch[LATE].clone().requires_grad_()}
    assert spliced(model, text, {"kl": 1.0})(batch, same)["kl"].item() == pytest.approx(0, abs=1e-6)
    once, thrice = (
        spliced(model, text, {"kl": w})(batch, noisy(batch, (LATE,)))["kl"].item()
        for w in (1.0, 3.0)
    )
    assert once > 0.01 and thrice == pytest.approx(3 * once)


def test_batches_are_whole_contexts_that_resume_at_any_number(captured):
    contexts = Contexts(Stream(ActivationShards(captured), "train", (LATE,), seed=5))
    provenance = ActivationShards(captured).provenance("train")
    batches = contexts.batches(50)
    first = [next(batches) for _ in range(9)]
    seen: list[int] = []
    for batch in first:
        begins = (batch["offset"].diff() <= 0).nonzero()[:, 0] + 1
        for offset, context in zip(
            batch["offset"].tensor_split(begins), batch["context"].tensor_split(begins), strict=True
        ):
            (number,) = context.unique().tolist()
            assert torch.equal(offset, provenance["offset"][provenance["context"] == number])
            seen.append(number)
    n = int(provenance["context"].max()) + 1
    assert sorted(seen[:n]) == list(range(n)) and seen[:n] != sorted(seen[:n])
    resumed = contexts.batches(50, 6)
    assert all(torch.equal(next(resumed)[LATE], batch[LATE]) for batch in first[6:])


def config(**changes):
    defaults = {
        "tokens": 8_000,
        "batch_size": 100,
        "log_every": 10,
        "checkpoint_every": 9,
        "lr": 1e-2,
    }
    splice = SpliceConfig(share=0.5, kl=4.0, reconstruction=0.25)
    defaults |= {"dictionary": TopKConfig(d_sae=24, k=3), "splice": splice, "hook_point": LATE}
    return TrainConfig(**(defaults | changes))


def kl_of(model, text, captured, dictionary):
    batch = batch_of(captured, (LATE,), 10_000)
    rebuilt = {LATE: dictionary.decode(dictionary.encode(batch[LATE])).requires_grad_()}
    return spliced(model, text, {"kl": 1.0})(batch, rebuilt)["kl"].item()


@pytest.mark.parametrize("normalise", ["scale", "whiten"])
def test_a_short_fine_tuning_lowers_what_the_reconstruction_costs_the_model(
    store, reference, model, text, captured, normalise
):
    inputs = {"activations": captured, "model": reference, "corpus": text}
    tuned, _ = store.ensure(stage(opened), config(normalise=normalise), inputs, CPU)
    plain, _ = store.ensure(
        TRAIN, config(normalise=normalise, splice=SpliceConfig()), {"activations": captured}, CPU
    )
    tuned_kl, plain_kl = (
        kl_of(model, text, captured, Dictionary.load(made)) for made in (tuned, plain)
    )
    assert tuned_kl < 0.9 * plain_kl
    curve = CURVE.read(tuned).filter(CURVE.read(tuned)["name"] == "loss.kl")
    # the first point after update 40, from which on the model takes part
    assert curve["step"].min() == 50
    assert all(math.isfinite(value) for value in curve["value"])
    updates, without = config().updates, config().spliced_from
    contexts = Contexts(Stream(ActivationShards(captured), "train", (LATE,), seed=0)).batches(
        config().batch
    )
    whole = sum(len(next(contexts)["context"]) for _ in range(updates - without))
    assert (
        tuned.facts["tokens"]
        == without * config().batch + whole
        == CURVE.read(tuned)["tokens"].max()
    )


@pytest.mark.parametrize("names", [(EARLY,), (EARLY, LATE)])
def test_what_the_model_holds_meanwhile_is_estimated(reference, text, captured, names):
    section = config(batch_size=200, splice=SpliceConfig(share=0.5, **BOTH))
    batch = batch_of(captured, names, size=200)
    rebuilt = noisy(batch, names)
    splice = opened(section, names, {"model": reference, "corpus": text}, CPU)
    splice(batch, rebuilt)
    with Live() as live:
        splice(batch, rebuilt)
    corpus_facts = Planned("read", "0" * 24, {"context_length": 20})
    parts, n_passes = passes(section, len(names), {"model": reference, "corpus": corpus_facts})
    said = sum(n_bytes for name, n_bytes in parts.items() if name != "model")
    assert live.peak <= said <= 1.5 * live.peak and n_passes == 3 * len(names) + 1


def test_a_plan_of_training_counts_the_passes_of_the_model(reference, text, captured):
    inputs = {
        "activations": captured,
        "model": reference,
        "corpus": Planned("read", "0" * 24, {"context_length": 20}),
    }
    trains = stage(opened, passes)
    assert trains.estimator
    said = trains.estimator.formula(config(), inputs, CPU)
    plain = trains.estimator.formula(config(splice=SpliceConfig()), {"activations": captured}, CPU)
    assert said.memory_bytes > plain.memory_bytes + reference.n_bytes and said.alike != plain.alike
    # both are timed here: on a busy machine one of them may meet a pause
    timed = [(said.probe(2.0), plain.probe(2.0)) for _ in range(3)]
    assert any(ours[0] > theirs[0] for ours, theirs in timed)
    assert all("of a pass" in ours[1] for ours, _ in timed)


def test_what_is_cut_short_while_the_model_takes_part_goes_on_to_the_same_bits(
    tmp_path, reference, text, captured
):
    inputs = {"activations": captured, "model": reference, "corpus": text}
    written = []
    for name, stop in (("whole", 99), ("cut", 5)):
        folder = tmp_path / name
        folder.mkdir()
        work = stage(opened).make(folder, config(), inputs, CPU)
        for _, _ in zip(work, range(stop), strict=False):
            pass
        work.close()
        for _ in stage(opened).make(folder, config(), inputs, CPU):
            pass
        written.append(
            [(folder / file).read_bytes() for file in ("dictionary.safetensors", "curve.parquet")]
        )
    assert written[0] == written[1]


def test_a_model_that_gives_no_gradient_is_refused_in_a_sentence(
    model, text, captured, monkeypatch
):
    batch = batch_of(captured)
    plain = model.network.forward
    monkeypatch.setattr(model.network, "forward", torch.no_grad()(plain))
    with pytest.raises(
        CapabilityError,
        match=r"gradients from the model's predictions back to resid_post\.1, and Llama",
    ):
        spliced(model, text, {"kl": 1.0})(batch, noisy(batch, (LATE,)))


def test_what_a_forward_pass_does_not_hold_cannot_be_spliced(reference, text):
    given = {"model": reference, "corpus": text}
    with pytest.raises(
        CapabilityError, match=r"holds no gradient:resid_post\.1; set train\.splice\.share=0"
    ):
        opened(config(), ("gradient:resid_post.1",), given, CPU)


def test_without_a_model_the_stage_says_what_it_lacks(store, captured):
    with pytest.raises(
        DictionaryError, match=r"train\.splice wants the model .* set train\.splice\.share=0"
    ):
        store.ensure(TRAIN, config(), {"activations": captured}, CPU)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"share": 0.1, "kl": 0}, "both kl and cross_entropy are 0"),
        ({"kl": 2.0}, "kl would change nothing, since share is 0"),
    ],
)
def test_a_splice_that_would_change_nothing_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        SpliceConfig(**changes)


def test_what_learns_nothing_from_gradients_cannot_be_spliced():
    with pytest.raises(ValueError, match=r"pca learns nothing from gradients"):
        config(dictionary=PcaConfig(k=3))
