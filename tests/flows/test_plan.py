"""The plan: what is cached is what the run finds, what is estimated is what the run makes, what
cannot fit is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from components import device
from components.config import override
from components.errors import ConfigError, NoMemoryError, NoSpaceError
from components.experiment import STAGES, stage_of
from components.store.artifact import Store
from flows import plan
from flows.chain import Chain
from flows.parameters import resolve
from tests import toys

TINY = Path("examples/tiny.yaml")
TO_MAKE = [
    "read",
    "capture",
    "train",
    "encode",
    "train untrained",
    "encode untrained",
    "interpret",
    "steer",
    "evaluate",
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return resolve(
        [f"execution.store={tmp_path_factory.mktemp('store')}", "execution.device=cpu"], TINY
    )


def test_every_stage_that_computes_has_an_estimator():
    assert [name for name, stage in STAGES.items() if not stage.estimator] == ["report"]


def test_what_a_plan_says_is_what_is_then_made_and_found(config):
    steps = {step.label: step for step in plan.plan(config, seconds=0)}
    assert [label for label in steps if label != "report"] == TO_MAKE and not any(
        s.cached for s in steps.values()
    )
    with Chain(config, plain=True) as chain:
        read, capture, train = (
            chain.artifact("read"),
            chain.artifact("capture"),
            chain.artifact("train"),
        )
    for made in (read, capture, train):
        said = steps[made.stage]
        assert said.key == made.key
        real = sum(file["bytes"] for file in made.manifest["files"].values())
        assert said.estimate.disk_bytes == pytest.approx(real, rel=0.1), made.stage
    planned = steps["capture"].estimate.facts
    assert planned["dtype"] == capture.facts["dtype"]
    assert {name: fact["d_in"] for name, fact in planned["hook_points"].items()} == {
        name: fact["d_in"] for name, fact in capture.facts["hook_points"].items()
    }
    for split, counts in capture.facts["splits"].items():
        assert planned["splits"][split]["rows"] == pytest.approx(counts["rows"], rel=0.05)
    assert len(steps["read"].estimate.facts["inventory"]) == read.facts["n_concepts"]
    again = {step.label: step for step in plan.plan(config, seconds=0)}
    assert [label for label, step in again.items() if step.cached] == ["read", "capture", "train"]
    wider = resolve(
        [f"execution.store={config.execution.store}", "train.dictionary.d_sae=256"], TINY
    )
    assert [step.label for step in plan.plan(wider, seconds=0) if step.cached] == [
        "read",
        "capture",
    ]


def test_seconds_are_what_this_machine_took_where_the_store_says_it(config):
    more = resolve(
        [f"execution.store={config.execution.store}", "execution.device=cpu", "train.tokens=40000"],
        TINY,
    )
    [made] = Store(config.execution.store).artifacts("train")

    def train() -> tuple[float, str, str]:
        [step] = [step for step in plan.plan(more, seconds=3.0) if step.label == "train"]
        assert step.timing
        return step.timing

    seconds, measured, extrapolated = train()
    took = made.manifest["made"]["seconds"]
    assert 1.3 * took < seconds < 2 * took and f"took {took:,.1f} s here" in measured
    assert extrapolated.startswith("in proportion to ")
    manifest = made.folder / "manifest.json"
    text = manifest.read_text()
    for before, after in (
        ('"continued": false', '"continued": true'),
        ('"machine": "', '"machine": "another '),
    ):
        manifest.write_text(text.replace(before, after))
        assert "here" not in train()[1], "what was begun before, or made elsewhere, says nothing"
    manifest.write_text(text)


def test_a_hook_point_by_another_librarys_name_is_the_same_capture(config):
    (name,) = config.capture.hook_points
    kind, _, layer = name.partition(".")
    other = f"blocks.{layer}.hook_{kind}"
    for named in (other, f"{name}, {other}"):
        alias = resolve(
            [f"execution.store={config.execution.store}", f"capture.hook_points=[{named}]"], TINY
        )
        steps = {step.label: step for step in plan.plan(alias, seconds=0)}
        assert steps["capture"].cached and steps["train"].cached, named


def test_a_plan_makes_nothing_and_times_every_stage(config, tmp_path):
    there = sorted(Path(config.execution.store).rglob("*"))
    steps = plan.plan(config, seconds=9.0)
    assert sorted(Path(config.execution.store).rglob("*")) == there
    timed = {step.label: step.timing for step in steps if step.timing}
    assert set(timed) == {
        step.label for step in steps if not step.cached and stage_of(step.stage).estimator
    }
    for label, timing in timed.items():
        assert 0 < timing[0] < 3600 and all(timing[1:]), label
    rows = plan.rows(steps)
    assert rows[-1]["label"] == "total" and rows[-1]["seconds"] == pytest.approx(
        sum(row["seconds"] or 0 for row in rows[:-1]), abs=0.1
    )
    json.dumps(rows, allow_nan=False)
    console = Console(record=True, width=200)
    plan.show(steps, console)
    told = console.export_text()
    assert "Memory is beside the process itself" in told and all(
        f"{label}: " in told for label in timed
    )


def test_a_sweep_that_is_listed_stands_below_the_totals(config):
    swept = override(
        config,
        {
            "sweep.dictionaries": {
                "topk": {"kind": "topk"},
                "relu": {"kind": "relu"},
                "basis": {"kind": "neurons"},
            },
            "sweep.widths": [64],
            "sweep.sparsities": {"topk": [4], "relu": [5]},
            "sweep.limit": 2,
        },
    )
    steps = plan.plan(swept, seconds=4.0)
    *_, total, row = plan.rows(steps)
    assert (total["label"], row["label"], row["cached"]) == ("total", "sweep", False)
    assert (
        row["seconds"] > 0 and row["memory"]["weights"] and row["disk_bytes"] > 6 * 4 * 2 * 64 * 64
    )
    assert total["seconds"] == pytest.approx(
        sum(step.timing[0] for step in steps[:-1] if step.timing), abs=0.1
    )
    console = Console(record=True, width=1000)
    plan.show(steps, console)
    told = console.export_text()
    assert "sweep: 7 dictionaries, about " in told
    assert "more than the 2 that are trained without asking: give --yes" in told
    said = Console(record=True, width=120)
    plan.say(swept, said)
    assert "sweep" not in said.export_text()  # an experiment trains none of them


def test_a_sweep_that_memory_cannot_hold_is_refused_by_the_plan(config):
    wide = override(
        config, {"sweep.dictionaries": {"relu": {"kind": "relu"}}, "sweep.widths": [40_000_000]}
    )
    with pytest.raises(
        NoMemoryError, match=r"^sweep wants .* nearest that fits: sweep\.widths='\["
    ):
        plan.plan(wide, seconds=0)


def test_what_memory_cannot_hold_is_refused_and_the_advice_fits(config):
    wide = ["train.dictionary.d_sae=40000000"]
    with pytest.raises(
        NoMemoryError, match=r"^train wants .* GiB of memory on this machine \("
    ) as caught:
        plan.plan(resolve([f"execution.store={config.execution.store}", *wide], TINY), seconds=0)
    name, value = str(caught.value).rpartition("nearest that fits: ")[2].split("=")
    assert name == "train.dictionary.d_sae"
    fits = resolve([f"execution.store={config.execution.store}", f"{name}={int(value) // 2}"], TINY)
    steps = {step.label: step for step in plan.plan(fits, seconds=0)}
    assert steps["train"].estimate.memory_bytes <= device.memory_free("cpu")[1]


def test_what_the_disk_cannot_hold_beside_what_comes_before_is_refused(
    config, monkeypatch, tmp_path
):
    fresh = resolve([f"execution.store={tmp_path}", "execution.device=cpu"], TINY)
    monkeypatch.setattr(plan, "disk_free", lambda store: 64 * 2**20 + 30 * 2**20)
    with pytest.raises(
        NoSpaceError, match=r"^capture wants .* MiB of disk in .* \(activations .*there is 28"
    ) as caught:
        plan.plan(fresh, seconds=0)
    assert "nearest that fits: capture.dtype=float16, or capture.tokens='{train: " in str(
        caught.value
    )
    cut = str(caught.value).partition("capture.tokens='")[2].rstrip("'")
    monkeypatch.setattr(plan, "disk_free", lambda store: 2**40)
    for advice in (f"capture.tokens={cut}", "capture.dtype=float16"):
        advised = resolve([f"execution.store={tmp_path}", "execution.device=cpu", advice], TINY)
        [capture] = [step for step in plan.plan(advised, seconds=0) if step.label == "capture"]
        assert capture.estimate.disk_bytes <= 29 * 2**20


def test_an_experiment_says_its_plan_and_is_not_stopped_by_it(config, caplog, monkeypatch):
    console = Console(record=True, width=120)
    plan.say(config, console)
    told = console.export_text()
    assert "to make: steer" in told and "to make: read" not in told
    monkeypatch.setattr(device, "memory_free", lambda name="auto": ("this machine", 10))
    plan.say(config, console)
    assert "before the start: encode wants" in caplog.text


def test_the_command_line_refuses_with_status_2_and_prints_rows(config):
    def run(*arguments):
        command = [sys.executable, "-m", "flows", "plan", "--params", str(TINY), *arguments]
        given = f"execution.store={config.execution.store}"
        return subprocess.run([*command, given], capture_output=True, text=True, check=False)

    refused = run("train.batch_size=900000000")
    assert refused.returncode == 2 and refused.stderr.startswith("NoMemoryError: train wants"), (
        refused.stderr
    )
    assert (
        "nearest that fits: train.batch_size=" in refused.stderr
        and "Traceback" not in refused.stderr
    )
    rows = json.loads(run("--json", "steer.concepts=[topic.kitchen]").stdout)
    assert [row["label"] for row in rows] == [*TO_MAKE, "report", "total"]
    assert {
        "seconds",
        "memory_bytes",
        "disk_bytes",
        "cached",
        "key",
        "measured",
        "extrapolated",
    } <= set(rows[0])


def test_controls_of_a_drawn_model_are_planned_and_share_the_text(config):
    listed = override(
        config, {"interpret.controls": ["untrained", "randomised", "randomised_blocks"]}
    )
    steps = {step.label: step for step in plan.plan(listed, seconds=0)}
    drawn = [
        f"{stage} {control}"
        for control in ("randomised", "randomised_blocks")
        for stage in ("capture", "train", "encode")
    ]
    before = {step.label: step for step in plan.plan(config, seconds=0)}
    assert [label for label in steps if label not in before] == drawn
    changed = {label for label, step in before.items() if steps[label].key != step.key}
    assert changed == {"interpret", "report"}
    assert (
        len({steps[f"capture{each}"].key for each in ("", " randomised", " randomised_blocks")})
        == 3
    )
    with Chain(listed, plain=True) as chain:
        made = chain.artifact("capture", "randomised")
        assert made.key == steps["capture randomised"].key
        assert made.manifest["inputs"]["corpus"]["key"] == chain.artifact("read").key
        assert made.facts["model_config"]["randomise"] == "all"
        assert chain.artifact("read", "randomised").key == chain.artifact("read").key


def test_an_imported_dictionary_cannot_be_trained_once_more_on_a_drawn_model(config, tmp_path):
    class Named(Chain):
        def _named(self, name):
            return toys.artifact(Store(tmp_path), "train", lambda folder: None, {})

    with (
        Named(override(config, {"dictionary": "theirs"}), plain=True) as chain,
        pytest.raises(ConfigError, match=r"'theirs' was trained, and that one was imported"),
    ):
        chain.artifact("train", "randomised")
