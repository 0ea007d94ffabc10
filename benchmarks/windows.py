"""Drives the three windows in headless Chromium and keeps what a person would see.

Against a stack that is up (`make up`): opens the experiment's form in Prefect, switches the
dictionary's `kind` on its tab, starts the run, follows it until it is completed, then opens the
same run in MLflow and every page of Streamlit, light and dark. Pictures go to `docs/images/`;
foreign requests, errors in the console and tracebacks are counted and must be none.
`tests/browser/test_windows.py` drives the same `Windows`.

    python benchmarks/windows.py [--images docs/images] [--kind relu] [--no-run]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import httpx
from PIL import Image
from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    WebSocket,
    sync_playwright,
)

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from flows.stack import environment  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
NO_CHROMIUM = (
    "no Chromium here: `apt-get install chromium` on Debian, or set CHROMIUM to the path of one"
)
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
]
PAGES = (
    "overview",
    "compare",
    "latents",
    "explanations",
    "map",
    "rate",
    "steering",
    "training",
    "lineage",
    "runs",
)
QUIET = (
    "[data-testid=stApp][data-test-script-state=notRunning][data-test-connection-state=CONNECTED]"
)

# Errors in the console that are nobody's fault here -> why. Everything else is one.
ALLOWED: Mapping[str, str] = {
    r"404.*/favicon\.ico": "a browser asks every server for it; MLflow and Prefect name their own in the page",
    r"404.*/ico/undefined\.svg": "Prefect's icon in the tab is named after the run's state, asked for before that is known",
    r"404.*/ajax-api/2\.0/mlflow/users/current": "MLflow's page asks who is logged in; without a login there is nobody",
    r"ResizeObserver loop completed with undelivered notifications": "a browser's note that MLflow's layout took two rounds",
    rf"404.*/({'|'.join(PAGES)})/_stcore/(health|host-config)": "on a deep link Streamlit's page first looks for its "
    "server below the link's own path, then where it is",
}


class Windows:
    """A browser on the three windows that remembers foreign requests, errors in the console and
    tracebacks.

    Attributes:
        page: the tab that is in front.
        addresses: of prefect, mlflow and streamlit.
        foreign: hosts beyond this machine that any tab asked.
        errors: what the consoles said, and what no page caught, beyond `ALLOWED` and what was
            forgiven.
    """

    def __init__(self, context: BrowserContext, addresses: Mapping[str, str], images: Path) -> None:
        self.addresses, self.images = addresses, images
        self.foreign: set[str] = set()
        self.errors: list[str] = []
        self.forgiven: list[str] = []
        self.context = context
        context.on("request", self._heard)
        context.on("page", lambda page: page.on("websocket", self._heard))
        context.on("console", self._console)
        context.on("weberror", lambda error: self.errors.append(f"uncaught: {error.error}"))
        self.page: Page = context.new_page()

    def _heard(self, request: Request | WebSocket) -> None:
        host = urlparse(request.url).hostname
        if host not in (None, "", "127.0.0.1", "localhost"):
            self.foreign.add(host)

    def _console(self, message: ConsoleMessage) -> None:
        said = f"{message.text} {message.location.get('url', '')}".strip()
        if message.type == "error" and not any(
            re.search(known, said) for known in (*ALLOWED, *self.forgiven)
        ):
            self.errors.append(said)

    @contextlib.contextmanager
    def forgiving(self, pattern: str) -> Iterator[None]:
        """What is being provoked on purpose is no error meanwhile."""
        self.forgiven.append(pattern)
        yield
        self.page.wait_for_timeout(200)  # the console speaks after the page has drawn
        self.forgiven.remove(pattern)

    def go(self, address: str, wait_for: str, seconds: float = 60) -> None:
        """Opens an address and waits until something is there."""
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.wait_for_selector(wait_for, timeout=seconds * 1000)
        self.refuse_traceback()

    def follow(self, link: Locator, wait_for: str, seconds: float = 90) -> None:
        """Clicks a link, in whichever tab it opens, and waits until something is there."""
        if link.get_attribute("target") == "_blank":
            with self.context.expect_page() as opened:
                link.click()
            self.page = opened.value
        else:
            link.click()
        self.page.wait_for_selector(wait_for, timeout=seconds * 1000)
        self.refuse_traceback()

    def refuse_traceback(self) -> None:
        """Notes a traceback that a person would read."""
        shown = self.page.locator("body").inner_text()
        if (
            "Traceback (most recent call last)" in shown
            or self.page.locator("[data-testid=stException]").count()
        ):
            self.errors.append(f"a traceback on {self.page.url}")

    def picture(self, name: str) -> None:
        """Keeps what is seen, in 256 colours: a page needs no more, and the file is a third."""
        self.images.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(self.page.screenshot())) as seen:
            few = seen.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            few.save(self.images / f"{name}.png", optimize=True)

    def close_assistant(self) -> None:
        """MLflow opens an assistant beside every run, for a language model that nobody here has."""
        self.page.wait_for_timeout(4000)
        close = self.page.locator("[data-component-id='mlflow.assistant.chat_panel.close']")
        if close.count():
            close.first.click()
            self.page.wait_for_timeout(800)

    # Prefect

    def form(self, deployment: str) -> None:
        """Opens the form of a deployment."""
        self.go(
            f"{self.addresses['prefect']}/deployments/deployment/{deployment}/run",
            ".schema-form-property",
        )

    def field(self, name: str) -> Locator:
        """One property of the form by its dotted name, `config` left out."""
        found: Locator = self.page.locator("body")
        for title in ("config", *(part.replace("_", " ").title() for part in name.split("."))):
            own = "normalize-space((.//span[contains(@class, 'schema-form-property__label')])[1])"
            found = found.locator(
                "xpath=.//*[contains(concat(' ', @class, ' '), ' schema-form-property ')]"
                f"[substring-before(concat({own}, ' ('), ' (') = '{title}']"
            ).first
        return found

    def fill(self, name: str, value: object) -> None:
        """Types a value into a field of the form."""
        self.field(name).locator("input, textarea").first.fill(str(value))

    def choose_kind(self, kind: str) -> None:
        """Switches the union of the form that has this kind to it: one tab for each."""
        tabs = self.page.locator("button, [role=tab], a")
        switch = tabs.filter(has_text=re.compile(rf"^\s*{kind}\w*\s*$", re.I)).first
        switch.scroll_into_view_if_needed()
        switch.click()

    def submit(self) -> None:
        """Sends the form."""
        self.page.get_by_role("button", name=re.compile("^submit$", re.I)).first.click()

    def artifact(self, key: str) -> None:
        """Opens the page of an artifact from the page of its flow run."""
        self.page.get_by_text("Artifacts", exact=True).first.click()
        cards = self.page.locator("a[href*='/artifacts/artifact/']")
        cards.filter(has=self.page.get_by_text(key, exact=True)).first.click()
        self.page.wait_for_url("**/artifacts/**")

    # Streamlit

    def read(self, query: str = "") -> None:
        """Opens Streamlit where a person enters it."""
        self.go(f"{self.addresses['streamlit']}/{query}", "h1", 90)
        self.settled()

    def turn_to(self, name: str) -> None:
        """Goes to another page of Streamlit by its navigation."""
        before = self.page.locator("h1").first.inner_text()
        self.page.locator("[data-testid=stSidebarNavLink]").get_by_text(
            name.title(), exact=True
        ).click()
        if name != "overview":
            self.page.wait_for_selector(f"h1:has-text('{name.title()}')", timeout=60_000)
        else:
            self.page.wait_for_function(
                "before => document.querySelector('h1')?.innerText !== before", arg=before
            )
        self.settled()

    def settled(self, seconds: float = 60) -> None:
        """Waits until Streamlit has drawn the page."""
        self.page.wait_for_timeout(250)  # what was done reaches the server
        self.page.wait_for_selector(QUIET, timeout=seconds * 1000)
        self.refuse_traceback()


@contextlib.contextmanager
def opened(addresses: Mapping[str, str], images: Path, dark: bool = False) -> Iterator[Windows]:
    """A browser on these addresses.

    Raises:
        SystemExit: there is no Chromium.
    """
    if not CHROMIUM:
        sys.exit(NO_CHROMIUM)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": 1440, "height": 1000}, color_scheme=scheme)
        context.set_default_timeout(30_000)
        try:
            yield Windows(context, addresses, images)
        finally:
            browser.close()


def api(path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
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
    """Switches the dictionary to `kind`, then starts the run; its id."""
    page = windows.page
    before = {run["id"] for run in api("flow_runs/filter", {"limit": 200})}
    windows.form(deployment())
    windows.picture("prefect-form")
    windows.choose_kind(kind)
    page.wait_for_timeout(800)
    windows.picture("prefect-form-kind")
    windows.submit()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        new = [run for run in api("flow_runs/filter", {"limit": 200}) if run["id"] not in before]
        if new:
            return new[0]["id"]
        page.wait_for_timeout(500)
    windows.picture("prefect-form-refused")
    sys.exit("the form was submitted and no run appeared; see prefect-form-refused.png")


def ended(run: str, seconds: float) -> dict[str, Any]:
    """Waits until the run has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = httpx.get(
            f"{environment.address('prefect')}/api/flow_runs/{run}", timeout=30
        ).json()
        if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return found
        time.sleep(3)
    sys.exit(f"run {run} did not end within {seconds:.0f} s")


