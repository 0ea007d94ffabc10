"""How fast the latents page answers on a wide dictionary: reads, filters, sorts and pages, through
the pages' own code.

Writes an invented experiment of 100,000 latents through the real store and the real table schemas,
then measures in this process what a click costs: the first reading of the list (from cold caches),
every filter and every order, the tables of one latent, the rows and the bytes that would be sent.
`--browser` also serves the dashboards on a free port and times the first view and a search in
headless Chromium, beside an empty page of Streamlit, below which no view can be. Limits: a filter
with its sort 300 ms, 10,000 rows sent, first view 3 s.

    python benchmarks/pages.py [--latents 100000] [--store FOLDER] [--browser] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from components.config import Config  # noqa: E402
from components.report.tables import REPORT  # noqa: E402
from components.seeds import numpy_generator  # noqa: E402
from components.store import tables  # noqa: E402
from components.store.artifact import Artifact, Store  # noqa: E402
from components.store.stage import Progress, Stage  # noqa: E402

LIMITS = {"filter_and_sort_ms": 300, "rows_sent": 10_000, "first_view_s": 3}
SPLITS = ("select", "explain", "calibrate", "validate", "test")
WORDS = np.array(
    [
        f"{a}{b}"
        for a in ("harbo", "kitch", "gard", "mark", "libr", "stat")
        for b in ("ur", "en", "et", "y")
    ]
)
TOKENS = np.array([f" token{number}" for number in range(5000)])
WINDOWS, LENGTH = 6, 16
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


class WideConfig(Config):
    """What the invented stages are asked for."""

    latents: int = 100_000
    """How many latents."""


Write = Callable[[Path, np.random.Generator, int], None]


def wide(store: Store, latents: int) -> dict[str, Artifact]:
    """The invented experiment, made once for each number of latents."""

    def made(stage: str, write: Write, **inputs: Artifact) -> Artifact:
        def work(folder: Path, config: WideConfig, given: Any, settings: Any) -> Iterator[Progress]:
            write(folder, numpy_generator(0, stage), config.latents)
            yield Progress(1, 1, "tables")
            return {
                "name": f"topk-{latents}-k32",
                "hook_point": "resid_post.2",
                "d_in": 768,
                "d_sae": latents,
            }

        return store.ensure(Stage(stage, 1, work), WideConfig(latents=latents), inputs)[0]

    found = {"train": made("train", _curve)}
    found["encode"] = made("encode", _encode, dictionary=found["train"])
    found["interpret"] = made("interpret", _interpret, codes=found["encode"])
    found["evaluate"] = made("evaluate", _evaluate, codes=found["encode"])
    scored = {"interpret": found["interpret"], "evaluate": found["evaluate"]}
    found["report"] = made("report", _report(found["evaluate"].key), train=found["train"], **scored)
    return found


def _curve(folder: Path, random: np.random.Generator, latents: int) -> None:
    tables.CURVE.write(
        folder,
        [{"step": s, "tokens": s * 4096, "name": "fvu", "value": 1 / (s + 1)} for s in range(500)],
    )


def _encode(folder: Path, random: np.random.Generator, latents: int) -> None:
    parts = []
    for split in SPLITS:
        active = (10 ** random.uniform(0, 5, latents)).astype(np.int64)
        maximum = random.gamma(4, 2, latents).astype(np.float32)
        counts = (active[:, None] * 0.6 ** np.arange(20)).astype(np.int64)
        columns = {
            "latent": np.arange(latents),
            "n_active": active,
            "density": active / 1e6,
            "maximum": maximum,
            "mean_active": maximum / 3,
            "histogram": counts,
            "decoder_norm": np.ones(latents, np.float32),
            "promoted": TOKENS[random.integers(0, len(TOKENS), (latents, 10))].tolist(),
            "promoted_logits": random.normal(1, 0.1, (latents, 10)).astype(np.float32),
            "suppressed": TOKENS[random.integers(0, len(TOKENS), (latents, 10))].tolist(),
            "suppressed_logits": random.normal(-1, 0.1, (latents, 10)).astype(np.float32),
        }
        lists = {
            name: pl.Series(columns[name].tolist())
            for name in ("histogram", "promoted_logits", "suppressed_logits")
        }
        parts.append(
            tables.LATENTS.frame(
                pl.DataFrame(columns | lists).with_columns(pl.lit(split).alias("split"))
            )
        )
    tables.LATENTS.write(folder, pl.concat(parts))
    near = {
        "latent": np.repeat(np.arange(latents), 10),
        "rank": np.tile(np.arange(10), latents),
        "neighbour": random.integers(0, latents, latents * 10),
        "cosine": np.tile(np.linspace(0.9, 0.3, 10), latents),
    }
    tables.NEIGHBOURS.write(folder, pl.DataFrame(near))


def _interpret(folder: Path, random: np.random.Generator, latents: int) -> None:
    said = [
        f"the word '{a}' after '{b}'"
        for a, b in zip(*WORDS[random.integers(0, len(WORDS), (2, latents))], strict=True)
    ]
    number = np.arange(latents)
    tables.EXPLANATIONS.write(
        folder, pl.DataFrame({"latent": number, "explainer": "log_odds", "explanation": said})
    )
    scores = []
    for role, centre in (("entry", 0.75), ("floor", 0.5)):
        value = random.normal(centre, 0.08, latents).clip(0, 1)
        columns = {
            "latent": number,
            "role": role,
            "explainer": "log_odds",
            "scorer": "detection",
            "predictor": "lexical",
            "value": value,
        }
        scores.append(
            pl.DataFrame(
                columns | {"low": value - 0.04, "high": value + 0.04, "n": 40, "n_failed": 0}
            )
        )
    tables.EXPLANATION_SCORES.write(folder, pl.concat(scores))
    rows = latents * WINDOWS
    values = np.zeros((rows, LENGTH), np.float32)
    values[:, LENGTH // 2] = random.gamma(4, 2, rows)
    columns = {
        "latent": np.repeat(number, WINDOWS),
        "window": np.tile(np.arange(WINDOWS), latents),
        "split": "test",
        "role": "top",
        "quantile": 0,
        "document": random.integers(0, 10_000, rows),
        "start": 0,
        "tokens": pl.Series(TOKENS[random.integers(0, len(TOKENS), (rows, LENGTH))].tolist()),
        "activations": pl.Series(values.tolist()),
        "maximum": values.max(1),
    }
    tables.CONTEXTS.write(folder, pl.DataFrame(columns))


def _evaluate(folder: Path, random: np.random.Generator, latents: int) -> None:
    rows = [
        {"concept": f"topic.{number}", "concept_kind": "document", "unit_kind": kind, "unit": number * 7, "sign": 1,
         "gate": True, "ap": 0.9, "select_ap": 0.9, "auroc": 0.95, "found": True, "n_positive": 10, "n": 1000}
        for number in range(400)
        for kind in ("latent", "neuron")
    ]  # fmt: skip
    tables.CONCEPTS_FOUND.write(folder, rows)


def _report(key: str) -> Write:
    def write(folder: Path, random: np.random.Generator, latents: int) -> None:
        row = {"stage": "evaluate", "entry": "reconstruction", "measure": "fvu", "role": "entry", "value": 0.01, "low": 0.009,
               "high": 0.011, "n": 900, "better": "lower", "unit_of_replication": "document", "artifact": key,
               "split": "test"}  # fmt: skip
        REPORT.write(folder, [row])

    return write


def timed(work: Callable[[], Any], times: int = 5) -> tuple[float, Any]:
    """Median milliseconds of `work` and what it returned last."""
    seconds = []
    result = None
    for _ in range(times):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return round(1000 * statistics.median(seconds), 1), result


def measure(store: Store, latents: int) -> dict[str, Any]:
    """Every figure of the module docstring, without a browser."""
    os.environ["LATENTFLOW_STORE"] = str(store.root)
    from dashboards import listing as lists
    from dashboards import runs, views

    (shown,) = [e for e in runs.experiments() if e.artifacts["train"].facts["d_sae"] == latents]
    figures: dict[str, Any] = {"latents": latents, "cores": os.cpu_count()}
    started = time.perf_counter()
    listing = lists.read(shown)
    figures["first_list_ms"] = round(1000 * (time.perf_counter() - started), 1)
    figures["list_mb"] = round(listing.frame.estimated_size() / 1e6, 1)
    started = time.perf_counter()
    lists.tokens(shown)
    figures["first_token_search_ms"] = round(1000 * (time.perf_counter() - started), 1)

    asked: Mapping[str, dict[str, Any]] = {
        "everything by score": {"sort": "score"},
        "two words by score": {"text": "harbour gardet", "sort": "score"},
        "a concept": {"text": "topic.3", "sort": "density"},
        "a token by density": {"token": "token42", "sort": "density"},
        "density and activation": {"density": (1e-4, 1e-2), "minimum": 5.0, "sort": "maximum"},
        "nothing found": {"text": "nosuchword", "sort": "density"},
        "last page by number": {"sort": "latent", "descending": False, "page": -1},
    }
    figures["filter_and_sort_ms"], sent = {}, []
    for name, given in asked.items():
        how = {key: value for key, value in given.items() if key != "page"}
        page, near = given.get("page", 1), lists.tokens(shown) if "token" in given else None

        def work(how: dict[str, Any] = how, page: int = page, index: Any = near) -> Any:
            return views.latents.page_of(
                views.latents.narrowed(listing.frame, index=index, **how), page
            )

        figures["filter_and_sort_ms"][name], rows = timed(work)
        sent.append(rows.height)
    figures["rows_sent"] = max(sent)

    def latent() -> None:
        import streamlit as st

        st.cache_resource.clear()
        encode, interpret = shown.artifacts["encode"], shown.artifacts["interpret"]
        number = latents // 2
        assert runs.rows(tables.LATENTS, encode, latent=number, split="test").height == 1
        assert runs.rows(tables.NEIGHBOURS, encode, latent=number).height == 10
        assert runs.rows(tables.CONTEXTS, interpret, latent=number).height == WINDOWS
        assert runs.rows(tables.EXPLANATION_SCORES, interpret, latent=number).height == 2

    figures["one_latent_ms"], _ = timed(latent, times=3)
    return figures


def browse(store: Store) -> dict[str, Any]:
    """The same in headless Chromium: seconds until the list is drawn, until a search has answered,
    bytes received."""
    from playwright.sync_api import sync_playwright

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        empty = Path(folder) / "empty.py"
        empty.write_text(
            "import streamlit as st\nst.header('Latent 42')\nst.dataframe({'n': [1]})\n",
            encoding="utf-8",
        )
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, script in (
            ("empty_page_s", empty),
            ("first_view_s", REPOSITORY / "dashboards" / "app.py"),
        ):
            with _served(script, store) as port:
                figures[name] = []
                for _ in range(4):  # the first of them finds a server that has read nothing yet
                    page = browser.new_page(viewport={"width": 1366, "height": 768})
                    frames: list[int] = []
                    page.on(
                        "websocket",
                        lambda s, to=frames: s.on("framereceived", lambda f: to.append(len(f))),
                    )
                    started = time.perf_counter()
                    page.goto(
                        f"http://127.0.0.1:{port}/{'' if script == empty else 'latents?latent=42'}"
                    )
                    page.wait_for_selector("h2:has-text('Latent 42')", timeout=60_000)
                    page.wait_for_selector("[data-testid=stDataFrame] canvas", timeout=60_000)
                    figures[name].append(round(time.perf_counter() - started, 2))
                    if script != empty:
                        page.wait_for_selector(
                            "[data-testid=stVegaLiteChart] :is(svg, canvas)", timeout=60_000
                        )
                        figures.setdefault("whole_view_s", []).append(
                            round(time.perf_counter() - started, 2)
                        )
                        figures["websocket_mb"] = round(sum(frames) / 1e6, 2)
                        started = time.perf_counter()
                        search = page.get_by_placeholder("explanation or concept")
                        search.fill("harbour")
                        search.press("Enter")
                        page.wait_for_function(
                            "!/([0-9,]+) of \\1 latents/.test(document.body.innerText)",
                            timeout=60_000,
                        )
                        figures["search_s"] = round(time.perf_counter() - started, 2)
                    page.close()
        browser.close()
    return figures


@contextlib.contextmanager
def _served(script: Path, store: Store) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = script == REPOSITORY / "dashboards" / "app.py"  # served as `latentflow up` does
    command = [
        sys.executable,
        "-m",
        *(["dashboards"] if ours else ["streamlit", "run", str(script)]),
    ]
    command += ["--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.headless", "true"]
    environment = os.environ | {"LATENTFLOW_STORE": str(store.root), "PYTHONPATH": str(REPOSITORY)}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{store.root / 'none.db'}"
    server = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)
    try:
        _until_up(port)
        yield port
    finally:
        server.terminate()
        server.wait()


def _until_up(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit("the dashboards did not start within 60 s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latents", type=int, default=100_000)
    parser.add_argument("--store", type=Path, help="keep the invented store here and use it again")
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(arguments.store or folder)
        started = time.perf_counter()
        wide(store, arguments.latents)
        figures = {
            "written_s": round(time.perf_counter() - started, 1),
            **measure(store, arguments.latents),
        }
        if arguments.browser:
            figures |= browse(store)
    slowest = max(figures["filter_and_sort_ms"].values())
    kept = slowest <= LIMITS["filter_and_sort_ms"] and figures["rows_sent"] <= LIMITS["rows_sent"]
    kept = kept and max(figures.get("first_view_s", [0])) <= LIMITS["first_view_s"]
    if arguments.json:
        print(json.dumps(figures | {"limits": LIMITS, "limits_kept": kept}, indent=1))
    else:
        for name, value in figures.items():
            print(f"{name:24} {value}")
        print(f"limits {'kept' if kept else 'BROKEN'}: {LIMITS}")
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
