"""The train stage: what it writes, how it continues, what it refuses."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from components.config import override
from components.device import Execution
from components.dictionary.architectures.neurons import NeuronsConfig
from components.dictionary.architectures.pca import PcaConfig
from components.dictionary.architectures.relu import ReluConfig
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.contract import Dictionary, Moment, untrained
from components.dictionary.fit import evaluate, fit
from components.dictionary.learner import Learner, LongestSilence
from components.dictionary.settings import TrainConfig, cautions, raised
from components.dictionary.stream import Stream
from components.dictionary.train import TRAIN, control, make
from components.errors import ConfigError, DictionaryError, InputError
from components.store.artifact import key_of
from components.store.shards import ActivationShards
from components.store.tables import CURVE
from tests import toys
from tests.planted import HOOK, directions, rows

PLANTED = directions()
SPLITS = {"train": {HOOK: rows(1500, PLANTED)}, "validate": {HOOK: rows(300, PLANTED, seed=2)}}
CONFIG = TrainConfig(
    dictionary=TopKConfig(d_sae=48, k=3),
    tokens=8000,
    batch_size=200,
    lr=3e-3,
    dead_after=600,
    log_every=10,
    checkpoint_every=7,
)


@pytest.fixture
def activations(store):
    return toys.activations(store, SPLITS, rows_per_shard=400)


def begun(options=CONFIG.dictionary, seed=0):
    x = SPLITS["train"]
    return untrained(options, HOOK, {HOOK: 24}, x, torch.Generator().manual_seed(seed))


def run_in(folder, config, activations, until=None):
    """Runs the stage in a folder; stops (as a kill would, after a yield) once `until` tokens are
    done."""
    folder.mkdir(exist_ok=True)
    work = make(folder, config, {"activations": activations}, Execution(device="cpu"))
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            return end.value
        if until and progress.done >= until:
            work.close()
            return None


def test_the_artifact_holds_weights_description_and_curve_and_facts_measured_on_held_out_documents(
    store, activations
):
    reports = []
    made, _ = store.ensure(
        TRAIN, CONFIG, {"activations": activations}, Execution(device="cpu"), reports.append
    )
    assert made.files == ["curve.parquet", "dictionary.json", "dictionary.safetensors"]
    facts = made.facts
    assert facts["name"] == "topk-48-k3" and facts["hook_point"] == HOOK and facts["n_seeds"] == 1
    assert (facts["d_in"], facts["d_sae"], facts["tokens"], facts["steps"]) == (24, 48, 8000, 40)
    assert facts["held_out_rows"] == 300 and facts["l0"] <= 3
    dictionary = Dictionary.load(made)
    x = SPLITS["validate"][HOOK].double()
    residual = x - dictionary.decode(dictionary.encode(x))
    by_hand = residual.square().sum() / (x - x.mean(0)).square().sum()
    assert facts["fvu"] == pytest.approx(by_hand.item(), rel=1e-4)
    assert facts["scale"] == dictionary.scale
    curve = CURVE.read(made)
    assert curve["step"].unique().sort().to_list() == [10, 20, 30, 40]
    assert {"loss", "loss.reconstruction", "fvu", "l0", "dead_share", "learning_rate"} <= set(
        curve["name"]
    )
    assert (curve["tokens"] == curve["step"] * 200).all()
    assert reports[0].unit == "tokens" and reports[0].done == 2000 and reports[0].total == 8000
    assert reports[0].metrics["tokens_per_second"] > 0
    json.dumps(dict(facts), allow_nan=False)


def test_what_cannot_change_the_result_is_not_in_the_key(store, activations):
    first, _ = store.ensure(TRAIN, CONFIG, {"activations": activations})
    again, cached = store.ensure(
        TRAIN, CONFIG.model_copy(update={"checkpoint_every": 3}), {"activations": activations}
    )
    assert cached and again.key == first.key


@pytest.mark.parametrize("until", [2000, 4000, 6000])
@pytest.mark.parametrize(
    "options", [TopKConfig(d_sae=48, k=2), ReluConfig(d_sae=48)], ids=["topk", "relu"]
)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path, activations, options, until
):
    config = CONFIG.model_copy(update={"dictionary": options})
    run_in(tmp_path / "whole", config, activations)
    assert run_in(tmp_path / "cut", config, activations, until=until) is None
    assert sorted(path.name for path in (tmp_path / "cut" / ".checkpoint").iterdir()) == [
        "state.safetensors"
    ]
    assert not (tmp_path / "cut" / "dictionary.safetensors").exists()
    run_in(tmp_path / "cut", config, activations)
    for file in ("dictionary.safetensors", "dictionary.json"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    curves = [pl.read_parquet(tmp_path / name / "curve.parquet") for name in ("whole", "cut")]
    assert curves[0].equals(curves[1])


def test_a_resumed_run_does_not_repeat_what_was_done(tmp_path, activations):
    run_in(tmp_path / "cut", CONFIG, activations, until=6000)
    work = make(tmp_path / "cut", CONFIG, {"activations": activations}, Execution(device="cpu"))
    # the checkpoint at update 28, then the point at 30
    assert next(work).done == 6000 - 2 * 200 + 400
    work.close()


@pytest.mark.parametrize("left", [0, 4, 1000], ids=["empty", "header cut", "weights cut"])
def test_a_damaged_checkpoint_is_removed_and_training_starts_over(
    tmp_path, activations, caplog, left
):
    run_in(tmp_path / "whole", CONFIG, activations)
    run_in(tmp_path / "cut", CONFIG, activations, until=6000)
    checkpoint = tmp_path / "cut" / ".checkpoint" / "state.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:left])
    run_in(tmp_path / "cut", CONFIG, activations)
    assert (
        f"the checkpoint {checkpoint} is damaged (" in caplog.text
        and "training starts over" in caplog.text
    )
    for file in ("dictionary.safetensors", "dictionary.json"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_seeds_give_different_dictionaries_and_the_same_seed_the_same(tmp_path, activations):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_in(tmp_path / name, CONFIG.model_copy(update={"seed": seed}), activations)
    a, b, c = ((tmp_path / name / "dictionary.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_bfloat16_products_learn_nearly_the_same_dictionary(tmp_path, activations):
    found = {}
    for precision in ("float32", "bfloat16"):
        facts = run_in(
            tmp_path / precision, override(CONFIG, {"precision": precision}), activations
        )
        found[precision] = load_file(tmp_path / precision / "dictionary.safetensors"), facts
    (exact, exact_facts), (rounded, rounded_facts) = found.values()
    assert not torch.equal(exact["W_dec"], rounded["W_dec"])
    assert cosine_similarity(exact["W_dec"], rounded["W_dec"], dim=1).median() > 0.99
    assert rounded_facts["fvu"] == pytest.approx(exact_facts["fvu"], rel=0.05)
    assert rounded["W_enc"].dtype == torch.float32


def test_the_usual_precision_makes_no_new_key(store, activations):
    inputs = {"activations": activations}
    assert key_of(TRAIN, override(CONFIG, {"precision": "float32"}), inputs) == key_of(
        TRAIN, CONFIG, inputs
    )
    assert key_of(TRAIN, override(CONFIG, {"precision": "bfloat16"}), inputs) != key_of(
        TRAIN, CONFIG, inputs
    )


def test_no_tokens_leave_an_untrained_dictionary_with_scale_and_bias_set(store, activations):
    made, _ = store.ensure(
        TRAIN, CONFIG.model_copy(update={"tokens": 0}), {"activations": activations}
    )
    dictionary = Dictionary.load(made)
    assert made.facts["name"] == "topk-48-k3-untrained" and made.facts["steps"] == 0
    assert dictionary.scale != 1 and dictionary.b_dec.norm() > 0
    assert torch.equal(dictionary.W_enc, dictionary.W_dec)
    assert CURVE.read(made).height == 0
    trained, _ = store.ensure(TRAIN, CONFIG, {"activations": activations})
    assert trained.facts["fvu"] < 0.8 * made.facts["fvu"]


def test_the_control_of_any_architecture_is_as_wide_and_as_sparse_and_learnt_nothing(
    store, activations
):
    config = CONFIG.model_copy(update={"dictionary": ReluConfig(d_sae=48, l1=3.0), "lr": 3e-3})
    trained, _ = store.ensure(TRAIN, config, {"activations": activations})
    assert 1 < trained.facts["l0"] < 20
    made, _ = store.ensure(TRAIN, control(config, trained.facts), {"activations": activations})
    assert (made.facts["d_sae"], made.facts["steps"]) == (48, 0)
    assert made.facts["l0"] == pytest.approx(trained.facts["l0"], abs=0.5)
    other = config.model_copy(update={"lr": 1e-3, "batch_size": 100, "log_every": 3})
    assert control(other, trained.facts) == control(config, trained.facts)


def test_more_tokens_than_rows_means_several_epochs(store, activations):
    made, _ = store.ensure(
        TRAIN, CONFIG.model_copy(update={"tokens": 4001}), {"activations": activations}
    )
    assert made.facts["tokens"] == 4200 and made.facts["steps"] == 21


def test_a_dictionary_that_learns_nothing_reads_no_tokens_and_is_not_called_untrained(
    store, activations
):
    made, _ = store.ensure(
        TRAIN,
        CONFIG.model_copy(update={"dictionary": NeuronsConfig(k=3)}),
        {"activations": activations},
    )
    assert (made.facts["name"], made.facts["tokens"], made.facts["steps"]) == (
        "neurons-48-k3",
        0,
        0,
    )
    assert CURVE.read(made).height == 0 and 0 < made.facts["fvu"] < 1


def test_a_factorisation_has_one_point_in_its_curve_and_reads_as_many_epochs_as_asked(
    store, activations
):
    config = CONFIG.model_copy(update={"dictionary": PcaConfig(k=3)})
    made, _ = store.ensure(TRAIN, config, {"activations": activations}, Execution(device="cpu"))
    assert made.facts["name"] == "pca-48-k3" and made.facts["tokens"] == 8000
    curve = CURVE.read(made)
    assert curve["name"].to_list() == ["fvu", "l0", "dead_share"] and (curve["step"] == 40).all()
    assert curve["value"][0] == pytest.approx(made.facts["fvu"], rel=1e-6)
    twice, four_times = (  # epochs of 1500 rows: what is seen as often counts as much
        store.ensure(
            TRAIN, config.model_copy(update={"tokens": tokens}), {"activations": activations}
        )[0]
        for tokens in (3000, 6000)
    )
    assert twice.facts["tokens"] == 3000 and four_times.facts["tokens"] == 6000
    torch.testing.assert_close(
        Dictionary.load(twice).W_dec, Dictionary.load(four_times).W_dec, atol=1e-4, rtol=0
    )


def test_those_with_nothing_to_learn_look_on_while_others_learn(tmp_path, activations):
    shards = ActivationShards(activations)
    held_out = {HOOK: SPLITS["validate"][HOOK]}
    learners = {}
    for options in (NeuronsConfig(k=3), TopKConfig(d_sae=48, k=3), PcaConfig(k=3)):
        config = CONFIG.model_copy(update={"dictionary": options})
        stream = Stream(shards, "train", (HOOK,), config.seed)
        dictionary = untrained(
            options, HOOK, {HOOK: 24}, stream.sample(1000), torch.Generator().manual_seed(0)
        )
        learners[options.kind] = Learner(dictionary, config)
    points = [
        label
        for label, metrics in fit(learners, stream, held_out, {k: tmp_path / k for k in learners})
        if metrics
    ]
    assert points == ["topk"] * 4 + ["pca"]
    assert [learner.step for learner in learners.values()] == [0, 40, 40]


def test_several_dictionaries_from_one_stream_equal_those_trained_alone(tmp_path, activations):
    shards = ActivationShards(activations)
    options = {"a": TopKConfig(d_sae=48, k=3), "b": ReluConfig(d_sae=32)}
    configs = {
        label: CONFIG.model_copy(update={"dictionary": chosen}) for label, chosen in options.items()
    }
    held_out = {HOOK: SPLITS["validate"][HOOK]}

    def train(labels):
        learners = {label: Learner(begun(options[label]), configs[label]) for label in labels}
        checkpoints = {label: tmp_path / label / "state.safetensors" for label in labels}
        points = list(fit(learners, Stream(shards, "train", [HOOK], 0), held_out, checkpoints))
        assert len(points) == 4 * len(labels)
        return {label: learner.dictionary.state_dict() for label, learner in learners.items()}

    together = train(["a", "b"])
    for label in options:
        alone = train([label])[label]
        assert all(torch.equal(alone[name], tensor) for name, tensor in together[label].items())


# The update.


def test_decoder_rows_keep_norm_one_and_the_gradient_loses_its_parallel_part():
    learner = Learner(begun(), CONFIG)
    before = learner.dictionary.W_dec.detach().clone()
    learner.learn({HOOK: SPLITS["train"][HOOK][:200]})
    after, gradient = learner.dictionary.W_dec.detach(), learner.dictionary.W_dec.grad
    assert gradient is not None
    torch.testing.assert_close(after.norm(dim=1), torch.ones(48))
    assert not torch.equal(before, after)
    along = cosine_similarity(gradient, before, dim=1)[gradient.norm(dim=1) > 0]
    assert along.abs().max() < 1e-4


def test_rows_that_no_architecture_constrains_are_free():
    learner = Learner(begun(ReluConfig(d_sae=48)), CONFIG)
    for _ in range(5):
        learner.learn({HOOK: SPLITS["train"][HOOK][:200]})
    assert learner.dictionary.W_dec.norm(dim=1).std() > 1e-4


def test_the_gradient_is_clipped_over_all_parameters_together():
    learner = Learner(begun(ReluConfig(d_sae=48)), CONFIG.model_copy(update={"clip": 0.01}))
    learner.learn({HOOK: SPLITS["train"][HOOK][:200]})
    gradients = [
        parameter.grad
        for parameter in learner.dictionary.parameters()
        if parameter.grad is not None
    ]
    total = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    assert len(gradients) == 4 and total.item() == pytest.approx(0.01, rel=1e-3)


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    learner = Learner(
        begun(),
        CONFIG.model_copy(update={"tokens": 20_000, "warm_up": 0.1, "decay": 0.2, "lr": 1.0}),
    )
    rates = [learner.rate(step) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3]) and rates[9:80] == [1.0] * 71
    assert rates[80:83] == pytest.approx([1.0, 0.95, 0.9]) and rates[99] == pytest.approx(0.05)


def test_rate_batch_and_patience_follow_from_the_tokens():
    own = 2e-4 * (2**14 / 1536) ** 0.5
    long, short = TrainConfig(tokens=4_000_000_000), TrainConfig(tokens=4_000_000)
    assert (long.batch, long.silence, short.batch, short.silence) == (
        4096,
        10_000_000,
        512,
        200_000,
    )
    assert TrainConfig(tokens=16_384_000).batch == 2048  # a power of two that leaves 8,000 updates
    assert (
        TrainConfig(tokens=1000, batch_size=100).batch == 100
        and TrainConfig(tokens=10**6, dead_after=7).silence == 7
    )
    assert raised(own, long.updates) == own and raised(own, 500_000) == pytest.approx(own)
    assert own < raised(own, short.updates) < raised(own, 2000) <= 0.01 == raised(own, 10)
    assert raised(0.5, 10) == 0.5  # never lowered
    learner = Learner(begun(), CONFIG.model_copy(update={"lr": None}))
    assert learner.peak == raised(2e-4 * (2**14 / 48) ** 0.5, learner.steps)


def test_silence_is_counted_in_tokens():
    learner = Learner(begun(), CONFIG.model_copy(update={"dead_after": 500}))
    with torch.no_grad():
        learner.dictionary.b_enc[:12] = -100.0
    for n_tokens, dead in ((200, 0.0), (299, 0.0), (1, 0.25)):
        learner.learn({HOOK: SPLITS["train"][HOOK][:n_tokens]})
        assert (learner.silent[:12] >= 200).all()
        assert learner.metrics()["dead_share"] >= dead
        assert (learner.metrics()["dead_share"] == 0) == (dead == 0)


def test_fvu_is_a_ratio_of_sums_whatever_the_batches():
    dictionary, x = begun(), SPLITS["validate"][HOOK] + 100.0
    whole = evaluate(dictionary, [{HOOK: x}])
    pieces = evaluate(dictionary, [{HOOK: part} for part in x.split(7)])
    assert pieces["fvu"] == pytest.approx(whole["fvu"], rel=1e-5)
    assert (pieces["rows"], pieces["dead_share"]) == (300, whole["dead_share"])


# Errors.


def test_held_out_activations_that_do_not_vary_are_refused():
    with pytest.raises(
        DictionaryError, match=r"the 5 held-out activations at resid_post\.1 do not vary"
    ):
        evaluate(begun(), [{HOOK: torch.ones(5, 24)}])


def test_an_unknown_hook_point_or_split_lists_the_known(store, activations):
    with pytest.raises(InputError, match=r"no hook point 'resid_post\.2'; known: resid_post\.1"):
        store.ensure(
            TRAIN,
            CONFIG.model_copy(update={"hook_point": "resid_post.2"}),
            {"activations": activations},
        )
    with pytest.raises(InputError, match=r"no split 'valid'; known: train, validate"):
        store.ensure(
            TRAIN, CONFIG.model_copy(update={"held_out": "valid"}), {"activations": activations}
        )


def test_nan_stops_the_run_naming_shard_and_row_and_keeps_the_last_checkpoint(
    tmp_path, activations, monkeypatch
):
    run_in(tmp_path / "run", CONFIG, activations, until=4000)
    kept = (tmp_path / "run" / ".checkpoint" / "state.safetensors").read_bytes()
    plain = ActivationShards.rows

    def rotten(self, split, hook_point, index):
        found = plain(self, split, hook_point, index)
        # the sample at the start is read in order
        if split == "train" and (index.diff() < 0).any():
            found[index == 801] = float("nan")
        return found

    monkeypatch.setattr(ActivationShards, "rows", rotten)
    with pytest.raises(
        DictionaryError, match=r"row 1 of shard train/00002\.safetensors \(row 801 of the split\)"
    ):
        run_in(tmp_path / "run", CONFIG, activations)
    assert (tmp_path / "run" / ".checkpoint" / "state.safetensors").read_bytes() == kept
    assert not (tmp_path / "run" / "dictionary.safetensors").exists()
    monkeypatch.undo()
    run_in(tmp_path / "run", CONFIG, activations)  # with the row repaired it goes on from there
    run_in(tmp_path / "whole", CONFIG, activations)
    ended = [(tmp_path / name / "dictionary.safetensors").read_bytes() for name in ("run", "whole")]
    assert ended[0] == ended[1]


def test_infinity_stops_the_run_as_nan_does_and_makes_no_artifact(store, activations, monkeypatch):
    plain = ActivationShards.rows

    def rotten(self, split, hook_point, index):
        found = plain(self, split, hook_point, index)
        found[index == 1250, 3] = float("inf")
        return found

    monkeypatch.setattr(ActivationShards, "rows", rotten)
    with pytest.raises(
        DictionaryError, match=r"NaN or infinity: row 50 of shard train/00003\.safetensors"
    ):
        store.ensure(TRAIN, CONFIG, {"activations": activations})
    assert list(store.artifacts("train")) == []


@pytest.mark.parametrize(
    "options", [TopKConfig(d_sae=48, k=3), ReluConfig(d_sae=48)], ids=["topk", "relu"]
)
def test_a_run_that_diverges_stops_with_update_and_rate_and_keeps_a_sound_checkpoint(
    store, activations, options
):
    config = CONFIG.model_copy(
        update={"dictionary": options, "lr": 1e30, "warm_up": 0.0, "checkpoint_every": 3}
    )
    begun = config.model_copy(update={"lr": 1e-3})  # what lies there when it diverges
    folder = store.folder("train", f"{key_of(TRAIN, config, {'activations': activations})}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    run_in(folder, begun, activations, until=2000)
    kept = (folder / ".checkpoint" / "state.safetensors").read_bytes()
    with pytest.raises(DictionaryError) as caught:
        store.ensure(TRAIN, config, {"activations": activations}, Execution(device="cpu"))
    said = str(caught.value)
    assert "diverged" in said and "of 40" in said and "lower train.lr (to 1e+29, say)" in said, said
    assert list(store.artifacts("train")) == []
    assert (folder / ".checkpoint" / "state.safetensors").read_bytes() == kept
    assert all(
        tensor.isfinite().all()
        for tensor in load_file(folder / ".checkpoint" / "state.safetensors").values()
    )


def test_no_update_waits_to_see_whether_the_loss_is_finite(monkeypatch):
    learner = Learner(begun(), CONFIG)
    asked = []
    monkeypatch.setattr(torch.Tensor, "item", asked.append)
    for _ in range(3):
        learner.learn({HOOK: SPLITS["train"][HOOK][:200]})
    assert asked == []


def test_what_is_hardly_meant_is_said(caplog, store, activations):
    assert cautions(CONFIG, 1500) == []
    few = CONFIG.model_copy(update={"tokens": 100})
    assert (
        "train.tokens (100) is less than one batch: one update of 200 tokens is made"
        in cautions(few, 1500)[0]
    )
    wide = CONFIG.model_copy(update={"batch_size": 2000})
    assert (
        "train.batch_size (2,000) is more than the 1,500 tokens of the split train"
        in cautions(wide, 1500)[0]
    )
    late = CONFIG.model_copy(update={"dead_after": 8000})
    said = "train.dead_after (8,000) is not less than the tokens of the whole run (8,000): no latent ever counts as dead"
    assert said in cautions(late, 1500)[0]
    assert cautions(CONFIG.model_copy(update={"tokens": 0}), 10) == []
    made, _ = store.ensure(TRAIN, few, {"activations": activations}, Execution(device="cpu"))
    assert made.facts["steps"] == 1 and "is less than one batch" in caplog.text


def test_a_batch_larger_than_the_split_takes_rows_several_times(store, activations):
    config = CONFIG.model_copy(update={"batch_size": 4000})
    made, _ = store.ensure(TRAIN, config, {"activations": activations}, Execution(device="cpu"))
    assert made.facts["steps"] == 2 and made.facts["tokens"] == 8000


@pytest.mark.parametrize("name", ["lr", "clip", "dead_after"])
def test_nothing_that_must_be_above_zero_may_be_zero(name):
    with pytest.raises(ConfigError, match=rf"{name}: Input should be greater than 0, got 0"):
        override(CONFIG, {name: 0})


def test_a_batch_of_one_token_has_no_variance_and_is_refused():
    with pytest.raises(
        ConfigError, match="batch_size: Input should be greater than or equal to 2, got 1"
    ):
        override(CONFIG, {"batch_size": 1})


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"
)
def test_training_on_cuda_agrees_with_the_cpu(tmp_path, activations):
    facts = {}
    for device in ("cpu", "cuda"):
        (tmp_path / device).mkdir()
        work = make(
            tmp_path / device, CONFIG, {"activations": activations}, Execution(device=device)
        )
        while True:
            try:
                next(work)
            except StopIteration as end:
                facts[device] = end.value
                break
    assert facts["cuda"]["fvu"] == pytest.approx(facts["cpu"]["fvu"], rel=0.02)


def test_the_host_bounds_the_longest_silence_without_the_last_updates():
    """Never below the truth, at most the lag above it, and so never blind to a dead latent."""
    generator = torch.Generator().manual_seed(0)
    longest, silent, bounds = LongestSilence(), torch.zeros(6, dtype=torch.int64), []
    for _ in range(40):
        bounds.append((longest.at_most(10), silent.max().item()))
        silent = torch.where(torch.rand(6, generator=generator) < 0.3, 0, silent + 10)
        longest.send(silent)
    assert [bound for bound, _ in bounds[: LongestSilence.LAG]] == [
        float("inf")
    ] * LongestSilence.LAG
    known = bounds[LongestSilence.LAG :]
    assert all(truth <= bound for bound, truth in known)
    assert any(truth == bound for bound, truth in known) and any(bound < 40 for bound, _ in known)
    longest.forget()
    assert longest.at_most(10) == float("inf")


def test_the_term_for_dead_latents_is_left_out_only_where_none_can_be_dead():
    dead, none = torch.tensor([True, False]), torch.zeros(2, dtype=torch.bool)
    for there, may_be, wanted in ((dead, True, True), (none, True, False), (none, False, False)):
        assert Moment(0, 1, there, torch.Generator(), may_be).revives(1 / 32) is wanted
    assert not Moment(0, 1, dead, torch.Generator()).revives(0)
    elsewhere = none.to("meta")
    assert Moment(0, 1, elsewhere, torch.Generator()).revives(1 / 32)
    assert not Moment(0, 1, elsewhere, torch.Generator(), may_be_dead=False).revives(1 / 32)
