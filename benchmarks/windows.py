"""Drives the three windows in headless Chromium and keeps what a person would see.

Against a stack that is up (`make up`): opens the experiment's form in Prefect, switches the dictionary's `kind` on its tab,
starts the run, follows it until it is completed, then opens the same run in MLflow and in Streamlit. Pictures go to
`docs/images/`; foreign requests and errors in the console are counted and must be none.

    python benchmarks/windows.py [--images docs/images] [--no-run] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

import httpx
from playwright.sync_api import Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from flows import environment  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
]


class Windows:
    """A browser that remembers foreign requests and console errors."""

    def __init__(self, page: Page, images: Path) -> None:
        self.page, self.images = page, images
        self.foreign: set[str] = set()
        self.errors: list[str] = []
        page.on("request", self._request)
        page.on("console", self._console)

    def _request(self, request: object) -> None:
        host = urlparse(request.url).hostname  # type: ignore[attr-defined]
        if host not in (None, "127.0.0.1", "localhost", ""):
            self.foreign.add(host)

    def _console(self, message: object) -> None:
        if message.type == "error":  # type: ignore[attr-defined]
            where = message.location.get("url", "")  # type: ignore[attr-defined]
            self.errors.append(f"{message.text} {where}".strip())  # type: ignore[attr-defined]

    def picture(self, name: str, full: bool = False) -> None:
        self.images.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(self.images / f"{name}.png"), full_page=full)

    def go(self, address: str, wait_for: str, seconds: float = 60) -> None:
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.wait_for_selector(wait_for, timeout=seconds * 1000)


def api(path: str, body: dict) -> list[dict]:
    answer = httpx.post(f"{environment.address('prefect')}/api/{path}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()


def deployment() -> str:
    """The id of the served experiment, waiting until it is there."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for found in api("deployments/filter", {"flows": {"name": {"any_": ["experiment"]}}}):
            return found["id"]
        time.sleep(1)
    sys.exit("no deployment of the experiment is served; is `make up` running?")


def start_from_form(windows: Windows, kind: str) -> str:
    """Fills the form: switches the dictionary to `kind`, then starts the run; its id."""
    page = windows.page
    before = {run["id"] for run in api("flow_runs/filter", {"limit": 200})}
    windows.go(f"{environment.address('prefect')}/deployments/deployment/{deployment()}/run", "text=Parameters")
    tab = page.get_by_role("tab", name=re.compile(f"^{kind}", re.I)).first
    if not tab.count():
        tab = page.locator("button, [role=tab], a").filter(has_text=re.compile(rf"^\s*{kind}\w*\s*$", re.I)).first
    tab.scroll_into_view_if_needed(timeout=60_000)
    windows.picture("prefect-form")
    tab.click()
    page.wait_for_timeout(800)
    windows.picture("prefect-form-kind")
    page.get_by_role("button", name=re.compile("^submit$", re.I)).first.click()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        new = [run for run in api("flow_runs/filter", {"limit": 200}) if run["id"] not in before]
        if new:
            return new[0]["id"]
        page.wait_for_timeout(500)
    windows.picture("prefect-form-refused")
    sys.exit("the form was submitted and no run appeared; see prefect-form-refused.png")


def follow(run: str, seconds: float) -> dict:
    """Waits until the run has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = httpx.get(f"{environment.address('prefect')}/api/flow_runs/{run}", timeout=30).json()
        if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return found
        time.sleep(3)
    sys.exit(f"run {run} did not end within {seconds:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=REPOSITORY / "docs" / "images")
    parser.add_argument("--kind", default="relu")
    parser.add_argument("--no-run", action="store_true", help="only look")
    parser.add_argument("--seconds", type=float, default=1800, help="how long a run may take")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not CHROMIUM:
        sys.exit("no Chromium found: install the package chromium or set CHROMIUM to its path")
    result: dict = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        windows = Windows(page, arguments.images)
        if not arguments.no_run:
            run = start_from_form(windows, arguments.kind)
            ended = follow(run, arguments.seconds)
            result["prefect"] = {"run": run, "state": ended["state_type"], "kind": arguments.kind}
            result["prefect"]["parameters_kind"] = ended["parameters"]["config"]["train"]["dictionary"]["kind"]
            windows.go(f"{environment.address('prefect')}/runs/flow-run/{run}", "text=Completed")
            page.wait_for_timeout(3000)
            windows.picture("prefect-run")
        else:
            windows.go(f"{environment.address('prefect')}/runs", "text=Runs")
            page.wait_for_timeout(2000)
            windows.picture("prefect-runs")
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment = client.get_experiment_by_name("latentflow")
        assert experiment is not None
        parents = [r for r in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" not in r.data.tags]
        newest = parents[0]
        result["mlflow"] = {"run": newest.info.run_id, "report": newest.data.tags.get("report")}
        address = f"{environment.address('mlflow')}/#/experiments/{experiment.experiment_id}/runs/{newest.info.run_id}"
        windows.go(address, "text=Parameters", 90)
        page.wait_for_timeout(4000)
        windows.picture("mlflow-run")
        for name, path in (
            ("overview", ""),
            ("latents", "latents"),
            ("explanations", "explanations"),
            ("steering", "steering"),
        ):
            for theme in ("light", "dark"):
                query = f"?report={newest.data.tags['report']}&embed_options={theme}_theme"
                windows.go(f"{environment.address('streamlit')}/{path}{query}", "[data-testid=stAppViewContainer]", 90)
                page.wait_for_selector("h1, h2", timeout=90_000)
                page.wait_for_selector("[data-testid=stStatusWidget]", state="detached", timeout=90_000)
                page.wait_for_timeout(6000)
                windows.picture(f"streamlit-{name}" if theme == "light" else f"streamlit-{name}-dark")
        browser.close()
    result["foreign_hosts"] = sorted(windows.foreign)
    result["console_errors"] = windows.errors
    print(json.dumps(result, indent=1))
    sys.exit(1 if windows.foreign else 0)


if __name__ == "__main__":
    main()
