"""The exported page in Chromium, opened as a file: no server, no request, nothing amiss."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import windows
from components.export.contract import Findings, export
from components.export.targets import html
from components.store.artifact import Store
from tests.dashboards.conftest import written

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_it_opens_without_a_server(tmp_path: Path, scheme: str, width: int) -> None:
    if not windows.CHROMIUM:
        pytest.skip(windows.NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    store = Store(tmp_path / "artifacts")
    export(html.Html(), Findings.of(store, written(store).report.key), tmp_path / "page", [0, 7, 9])
    address = (tmp_path / "page" / html.FILE).as_uri()
    asked, complaints = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=windows.CHROMIUM, args=windows.ARGUMENTS)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(f"{address}#latent-7")
        assert asked == [address] and complaints == []
        assert page.locator("h2").all_inner_texts() == ["Latent 0", "Latent 7", "Latent 9"]
        assert page.locator("svg rect").count() > 10
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 19, 24)"
        assert dark == (scheme == "dark")
        box = page.locator("#latent-7").bounding_box()
        assert box is not None and -1 < box["y"] < 900
        page.screenshot(path=tmp_path / f"{scheme}.png")
        browser.close()
