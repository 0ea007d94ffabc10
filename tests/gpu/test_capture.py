"""Capture and the model on a device that is not the CPU: the CPU's numbers, and no wait in the
loop."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file

from components.capture.capture import CaptureConfig, make
from components.device import Execution
from components.model.divergence import kl_per_token
from components.model.generation import generate
from components.model.intervention import NOTHING, Intervention, add
from components.model.language_model import LanguageModel
from components.store.shards import read_shard
from tests import toys
from tests.stand_in_gpu import OnGpu, stand_in_gpu

N, LENGTH = 12, 12
POINTS = ("resid_post.1", "mlp_hidden.0")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return toys.tiny_reference(tmp_path_factory.mktemp("models") / "tiny")


def corpus(store, n=N):
    def write(folder):
        (folder / "contexts").mkdir()
        generator = torch.Generator().manual_seed(0)
        token = torch.randint(4, 30, (n, LENGTH), generator=generator, dtype=torch.int32)
        document = torch.arange(n, dtype=torch.int32)[:, None].repeat(1, LENGTH)
        document[:, 0] = document[::3, -4:] = -1
        position = torch.arange(-1, LENGTH - 1, dtype=torch.int32).repeat(n, 1)
        save_file(
            {"token": token, "document": document, "position": position},
            folder / "contexts/train.safetensors",
        )

    return toys.artifact(store, "read", write, {"splits": ["train"]}, seed=n)


def captured(folder, reference, contexts, device, **changes):
    folder.mkdir()
    config = CaptureConfig(
        hook_points=POINTS, splits=("train",), contexts_per_shard=8, batch_size=2, **changes
    )
    for _ in make(
        folder, config, {"model": reference, "corpus": contexts}, Execution(device=device)
    ):
        pass
    return [read_shard(folder, "train", number) for number in range(2)]


@pytest.mark.parametrize("changes", [{}, {"drop_outlier_norms": 1.5, "dtype": "float16"}])
def test_shards_are_the_cpus(store, tmp_path, reference, changes):
    """Activations travel through pinned memory; whoever read them before they arrived would write
    NaN."""
    contexts = corpus(store)
    with stand_in_gpu():
        there = captured(tmp_path / "there", reference, contexts, "cuda", **changes)
    here = captured(tmp_path / "here", reference, contexts, "cpu", **changes)
    for ours, theirs in zip(there, here, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-4)  # what float16 rounds


def test_the_loop_waits_for_no_batch(store, tmp_path, reference):
    """Twice as many batches, and not one look more: what is looked at is the model when it is
    loaded."""
    looks, queued = [], []
    for n in (N, 2 * N):
        with stand_in_gpu() as gpu:
            captured(tmp_path / str(n), reference, corpus(store, n), "cuda")
            looks.append(Counter(gpu.looks))
            queued.append(gpu.queued)
    assert looks[0] == looks[1]
    assert queued[1] - queued[0] == N // 2 * (1 + len(POINTS)), (
        "a batch's tokens, and each hook point's activations"
    )


@pytest.fixture
def models():
    """The same model here, and on the device of whoever enters the stand-in."""
    network = toys.tiny_network("llama")
    return LanguageModel(copy.deepcopy(network)), lambda: LanguageModel(network.to("cuda"))


@pytest.mark.parametrize("prompts", [[[1, 5, 6], [1, 7, 8]], [[1, 5, 6, 9], [1, 7]]])
@pytest.mark.parametrize("strength", [None, 0.0, 3.0])
def test_text_is_the_cpus_under_any_strength(models, prompts, strength):
    here, there = models
    step = torch.ones(here.d_model)
    change = NOTHING if strength is None else Intervention((add("resid_post.0", strength * step),))
    settings = {"max_new_tokens": 20, "temperature": 1.0, "seeds": [3, 4], "stop": (2,)}
    with stand_in_gpu():
        ours = generate(there(), prompts, intervention=change, **settings)
    assert ours == generate(here, prompts, intervention=change, **settings)


def test_generation_asks_at_every_eighth_token_whether_all_is_said(models):
    """Rows of one length need no mask. Where some are padded transformers looks at the mask at each
    token."""
    asked = {}
    for name, prompts in (("even", [[1, 5, 6], [1, 7, 8]]), ("padded", [[1, 5, 6], [1, 7]])):
        with stand_in_gpu() as gpu:
            model = models[1]()
            counts = []
            for n in (8, 8, 24):  # the first one tries what the model can do
                gpu.looks.clear()
                generate(model, prompts, max_new_tokens=n, temperature=1.0, seeds=[3, 4], stop=())
                counts.append(len(gpu.looks))
        asked[name] = counts[2] - counts[1]
    assert asked["even"] == 2
    assert asked["padded"] == 2 + 16


def test_losses_and_divergences_are_the_cpus(models):
    here, there = models
    tokens = torch.randint(4, 30, (3, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[1, 6:] = False
    change = Intervention((add("resid_post.0", torch.ones(here.d_model)),))
    with stand_in_gpu():
        model = there()
        ours = [kl_per_token(model, tokens, mask, change), model.losses(tokens, mask.long())]
        assert all(isinstance(x, OnGpu) for x in ours)
        ours = [x.cpu() for x in ours]
    theirs = [kl_per_token(here, tokens, mask, change), here.losses(tokens, mask.long())]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_mask_that_lies_on_the_device_is_not_looked_at(models):
    """Padding on the right or the left: it is handed to the network as it is, which costs a mask
    and no wait."""
    here, there = models
    tokens = torch.randint(4, 30, (2, 9), generator=torch.Generator().manual_seed(0))
    left = torch.ones(2, 9, dtype=torch.long)
    left[1, :4] = 0
    for mask in (left, left.flip(1)):
        with stand_in_gpu():
            ours = there().logits(tokens, mask.to("cuda")).cpu()
        theirs = here.logits(tokens, mask)
        torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], rtol=1e-4, atol=1e-4)
