"""The pages' client of the live worker, and the two page sections, against a real worker on a free
port."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from components.store.tables import GENERATIONS
from dashboards import live
from tests.workers import Live, Tiny, free_port

PAGES = Path(__file__).resolve().parents[2] / "dashboards" / "pages"
TEXT = "the cat <b>ran</b> . the king sat ."


@pytest.fixture
def address(live_worker: Live, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LATENTFLOW_LIVE_URL", live_worker.url)
    return live_worker.url


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("LATENTFLOW_LIVE_URL", url)
    return url


@pytest.fixture
def open_page(
    tiny_experiment: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., AppTest]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("LATENTFLOW_STORE", str(tiny_experiment.store.root))

    def opened(page: str, **query: Any) -> AppTest:
        app = AppTest.from_file(str(PAGES / f"{page}.py"), default_timeout=60)
        for name, value in query.items():
            app.query_params[name] = str(value)
        return app.run()

    return opened


def html(app: AppTest) -> str:
    return "\n".join(element.proto.body for element in app.main if element.type == "html")


def said(app: AppTest) -> str:
    elements = [*app.caption, *app.info, *app.warning, *app.error]
    return "\n".join(element.value for element in elements)


def press(app: AppTest, label: str) -> AppTest:
    button = next(button for button in app.button if button.label == label)
    return button.click().run()


def until_answered(app: AppTest) -> AppTest:
    """Runs the page as its polling does, until there is nothing left to cancel."""
    end = time.monotonic() + 60
    while any(button.label == "Cancel" for button in app.button):
        assert time.monotonic() < end
        time.sleep(0.2)
        app.run()
    assert not app.exception
    return app


def test_a_question_is_asked_followed_and_answered(address: str, tiny_experiment: Tiny) -> None:
    question = live.ask("read", tiny_experiment.report, text="the cat", latents=[1])
    found = live.look(question.id, wait=5)
    while not found.ended:
        found = live.look(question.id, wait=4)
    assert found.state == "done" and found.read and found.read.tokens == [" the", " cat"]
    assert found.problem is None
    assert live.health().dictionary == tiny_experiment.artifacts["train"].key


def test_a_refusal_keeps_the_workers_sentence_and_kind(address: str, tiny_experiment: Tiny) -> None:
    with pytest.raises(
        live.LiveError, match=r"^No latent 77 in dictionary .* it has 0 to 47\.$"
    ) as caught:
        live.ask("read", tiny_experiment.report, text="the", latents=[77])
    assert caught.value.kind == "unknown_latent"
    with pytest.raises(live.LiveError, match="started anew") as caught:
        live.look("gone")
    assert caught.value.kind == "unknown_question"


def test_a_worker_that_is_down_is_a_sentence_with_the_command(nobody: str) -> None:
    started = time.monotonic()
    for call in (live.health, lambda: live.ask("read", "0", text="x"), lambda: live.cancel("x")):
        with pytest.raises(
            live.LiveError, match=rf"No live worker answers at {nobody}. `latentflow up`"
        ) as caught:
            call()
        assert caught.value.kind == "down"
    assert time.monotonic() - started < 5


def test_a_proxy_of_the_environment_is_not_asked(
    address: str, tiny_experiment: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    live._client.cache_clear()
    assert live.health().status == "ok"


@pytest.mark.parametrize("body", [b"<html>another program</html>", b'{"detail": "Not Found"}'])
def test_another_program_on_the_port_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("LATENTFLOW_LIVE_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(live.LiveError, match="`latentflow up` starts it"):
            live.health()
        server.shutdown()


def test_a_text_of_your_own_is_shown_as_a_heat_map_with_every_token_escaped(
    address: str, open_page: Callable[..., AppTest], live_worker: Live, tiny_experiment: Tiny
) -> None:
    best = live_worker.answered("/read", experiment=tiny_experiment.report, text=TEXT, top=1)[
        "strongest"
    ][0]
    app = open_page("latents", latent=best["latent"])
    app.text_area[0].set_value(TEXT)
    app = until_answered(press(app, "Test this text"))
    assert not app.exception and not app.warning
    assert f'title="{best["maximum"]:.3g}"' in html(app)
    assert f"Active on {best['n_active']} of 8 tokens" in said(app)
    assert "no word for 1 of them" in said(app), "the tokenizer of the toy knows no <b>ran</b>"
    assert "&lt;unk&gt;" in html(app) and "<unk>" not in html(app)
    strongest = next(frame.value for frame in app.dataframe if "on the token" in frame.value)
    assert strongest["latent"].tolist()[0] == best["latent"]


def test_the_text_follows_to_the_next_latent(
    address: str, open_page: Callable[..., AppTest], live_worker: Live, tiny_experiment: Tiny
) -> None:
    app = open_page("latents", latent=1)
    app.text_area[0].set_value(TEXT)
    until_answered(press(app, "Test this text"))
    app = until_answered(press(app, "next →"))
    assert app.header[0].value == "Latent 2"
    read = live_worker.answered("/read", experiment=tiny_experiment.report, text=TEXT, latents=[2])
    n = sum(value > 0 for value in read["activations"]["2"])
    assert (
        f"Active on {n} of 8 tokens" if n else "Latent 2 is not active on any of the 8 tokens"
    ) in said(app)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("  ", "Write a text first"),
        ("x" * 200_000, r"50,000 bytes at most, and 200,000 bytes came"),
    ],
)
def test_a_text_that_cannot_be_read_is_a_sentence(
    address: str, open_page: Callable[..., AppTest], text: str, sentence: str
) -> None:
    app = open_page("latents", latent=1)
    app.text_area[0].set_value(text)
    app = press(app, "Test this text")
    assert not app.exception and sentence in said(app)


def test_without_a_worker_both_sections_name_the_command(
    nobody: str, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("latents", latent=1)
    app.text_area[0].set_value(TEXT)
    app = press(app, "Test this text")
    assert not app.exception and "`latentflow up` starts it" in said(app)
    app = press(open_page("steering", latent=1), "Write")
    assert not app.exception and "`latentflow up` starts it" in said(app)


def test_the_playground_writes_steered_beside_plain_text_with_its_cost(
    address: str, open_page: Callable[..., AppTest], tiny_experiment: Tiny, live_worker: Live
) -> None:
    app = open_page("steering", latent=3)
    assert not app.exception
    app = until_answered(press(app, "Write"))
    costs = {metric.label: metric.value for metric in app.metric}
    assert costs["KL on neutral text"].endswith("nats a token") and float(costs["Coefficient"]) > 0
    assert "Steered · latent 3" in html(app)
    question = {
        "latents": [{"latent": 3}],
        "kl_budget": 0.5,
        "prompt": app.text_area(key="prompt").value,
    }
    number = {"prompt_number": 12, "max_new_tokens": 12}
    answer = live_worker.answered("/steer", experiment=tiny_experiment.report, **question, **number)
    assert answer["steered"][0]["text"] in html(app) and answer["plain"][0]["text"] in html(app)


def test_a_methods_vector_at_the_stages_budget_writes_the_text_of_the_stage(
    address: str, open_page: Callable[..., AppTest], tiny_experiment: Tiny
) -> None:
    rows = GENERATIONS.read(tiny_experiment.artifacts["steer"]).filter(pl.col("prompt") == 12)
    of = rows.filter(
        pl.col("concept").eq_missing("topic.royal") | (pl.col("method") == "unsteered")
    )
    of = of.select("method", "text").unique("method")
    written = dict(of.iter_rows())
    app = open_page("steering", concept="topic.royal")
    app.segmented_control(key="steer with").set_value("a method's vector").run()
    assert app.selectbox(key="for the concept").value == "topic.royal"
    app.selectbox(key="vector of").set_value("mean_difference").run()
    app = until_answered(press(app, "Write"))
    texts = html(app).rpartition("Plain")[2]
    plain, steered = texts.split("Steered · mean difference, topic.royal")
    assert written["unsteered"] in plain and written["mean_difference"] in steered
    assert written["mean_difference"] not in plain


def test_without_a_steer_artifact_latents_can_still_be_tried(
    address: str, open_page: Callable[..., AppTest], tiny_experiment: Tiny
) -> None:
    folder = tiny_experiment.artifacts["steer"].folder
    folder.rename(folder.with_name("away"))
    st.cache_resource.clear()  # pages remember for seconds which artifacts there are
    try:
        app = open_page("steering", latent=3)
        assert "`latentflow steer` makes it" in said(app)
        assert app.segmented_control(key="steer with").options == ["latents"]
        app = until_answered(press(app, "Write"))
        assert "Steered · latent 3" in html(app)
    finally:
        folder.with_name("away").rename(folder)
        st.cache_resource.clear()


def test_a_slow_answer_blocks_nothing_and_can_be_cancelled(
    address: str, open_page: Callable[..., AppTest], live_worker: Live, tiny_experiment: Tiny
) -> None:
    live_worker.answered("/read", experiment=tiny_experiment.report, text="the")
    app = open_page("steering", latent=3)
    app.number_input(key="length").set_value(100).run()
    with live_worker.slow(0.1):
        started = time.monotonic()
        app = press(app, "Write")
        assert time.monotonic() - started < 5, "202 passes of 0.1 s are left"
        assert [button.label for button in app.button] == ["Write", "Cancel"]
        app.text_area(key="prompt").set_value("the queen").run()  # the page stays usable
        app = until_answered(press(app, "Cancel"))
    assert "It was cancelled." in said(app)
    assert live_worker.worker.queue.running is None


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("seed", "many", "No seed `many`: wanted a whole number"),
        ("seed", "-1", "No seed `-1`"),
        ("latents", ["<b>cat</b>"], "No latent `<b>cat</b>`"),
        ("latents", ["48"], "No latent 48 in dictionary"),
        ("latents", [], "Choose at least one latent"),
        ("prompt", "cat " * 300, "do not fit the model's 128 positions"),
    ],
)
def test_bad_input_of_the_playground_is_a_sentence(
    address: str, open_page: Callable[..., AppTest], key: str, value: Any, sentence: str
) -> None:
    app = open_page("steering", latent=3)
    kinds = {"seed": app.text_input, "latents": app.multiselect, "prompt": app.text_area}
    kinds[key](key=key).set_value(value).run()
    app = until_answered(press(app, "Write"))
    assert not app.exception and sentence in said(app)


def test_latents_are_mixed_by_weights(address: str, open_page: Callable[..., AppTest]) -> None:
    app = open_page("steering", latent=3)
    app.multiselect(key="latents").set_value(["3", "5"]).run()
    app.number_input(key="weight 5").set_value(-0.5).run()
    app.segmented_control(key="strength as").set_value("coefficient").run()
    app = until_answered(press(app, "Write"))
    assert "Steered · latents 1 × 3 + −0.5 × 5" in html(app)
    assert next(metric.value for metric in app.metric if metric.label == "Coefficient") == "0.5"


def test_the_pages_do_not_import_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import dashboards.live, dashboards.questions, dashboards.own_text, "
        "dashboards.playground; sys.exit('torch' in sys.modules or 'flows' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
