"""A tiny experiment made by the real stages, and a real live worker over it on a free port."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from components.capture.capture import CAPTURE, CaptureConfig
from components.concept.gate import ProbeGate
from components.device import Execution
from components.dictionary.architectures.topk import TopKConfig
from components.dictionary.encode import ENCODE, EncodeConfig
from components.dictionary.settings import TrainConfig
from components.dictionary.train import TRAIN
from components.model.reference import ModelReference
from components.report.report import REPORT, ReportConfig
from components.steering.steer import STEER, SteerConfig
from components.store.artifact import Artifact, Store
from flows.live.service import application
from tests.steering import world

CPU = Execution(device="cpu")
STEERED = SteerConfig(
    concepts=["topic.animal", "topic.royal", "word.cat"],
    max_new_tokens=12,
    kl_budgets=[0.5],
    neutral_tokens=300,
    neutral_length=25,
    band_texts=48,
    gate=ProbeGate(min_auroc=0.8, min_lift=0.1),
    method_settings={"add_direction": {"n_candidates": 2}},
)


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A tiny experiment.

    Attributes:
        store: where it lies.
        model: the model, as an input of stages.
        artifacts: by stage.
    """

    store: Store
    model: ModelReference
    artifacts: dict[str, Artifact]

    @property
    def report(self) -> str:
        """Key of its report."""
        return self.artifacts["report"].key


def made(folder: Path) -> Tiny:
    """Trains the model, reads its world, then captures, trains, encodes, steers and reports with
    the real stages."""
    store, model = Store(folder / "store"), world.trained_model(folder / "model")
    found = {"read": world.corpus(store, world.PROMPTS)}

    def step(stage: Any, config: Any, **inputs: Any) -> None:
        found[stage.name] = store.ensure(stage, config, inputs, CPU)[0]

    captured = CaptureConfig(hook_points=(world.HOOK,), splits=("select", "validate"))
    step(CAPTURE, captured, model=model, corpus=found["read"])
    trained = TrainConfig(
        dictionary=TopKConfig(d_sae=48, k=6),
        tokens=30_000,
        batch_size=256,
        split="select",
        dead_after=9000,
    )
    step(TRAIN, trained, activations=found["capture"])
    given = {"model": model, "activations": found["capture"], "dictionary": found["train"]}
    step(ENCODE, EncodeConfig(splits=("select",)), **given)
    step(STEER, STEERED, **given, corpus=found["read"], codes=found["encode"])
    step(REPORT, ReportConfig(), train=found["train"], encode=found["encode"], steer=found["steer"])
    return Tiny(store, model, found)


class Live:
    """A worker that answers, and a client of it.

    Attributes:
        url: its address.
        worker: the worker inside.
    """

    def __init__(self, url: str, worker: Any) -> None:
        self.url, self.worker = url, worker
        self.client = httpx.Client(base_url=url, trust_env=False, timeout=30)

    def post(self, path: str, **question: Any) -> httpx.Response:
        """Asks."""
        return self.client.post(path, json=question)

    def asked(self, path: str, **question: Any) -> str:
        """Asks; the id."""
        answer = self.post(path, **question)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def look(self, number: str, wait: float = 0) -> dict[str, Any]:
        """Where a question stands."""
        answer = self.client.get(f"/questions/{number}", params={"wait": wait})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ended(self, number: str, seconds: float = 60) -> dict[str, Any]:
        """A question at its end."""
        end = time.monotonic() + seconds
        while (found := self.look(number, wait=5))["state"] in ("waiting", "running"):
            assert time.monotonic() < end, found
        return found

    def answered(self, path: str, **question: Any) -> dict[str, Any]:
        """Asks, waits, and gives the answer."""
        found = self.ended(self.asked(path, **question))
        assert found["state"] == "done", found["problem"]
        return found[path.strip("/")]

    @contextlib.contextmanager
    def slow(self, seconds: float = 0.05) -> Iterator[None]:
        """Every pass of the loaded model takes so much longer."""
        hook = self.worker.bench.model.network.register_forward_pre_hook(
            lambda *_: time.sleep(seconds)
        )
        try:
            yield
        finally:
            hook.remove()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(store: Store, **limits: Any) -> Iterator[Live]:
    """A worker over a store on a free port, its limits as given."""
    app, port = application(store, **limits), free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the worker did not start"
            time.sleep(0.02)
        live = Live(f"http://127.0.0.1:{port}", app.state.worker)
        yield live
        live.client.close()
    finally:
        server.should_exit = True
        thread.join(20)
