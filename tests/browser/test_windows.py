"""A person's way through the three windows, in Debian's Chromium on a real stack: trigger, review,
read."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest
import yaml

from benchmarks import pages, windows
from benchmarks.windows import Windows
from components.store.artifact import Store
from components.store.tables import EXPLANATIONS
from tests.stacks import TINY, Room

LATENTS = 100_000
TEXT = "Mary walked to the kitchen ."
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """A stack over a finished tiny experiment and an invented wide one; the form is filled with the
    tiny one."""
    if not windows.CHROMIUM:
        pytest.skip(windows.NO_CHROMIUM)
    room = Room(tmp_path_factory.mktemp("windows"))
    writing = threading.Thread(target=pages.wide, args=(Store(room.store), LATENTS))
    writing.start()
    status, output = room.run(
        "experiment", "--params", str(TINY), f"execution.store={room.store}", "name=made first"
    )
    writing.join()
    assert status == 0, output
    process = room.up()
    yield room
    room.close()
    process.wait(30)


@pytest.fixture(scope="module")
def seen(room: Room) -> Iterator[Windows]:
    addresses = {tool: f"http://127.0.0.1:{port}" for tool, port in room.ports.items()}
    with windows.opened(addresses, room.folder / "images") as seen:
        yield seen


@pytest.fixture(autouse=True)
def nothing_amiss(seen: Windows) -> Iterator[None]:
    """After each step: nobody foreign was asked, no console complained, no page showed a
    traceback."""
    yield
    seen.picture("last")
    assert seen.foreign == set()
    assert seen.errors == [], f"and the page was {seen.images / 'last.png'}"


def deployment(room: Room) -> str:
    """The served experiment, its form filled with the tiny one."""
    found = room.api("deployments/filter", {"flows": {"name": {"any_": ["experiment"]}}})[0]["id"]
    config = yaml.safe_load(TINY.read_text()) | {
        "execution": {"store": str(room.store), "threads": 1}
    }
    room.fill_form(found, config)
    return found


def test_the_form_refuses_a_wrong_value_and_starts_the_corrected_run(
    seen: Windows, room: Room
) -> None:
    before = {run["id"] for run in room.api("flow_runs/filter", {})}
    seen.form(deployment(room))
    seen.fill("name", "from the form")
    seen.fill("interpret.latents", 0)
    # the refusal that is asked for
    with seen.forgiving(r"409 \(Conflict\).*/create_flow_run|/assets/FlowRunCreate"):
        seen.submit()
        refusal = seen.page.get_by_text(re.compile(r"config\.interpret\.latents")).first
        refusal.wait_for()
        assert re.search(r"0 is less than or equal to the minimum of 0", refusal.inner_text())
    assert {run["id"] for run in room.api("flow_runs/filter", {})} == before
    seen.fill("interpret.latents", 6)
    seen.submit()
    seen.page.wait_for_url("**/deployments/deployment/*?tab=Runs")
    (run,) = [run for run in room.api("flow_runs/filter", {}) if run["id"] not in before]
    seen.page.locator(f"a[href$='/runs/flow-run/{run['id']}']").first.click()
    seen.page.wait_for_url(f"**/runs/flow-run/{run['id']}*")
    seen.page.get_by_text("Completed", exact=True).first.wait_for(timeout=150_000)
    seen.page.get_by_text(
        re.compile(r"^report +[0-9a-f]{24}")
    ).first.wait_for()  # what the run said
    run = room.api(f"flow_runs/{run['id']}")
    assert run["state_type"] == "COMPLETED"
    assert run["name"].startswith("from the form")
    assert run["parameters"]["config"]["interpret"]["latents"] == 6


def test_a_run_leads_to_its_numbers_in_mlflow(seen: Windows) -> None:
    run = seen.page.url
    seen.artifact("mlflow")
    seen.follow(
        seen.page.locator(f"a[href^='{seen.addresses['mlflow']}']").first, "text=Parameters"
    )
    seen.page.get_by_text("from the form").first.wait_for()
    seen.page.get_by_text("interpret.latents").first.wait_for()
    seen.go(run, "text=Completed")


def test_a_run_leads_to_what_came_out_in_streamlit(seen: Windows, room: Room) -> None:
    seen.artifact("dashboard")
    seen.follow(seen.page.locator(f"a[href^='{seen.addresses['streamlit']}']").first, "h1")
    seen.settled()
    seen.page.get_by_text("Every score").first.wait_for()
    key = re.search(r"report=([0-9a-f]{24})", seen.page.url)
    assert key and Store(room.store).get("report", key[1]).facts
    seen.page.get_by_role("link", name="open in Prefect").first.wait_for()


@pytest.mark.parametrize("name", windows.PAGES[1:])
def test_every_page_is_drawn(seen: Windows, name: str) -> None:
    seen.turn_to(name)
    assert seen.page.locator("[data-testid=stAlertContentError]").count() == 0


def test_the_overview_answers_at_its_own_name(seen: Windows) -> None:
    seen.go(f"{seen.addresses['streamlit']}/overview", "text=Every score")
    assert seen.page.get_by_text("Page not found").count() == 0


def test_a_latent_is_opened_from_the_list(seen: Windows) -> None:
    seen.turn_to("latents")
    first = seen.page.locator("h2:has-text('Latent ')").inner_text()
    seen.page.locator("[data-testid=stDataFrame]").first.click(position={"x": 16, "y": 35 * 3 + 17})
    seen.page.wait_for_function(
        "first => ![first, undefined].includes([...document.querySelectorAll('h2')].map(h => "
        "h.innerText).find(text => text.startsWith('Latent ')))",
        arg=first,
    )
    seen.settled()
    opened = seen.page.locator("h2:has-text('Latent ')").inner_text()
    assert f"latent={re.findall(r'[0-9]+', opened)[0]}" in seen.page.url
    seen.page.get_by_text("Where it fires").first.wait_for()


def test_a_text_is_tested_live(seen: Windows) -> None:
    seen.page.get_by_placeholder("Write or paste a text").fill(TEXT)
    seen.page.get_by_role("button", name="Test this text").click()
    said = seen.page.get_by_text(
        re.compile(r"ctive on (any of the )?[\d,]+ (of [\d,]+ )?tokens")
    ).first
    said.wait_for(timeout=90_000)
    seen.settled()
    assert re.search(rf"\b{len(TEXT.split())} tokens", said.inner_text())
    assert seen.page.get_by_text("latents most active on this text").count() == 1


def test_steering_is_written_live_beside_plain_text(seen: Windows) -> None:
    latent = re.findall(r"latent=(\d+)", seen.page.url)[0]
    seen.turn_to("steering")
    seen.page.get_by_role("button", name="Write", exact=True).click()
    seen.page.get_by_text("KL on neutral text").first.wait_for(timeout=90_000)
    seen.settled()
    seen.page.get_by_text(f"Steered · latent {latent}").first.wait_for()
    written = seen.page.get_by_text(
        re.compile(r"^[1-9]\d* tokens · [\d.]+ nats a token under the plain model$")
    )
    assert written.count() == 2
    cost = (
        seen.page.locator("[data-testid=stMetric]")
        .filter(has_text="KL on neutral text")
        .inner_text()
    )
    assert re.search(r"\d nats a token", cost)


def test_a_map_is_drawn_and_coloured(seen: Windows) -> None:
    seen.turn_to("map")
    seen.page.get_by_role("button", name="Draw the map").click()
    told = seen.page.get_by_text(re.compile(r"^[\d,]+ of [\d,]+ latents\. Decoder directions"))
    told.wait_for(timeout=90_000)
    seen.settled()
    drawn, there = re.findall(r"[\d,]+", told.inner_text())[:2]
    assert drawn == there and int(there.replace(",", "")) > 0
    drawing = seen.page.locator("[data-testid=stVegaLiteChart]").locator("canvas, svg").first
    before = drawing.screenshot()
    seen.page.get_by_role("radio", name="concept").or_(
        seen.page.get_by_role("button", name="concept", exact=True)
    ).first.click()
    seen.settled()
    assert drawing.screenshot() != before


def test_an_explanation_is_rated_blind(seen: Windows) -> None:
    seen.turn_to("rate")
    counted = seen.page.get_by_text(re.compile(r"latents rated by you"))
    assert counted.inner_text().startswith("0 of ")
    seen.page.get_by_role("button", name="does not fit", exact=True).or_(
        seen.page.get_by_role("radio", name="does not fit", exact=True)
    ).first.click()
    seen.page.get_by_role("button", name="Keep and go on").click()
    seen.page.get_by_text(re.compile(r"^1 of [\d,]+ latents rated by you")).wait_for()
    seen.settled()


def test_a_text_is_rated_blind(seen: Windows) -> None:
    seen.page.get_by_text("Steered text", exact=True).click()
    seen.page.get_by_text(re.compile(r"^0 of [\d,]+ texts rated by you")).wait_for()
    for control in seen.page.get_by_test_id("stButtonGroup").all():
        control.get_by_text("no", exact=True).click()
    seen.page.get_by_role("button", name="Keep and go on").click()
    seen.page.get_by_text(re.compile(r"^1 of [\d,]+ texts rated by you")).wait_for()
    seen.settled()


def test_a_hundred_thousand_latents_are_searched(seen: Windows, room: Room) -> None:
    seen.turn_to("latents")
    choice = seen.page.get_by_test_id("stSidebar").get_by_role("combobox")
    choice.click()
    choice.fill(f"topk-{LATENTS}")
    seen.page.get_by_role("option").filter(has_text=f"topk-{LATENTS}").first.click()
    seen.page.get_by_text(f"{LATENTS:,} of {LATENTS:,} latents, rows 1 to 100").wait_for(
        timeout=60_000
    )
    (interpret,) = [
        a for a in Store(room.store).artifacts("interpret") if a.facts.get("d_sae") == LATENTS
    ]
    said = EXPLANATIONS.read(interpret)["explanation"].str
    wanted = int((said.contains("harbour") & said.contains("gardet")).sum())
    assert 0 < wanted < LATENTS
    search = seen.page.get_by_placeholder("explanation, concept or note")
    search.fill("harbour gardet")
    search.press("Enter")
    seen.page.get_by_text(
        f"{wanted:,} of {LATENTS:,} latents, rows 1 to {min(100, wanted)}"
    ).wait_for(timeout=10_000)


def test_a_deep_link_opens_its_latent(seen: Windows) -> None:
    seen.go(f"{seen.addresses['streamlit']}/latents?latent=3", "h2:has-text('Latent 3')")
    seen.settled()
