"""Before a run: what a language model would be asked and cost is said, nobody is asked, and a dear
run waits for a yes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from components.errors import ConfigError
from components.experiment import ExperimentConfig
from components.store.estimate import Forecast
from flows import plan
from flows.parameters import resolve
from tests.client.servers import Server, serving

TINY = Path("examples/tiny.yaml")
PRICE = "{model: judge-1, input: 2.0, output: 8.0}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def config(server: Server, folder: Path, *more: str) -> ExperimentConfig:
    settings = [
        f"execution.store={folder / 'store'}",
        "execution.device=cpu",
        "interpret.client.kind=endpoint",
        f"interpret.client.url={server.url}",
        "interpret.client.model=judge-1",
        f"interpret.client.prices=[{PRICE}]",
        "interpret.explainers=[log_odds, max_activating]",
        *more,
    ]
    return resolve(settings, TINY)


def told(of: ExperimentConfig) -> str:
    written = io.StringIO()
    plan.say(of, Console(file=written, width=300))
    return written.getvalue()


def forecast_of(of: ExperimentConfig) -> Forecast:
    [step] = [step for step in plan.plan(of, seconds=0) if step.stage == "interpret"]
    assert step.estimate.forecast
    return step.estimate.forecast


def test_a_forecast_is_said_and_nobody_is_asked(server: Server, tmp_path: Path) -> None:
    few = config(server, tmp_path, "interpret.latents=5")
    found = forecast_of(few)
    # five latents of the dictionary and of its control, each perhaps asked twice
    assert found.calls == 2 * 2 * 5
    assert found.usd == pytest.approx((2.0 * found.input_tokens + 8.0 * found.output_tokens) / 1e6)
    assert f"interpret asks a language model at most {found.calls} times" in told(few)
    assert f"{found.usd:.2f} USD; budget: none" in told(few)
    assert not server.sent and not server.lists


def test_a_dear_run_waits_for_a_yes(server: Server, tmp_path: Path) -> None:
    judged = ["interpret.predictors=[client, lexical]", "interpret.latents=100"]
    dear = config(server, tmp_path, *judged)
    with pytest.raises(
        ConfigError, match=r"^interpret: this may cost .* USD, more than 5; say --yes"
    ):
        told(dear)
    assert "asks a language model" in told(
        config(server, tmp_path, *judged, "execution.confirmed=true")
    )
    # what a budget lets through is no more than the budget
    within = config(server, tmp_path, *judged, "interpret.budget={usd: 2, calls: 9000}")
    assert forecast_of(within).needs_leave is None
    assert "budget: 2 USD and 9,000 calls" in told(within)
    assert not server.sent and not server.lists


def test_without_an_entry_that_asks_there_is_no_forecast(server: Server, tmp_path: Path) -> None:
    offline = config(server, tmp_path, "interpret.explainers=[log_odds]")
    [step] = [step for step in plan.plan(offline, seconds=0) if step.stage == "interpret"]
    assert step.estimate.forecast is None
    same_store = [f"execution.store={tmp_path / 'store'}", "execution.device=cpu"]
    unset = resolve([*same_store, "interpret.explainers=[log_odds]"], TINY)
    [same] = [each for each in plan.plan(unset, seconds=0) if each.stage == "interpret"]
    assert same.key == step.key


def test_what_judges_of_steering_ask_is_said_too(server: Server, tmp_path: Path) -> None:
    asked = config(
        server,
        tmp_path,
        "interpret.explainers=[log_odds]",
        "steer.judges=[concept, fluency, yes_no]",
        "steer.client.kind=endpoint",
        f"steer.client.url={server.url}",
        "steer.client.model=judge-1",
        f"steer.client.prices=[{PRICE}]",
    )
    [step] = [step for step in plan.plan(asked, seconds=0) if step.stage == "steer"]
    found = step.estimate.forecast
    assert found is not None and found.calls > 0
    assert found.usd == pytest.approx((2.0 * found.input_tokens + 8.0 * found.output_tokens) / 1e6)
    assert f"steer asks a language model at most {found.calls:,} times" in told(asked)
    nobody = resolve(["steer.judges=[concept, fluency, yes_no]"], TINY)
    [same] = [step for step in plan.plan(nobody, seconds=0) if step.stage == "steer"]
    assert same.estimate.forecast is None and same.key != step.key
    assert not server.sent and not server.lists
