"""The live worker says what the stages say, refuses in sentences, and nobody's question holds up
another's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.settings import TrainConfig
from components.dictionary.train import TRAIN
from components.model.reference import ModelConfig
from components.store import tables
from components.store.artifact import Store
from components.store.shards import ActivationShards, CodeShards
from flows.live.refusals import TEXT_BYTES
from tests.steering import world
from tests.workers import CPU, STEERED, Live, Tiny, free_port, serving

LONG = {
    "coefficient": 0.3,
    "latents": [{"latent": 1}],
    "prompt": "the cat",
    "max_new_tokens": 60,
    "samples": 2,
}


@pytest.fixture(scope="module")
def strict(tiny_experiment: Tiny) -> Iterator[Live]:
    """A worker with narrow limits, its model loaded."""
    with serving(tiny_experiment.store, waiting=2) as live:
        live.answered("/read", experiment=tiny_experiment.report, text="the cat ran .")
        live.worker.queue._seconds, live.worker.queue._unasked = 4.0, 1.5  # once loading is over
        yield live


def test_the_codes_of_a_text_are_those_that_encode_wrote(
    live_worker: Live, tiny_experiment: Tiny
) -> None:
    artifacts = tiny_experiment.artifacts
    provenance = ActivationShards(artifacts["capture"]).provenance("select")
    codes = CodeShards(artifacts["encode"]).codes("select")
    documents = tables.DOCUMENTS.read(artifacts["read"])
    first = provenance["document"][(provenance["position"] == 0) & (provenance["offset"] == 1)][
        :5
    ].tolist()
    assert len(first) == 5
    for number in first:
        text = documents.filter(pl.col("document") == number)["text"][0]
        wanted = codes.take((provenance["document"] == number).nonzero()[:, 0]).dense()
        latents = wanted.amax(dim=0).nonzero()[:, 0][:32].tolist()
        answer = live_worker.answered(
            "/read", experiment=tiny_experiment.report, text=text, latents=latents
        )
        assert answer["tokens"] == [f" {word}" for word in text.split()]
        for latent in latents:
            # a product of another shape may round otherwise in the last digit
            exact = wanted[:, latent].tolist()
            assert answer["activations"][str(latent)] == pytest.approx(exact, abs=1e-5)


def test_without_chosen_latents_the_strongest_come_by_text_and_by_token(
    live_worker: Live, tiny_experiment: Tiny
) -> None:
    text, key = "the cat ran . the king sat .", tiny_experiment.artifacts["train"].key
    answer = live_worker.answered("/read", experiment=key, text=text, top=3)
    best = [active["latent"] for active in answer["strongest"]]
    assert len(best) == len(set(best)) == 3 and len(answer["strongest_by_token"]) == 8
    chosen = live_worker.answered("/read", experiment=key, text=text, latents=best)
    assert chosen["strongest"] == [] and chosen["strongest_by_token"] == []
    for active in answer["strongest"]:
        values = chosen["activations"][str(active["latent"])]
        assert max(values) == values[active["token"]] == active["maximum"]
        assert sum(value > 0 for value in values) == active["n_active"]
    largest = max(pairs[0][1] for pairs in answer["strongest_by_token"])
    assert largest == answer["strongest"][0]["maximum"]


def test_a_text_longer_than_a_context_is_read_whole_in_several(
    live_worker: Live, tiny_experiment: Tiny
) -> None:
    words = ["the", "cat", "ran", "unheard", "."] * 20
    answer = live_worker.answered(
        "/read", experiment=tiny_experiment.report, text=" ".join(words), latents=[0]
    )
    room = world.LENGTH - 1
    assert len(answer["tokens"]) == len(answer["activations"]["0"]) == 100
    assert answer["contexts"] == [number // room for number in range(100)]
    assert answer["n_unknown"] == 20


def test_steered_and_plain_text_are_those_of_the_stage(
    live_worker: Live, tiny_experiment: Tiny
) -> None:
    steer = tiny_experiment.artifacts["steer"]
    rows = tables.GENERATIONS.read(steer).filter(
        pl.col("split") == "test", pl.col("text").is_not_null()
    )
    prompts = dict(
        tables.PROMPTS.read(tiny_experiment.artifacts["read"]).select("prompt", "text").iter_rows()
    )
    strengths = tables.STRENGTHS.read(steer)
    compared = 0
    for method in ("add_direction", "mean_difference"):
        for row in (
            rows.filter(pl.col("method") == method)
            .unique("concept", maintain_order=True)
            .to_dicts()
        ):
            found = strengths.filter(
                pl.col("concept") == row["concept"],
                pl.col("method") == method,
                pl.col("replicate") == row["replicate"],
            )
            question = {
                "experiment": tiny_experiment.report,
                "vector": {"method": method, "concept": row["concept"]},
                "coefficient": found["coefficient"][0],
                "prompt": prompts[row["prompt"]],
                "prompt_number": row["prompt"],
                "seed": STEERED.seed,
                "temperature": STEERED.temperature,
                "max_new_tokens": STEERED.max_new_tokens,
            }
            answer = live_worker.answered("/steer", **question)
            assert answer["steered"][0]["text"] == row["text"]
            assert answer["steered"][0]["nll"] == pytest.approx(row["nll"], abs=1e-5)
            plain = rows.filter(pl.col("method") == "unsteered", pl.col("prompt") == row["prompt"])
            assert answer["plain"][0]["text"] == plain["text"][0]
            # the playground's cost is on neutral text, the stage's on the text that was written
            by_budget = live_worker.answered(
                "/steer", **{**question, "coefficient": None, "kl_budget": 0.5}
            )
            assert by_budget["kl"] == pytest.approx(0.5, rel=0.02)
            again = live_worker.answered(
                "/steer", **{**question, "coefficient": by_budget["coefficient"]}
            )
            assert again["kl"] == pytest.approx(by_budget["kl"], rel=1e-4)
            assert (answer["kl"] < again["kl"]) == (
                question["coefficient"] < by_budget["coefficient"]
            )
            compared += 1
    assert compared >= 3


def test_strength_zero_costs_nothing_and_changes_nothing(
    live_worker: Live, tiny_experiment: Tiny
) -> None:
    question = {**LONG, "coefficient": 0.0, "max_new_tokens": 8}
    answer = live_worker.answered("/steer", experiment=tiny_experiment.report, **question)
    assert answer["kl"] == 0 and answer["kl_tokens"] > 200
    assert answer["steered"] == answer["plain"] and len(answer["plain"]) == 2
    neutral = load_file(tiny_experiment.artifacts["read"].path("contexts/neutral.safetensors"))[
        "document"
    ]
    assert answer["kl_tokens"] == int((neutral[:12, :25] >= 0).sum())


def test_a_control_direction_is_found_by_its_number(
    live_worker: Live, tiny_experiment: Tiny
) -> None:
    vector = {"method": "random_direction", "replicate": 2}
    question = {**LONG, "latents": [], "vector": vector, "max_new_tokens": 4}
    answer = live_worker.answered("/steer", experiment=tiny_experiment.report, **question)
    assert answer["hook_point"] == world.HOOK and answer["kl"] > 0


READ, STEER = {"text": "the cat"}, {**LONG, "max_new_tokens": 4}


@pytest.mark.parametrize(
    ("path", "question", "status", "kind", "words"),
    [
        (
            "/read",
            READ | {"latents": [48]},
            404,
            "unknown_latent",
            "no latent 48 .* it has 0 to 47",
        ),
        ("/read", READ | {"latents": [-1]}, 404, "unknown_latent", "no latent -1"),
        ("/steer", STEER | {"latents": [{"latent": 99}]}, 404, "unknown_latent", "no latent 99"),
        (
            "/read",
            READ | {"experiment": "0" * 24},
            404,
            "unknown_artifact",
            "neither report nor train artifact",
        ),
        (
            "/read",
            READ | {"experiment": "../etc"},
            404,
            "unknown_artifact",
            "neither report nor train artifact etc",
        ),
        (
            "/read",
            READ | {"text": "x " * 100_000},
            413,
            "text_too_long",
            "50,000 bytes at most, and 200,000 bytes came",
        ),
        (
            "/read",
            READ | {"text": "x" * 2_000_000},
            413,
            "text_too_long",
            "nothing was read: paste a part",
        ),
        (
            "/steer",
            STEER | {"prompt": "x" * (TEXT_BYTES + 1)},
            413,
            "text_too_long",
            "50,001 bytes came",
        ),
        (
            "/steer",
            STEER | {"kl_budget": 0.1},
            422,
            "bad_request",
            "either a coefficient or a kl_budget",
        ),
        ("/steer", STEER | {"latents": []}, 422, "bad_request", "either latents or a vector"),
        (
            "/steer",
            STEER | {"temperature": -1},
            422,
            "bad_request",
            "temperature: .*greater than or equal to 0",
        ),
        (
            "/steer",
            STEER | {"latents": [{"latent": 1}, {"latent": 1}]},
            422,
            "bad_request",
            "given twice",
        ),
        ("/read", READ | {"txt": 1}, 422, "bad_request", "txt: .*not permitted"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once_in_a_sentence(
    live_worker: Live,
    tiny_experiment: Tiny,
    path: str,
    question: dict[str, Any],
    status: int,
    kind: str,
    words: str,
) -> None:
    answer = live_worker.post(path, **{"experiment": tiny_experiment.report, **question})
    assert (answer.status_code, answer.json()["kind"]) == (status, kind)
    assert re.search(words, answer.json()["error"]), answer.text


@pytest.mark.parametrize(
    ("path", "question", "kind", "words"),
    [
        ("/read", {"text": "  "}, "bad_request", "has no token"),
        ("/steer", STEER | {"prompt": "cat " * 200}, "bad_request", "do not fit the model's 128 positions"),
        ("/steer", STEER | {"latents": [], "vector": {"method": "add_direction", "concept": "topic.regal"}},
         "unknown_direction", "no direction of add_direction for 'topic.regal'.* did you mean 'topic.royal'"),
        ("/steer", STEER | {"latents": [], "vector": {"method": "ad_direction"}}, "unknown_direction", "did you mean"),
        ("/steer", STEER | {"latents": [{"latent": 1, "weight": 0}]}, "bad_request", "add up to no direction"),
    ],
)  # fmt: skip
def test_what_turns_out_impossible_fails_with_a_sentence(
    live_worker: Live,
    tiny_experiment: Tiny,
    path: str,
    question: dict[str, Any],
    kind: str,
    words: str,
) -> None:
    found = live_worker.ended(
        live_worker.asked(path, **{"experiment": tiny_experiment.report, **question})
    )
    assert (found["state"], found["problem"]["kind"]) == ("failed", kind)
    assert re.search(words, found["problem"]["error"])
    assert live_worker.answered("/read", experiment=tiny_experiment.report, text="the dog")[
        "tokens"
    ] == [
        " the",
        " dog",
    ]


def test_a_running_question_is_cancelled_between_two_tokens_and_the_next_one_runs(
    live_worker: Live, tiny_experiment: Tiny
) -> None:
    live_worker.answered("/read", experiment=tiny_experiment.report, text="the")
    with live_worker.slow():
        first = live_worker.asked("/steer", experiment=tiny_experiment.report, **LONG)
        second = live_worker.asked("/read", experiment=tiny_experiment.report, text="the king")
        while (
            live_worker.look(first)["message"] != "writing" or live_worker.look(first)["done"] < 2
        ):
            time.sleep(0.02)
        running = live_worker.look(first)
        assert running["state"] == "running" and running["total"] == 2 * LONG["max_new_tokens"] + 2
        assert (live_worker.look(second)["state"], live_worker.look(second)["position"]) == (
            "waiting",
            1,
        )
        started = time.monotonic()
        assert live_worker.client.get("/health", timeout=2).json()["waiting"] == 1
        live_worker.client.delete(f"/questions/{first}")
        found = live_worker.ended(first)
        assert time.monotonic() - started < 2, "120 passes of 0.05 s were left"
        assert (found["state"], found["problem"]["kind"]) == ("cancelled", "cancelled")
        assert found["steer"] is None
        assert live_worker.ended(second)["read"]["tokens"] == [" the", " king"]
    assert not live_worker.worker.bench.model.network._forward_pre_hooks, (
        "the model is left as it was"
    )


def test_a_waiting_question_is_cancelled_at_once(live_worker: Live, tiny_experiment: Tiny) -> None:
    with live_worker.slow():
        first = live_worker.asked("/steer", experiment=tiny_experiment.report, **LONG)
        second = live_worker.asked("/read", experiment=tiny_experiment.report, text="the king")
        assert live_worker.client.delete(f"/questions/{second}").json()["state"] == "cancelled"
        live_worker.client.delete(f"/questions/{first}")
        live_worker.ended(first)


def test_a_question_nobody_asks_about_any_more_does_not_block_the_queue(
    strict: Live, tiny_experiment: Tiny
) -> None:
    with strict.slow(0.1):
        # whoever asked is killed now
        lost = strict.asked("/steer", experiment=tiny_experiment.report, **LONG)
        assert strict.answered("/read", experiment=tiny_experiment.report, text="the king")[
            "tokens"
        ]
        found = strict.look(lost)
    assert found["state"] == "cancelled" and "nobody asked about it" in found["problem"]["error"]


def test_a_question_that_takes_too_long_is_ended(strict: Live, tiny_experiment: Tiny) -> None:
    with strict.slow(0.1):
        found = strict.ended(strict.asked("/steer", experiment=tiny_experiment.report, **LONG))
    assert (found["state"], found["problem"]["kind"]) == ("failed", "timed_out")
    assert "longer than 4 s" in found["problem"]["error"]


def test_a_full_queue_says_busy(strict: Live, tiny_experiment: Tiny) -> None:
    with strict.slow():
        numbers = [strict.asked("/steer", experiment=tiny_experiment.report, **LONG)]
        while strict.look(numbers[0])["state"] == "waiting":
            time.sleep(0.01)
        numbers += [
            strict.asked("/steer", experiment=tiny_experiment.report, **LONG) for _ in range(2)
        ]
        refused = strict.post("/read", experiment=tiny_experiment.report, text="the")
        assert (refused.status_code, refused.json()["kind"]) == (503, "busy")
        assert "2 questions wait already" in refused.json()["error"]
        for number in numbers:
            strict.client.delete(f"/questions/{number}")
        strict.ended(numbers[0])


def test_another_dictionary_takes_the_place_of_the_one_that_is_loaded(
    live_worker: Live, tiny_experiment: Tiny
) -> None:
    config = TrainConfig(
        dictionary=TopKConfig(d_sae=20, k=2), tokens=512, batch_size=256, split="select"
    )
    other = tiny_experiment.store.ensure(
        TRAIN, config, {"activations": tiny_experiment.artifacts["capture"]}, CPU
    )[0]
    live_worker.answered("/read", experiment=tiny_experiment.report, text="the")
    model = live_worker.worker.bench.model
    answer = live_worker.answered("/read", experiment=other.key, text="the cat", top=5)
    assert live_worker.client.get("/health").json()["dictionary"] == other.key
    assert [len(pairs) for pairs in answer["strongest_by_token"]] == [2, 2]
    assert live_worker.worker.bench.model is model, "the model is the same, so it stays"
    refused = live_worker.post(
        "/steer", experiment=other.key, **STEER | {"latents": [], "vector": {"method": "x"}}
    )
    assert (
        refused.json()["kind"] == "unknown_artifact"
        and "`latentflow steer` makes it" in refused.json()["error"]
    )


def test_a_model_that_lies_elsewhere_now_is_named_with_where_it_was_looked_for(
    tiny_experiment: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, key = tiny_experiment.model.folder, tiny_experiment.model.key
    folder.rename(folder.with_name("elsewhere"))
    try:
        with serving(tiny_experiment.store) as live:
            found = live.ended(live.asked("/read", experiment=tiny_experiment.report, text="the"))
            assert found["problem"]["kind"] == "model_not_found"
            assert f"wanted model {key}" in found["problem"]["error"]
            assert (
                str(folder) in found["problem"]["error"]
                and "set model.path" in found["problem"]["error"]
            )
            monkeypatch.setattr(
                "flows.live.bench._machine",
                lambda: (ModelConfig(path=f"{folder.parent}/elsewhere"), CPU),
            )
            assert live.answered("/read", experiment=tiny_experiment.report, text="the")[
                "tokens"
            ] == [" the"]
    finally:
        folder.with_name("elsewhere").rename(folder)


def test_only_programs_of_this_machine_are_answered(live_worker: Live) -> None:
    for headers in ({"Origin": "https://example.com"}, {"Host": "example.com"}):
        answer = live_worker.client.post("/read", json={}, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (403, "only this machine may ask")
    assert (
        live_worker.client.get("/health", headers={"Origin": "http://localhost:8501"}).status_code
        == 200
    )
    assert live_worker.client.get("/docs").status_code == 404, (
        "the documentation page loads from a foreign host"
    )


def test_an_unknown_question_is_a_sentence(live_worker: Live) -> None:
    for method in ("GET", "DELETE"):
        answer = live_worker.client.request(method, "/questions/none")
        assert (answer.status_code, answer.json()["kind"]) == (404, "unknown_question")


def test_the_worker_starts_without_torch() -> None:
    code = "import sys, flows.live.service; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_the_command_answers_on_its_port_logs_nothing_of_what_is_asked_and_stops_when_told(
    tiny_experiment: Tiny, tmp_path: Any
) -> None:
    port = free_port()
    own = {"LATENTFLOW_LIVE_PORT": str(port), "LATENTFLOW_STORE": str(tiny_experiment.store.root)}
    environment = {**os.environ, **own, "LATENTFLOW_STATE": str(tmp_path)}
    with (tmp_path / "log").open("w") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "flows.live"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            live, end = Live(f"http://127.0.0.1:{port}", None), time.monotonic() + 60
            while True:
                try:
                    assert live.client.get("/health").json()["dictionary"] is None
                    break
                except httpx.HTTPError:
                    assert worker.poll() is None and time.monotonic() < end
                    time.sleep(0.1)
            taken = subprocess.run(
                [sys.executable, "-m", "flows.live"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert (
                taken.returncode
                and f"port {port}, wanted for live, is held by process {worker.pid}" in taken.stderr
            )
            key = tiny_experiment.report
            assert live.answered(
                "/read", experiment=key, text="the queen saw a secret .", latents=[1]
            )
            assert live.ended(live.asked("/read", experiment=key, text=" "))["state"] == "failed"
            assert (
                live.post("/read", experiment=key, text="secret", latents=[999]).status_code == 404
            )
            live.client.close()
            worker.send_signal(signal.SIGINT)
            assert worker.wait(10) == 0
        finally:
            worker.kill()
            worker.wait()
    assert (tmp_path / "log").read_text() == ""


def test_a_store_without_the_experiment_says_so(store: Store) -> None:
    with serving(store) as live:
        answer = live.post("/read", experiment="0" * 24, text="the")
        assert (
            str(store.root) in answer.json()["error"]
            and "`latentflow experiment`" in answer.json()["error"]
        )


def test_the_order_of_entries_of_a_reading_is_that_of_the_text(tiny_experiment: Tiny) -> None:
    from components.dictionary.contract import Dictionary
    from components.interpretation.reading import read_text

    model, dictionary = (
        tiny_experiment.model.load(CPU),
        Dictionary.load(tiny_experiment.artifacts["train"]),
    )
    reading = read_text(model, dictionary, "the cat ran . " * 30, world.LENGTH, torch.float32)
    assert reading.token.tolist() == model.tokenizer("the cat ran . " * 30)["input_ids"]
    rows = reading.codes.dense()
    assert torch.equal(rows[:, 3], reading.activations(3))