def look(windows: Windows, report: str, suffix: str = "") -> None:
    """A picture of every page of Streamlit."""
    windows.read(f"?report={report}")
    for name in PAGES:
        if name != "overview":
            windows.turn_to(name)
        windows.page.wait_for_timeout(4000)  # charts are drawn after the page
        windows.picture(f"streamlit-{name}{suffix}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, default=REPOSITORY / "docs" / "images")
    parser.add_argument("--kind", default="relu")
    parser.add_argument("--no-run", action="store_true", help="only look")
    parser.add_argument("--seconds", type=float, default=1800, help="how long a run may take")
    arguments = parser.parse_args()
    addresses = {tool: environment.address(tool) for tool in ("prefect", "mlflow", "streamlit")}
    result: dict[str, Any] = {"foreign_hosts": [], "errors": []}
    with opened(addresses, arguments.images) as windows:
        if not arguments.no_run:
            run = start_from_form(windows, arguments.kind)
            found = ended(run, arguments.seconds)
            result["prefect"] = {"run": run, "state": found["state_type"], "kind": arguments.kind}
            result["prefect"]["parameters_kind"] = found["parameters"]["config"]["train"][
                "dictionary"
            ]["kind"]
            windows.go(f"{addresses['prefect']}/runs/flow-run/{run}", "text=Completed")
            windows.page.wait_for_timeout(3000)
            windows.picture("prefect-run")
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment = client.get_experiment_by_name("latentflow")
        assert experiment is not None
        newest = client.search_runs([experiment.experiment_id], "tags.report != ''", max_results=1)[
            0
        ]
        result["mlflow"] = {"run": newest.info.run_id, "report": newest.data.tags["report"]}
        place = f"{addresses['mlflow']}/#/experiments/{experiment.experiment_id}/runs"
        windows.go(f"{place}/{newest.info.run_id}", "text=Parameters", 90)
        windows.close_assistant()
        windows.picture("mlflow-run")
        windows.page.goto("about:blank")  # the same document otherwise
        windows.go(f"{place}?viewStateShareKey=headlines", "text=Metrics", 90)
        windows.close_assistant()
        windows.picture("mlflow-runs")
        look(windows, newest.data.tags["report"])
        result["foreign_hosts"] += sorted(windows.foreign)
        result["errors"] += windows.errors
    with opened(addresses, arguments.images, dark=True) as windows:
        look(windows, newest.data.tags["report"], "-dark")
        result["foreign_hosts"] += sorted(windows.foreign)
        result["errors"] += windows.errors
    print(json.dumps(result, indent=1))
    sys.exit(1 if result["foreign_hosts"] or result["errors"] else 0)


if __name__ == "__main__":
    main()
