"""A server on loopback that answers chat completions as a test scripts it, and keeps the books that
a client is held to."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PRICE = {"input": 2.0, "cached": 0.5, "output": 8.0, "reasoning": 10.0}
"""USD for a million tokens of each kind, on the server's own bill."""


@dataclass(frozen=True)
class Act:
    """What the server does with one request: seconds of silence, then an answer, whole or
    broken."""

    body: bytes = b"{}"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    silence: float = 0.0
    cut: bool = False
    """Promises more bytes than come."""
    drip: float = 0.0
    """Seconds between one byte and the next."""
    tokens: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Billed: input, cached, reasoning, output."""
    paid: bool = False
    dropped: bool = False
    """The connection is closed without a word."""


def answer(
    text: str | None, tokens: tuple[int, int, int, int] = (10, 5, 3, 7), **changes: Any
) -> Act:
    """A whole answer; `changes` are of its choice, or `model`, `fingerprint` and `usage`, of its
    body."""
    read, cached, reasoning, written = tokens
    usage = {
        "prompt_tokens": read + cached,
        "completion_tokens": written + reasoning,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    body = {
        "model": changes.pop("model", "judge-1"),
        "system_fingerprint": changes.pop("fingerprint", "fp_a"),
    }
    body["usage"] = changes.pop("usage", usage)
    message = {"role": "assistant", "content": text} | changes.pop("message", {})
    body["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"} | changes]
    return Act(json.dumps(body).encode(), tokens=tokens, paid=True)


def error(status: int, message: str, **headers: str) -> Act:
    """An error as OpenAI words it."""
    return Act(
        json.dumps({"error": {"message": message}}).encode(),
        status,
        {k.replace("_", "-"): v for k, v in headers.items()},
    )


def echo(sent: Mapping[str, Any]) -> Act:
    """Says the prompt again."""
    return answer(f"answer to {prompt_of(sent)}")


def prompt_of(sent: Mapping[str, Any]) -> str:
    return sent["messages"][-1]["content"]


class Server:
    """A running server.

    Attributes:
        port: where it listens.
        url: its address.
        script: what it does with a request; the request and how often this prompt came before.
        models: what it lists; None for no list.
        sent: bodies of all requests, in order of arrival, with the time.
        headers: theirs, names in lower case.
        paid: how often each prompt was answered and billed.
    """

    def __init__(self, port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}/v1"
        self.script: Callable[[Mapping[str, Any], int], Act] = lambda sent, times: echo(sent)
        self.models: Any = [{"id": "judge-1", "max_model_len": 4096}]
        self.key: str | None = None
        self.sent: list[Mapping[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[Mapping[str, str]] = []
        self.paid: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.lists, self.list_status = 0, 200
        self.most_at_once = self._at_once = 0
        self._came: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.leave: Callable[[], None] = lambda: None
        """Stops listening: whoever comes from now on finds nobody."""
        self.come_back: Callable[[], object] = lambda: None
        """Listens again, at the same address."""

    @property
    def prompts(self) -> list[str]:
        """Of all requests, in order of arrival."""
        return [prompt_of(sent) for sent in self.sent]

    @property
    def usd(self) -> float:
        """What everything has cost, by the server's own count."""
        return sum(self.tokens[kind] * PRICE[kind] for kind in PRICE) / 1e6

    def act(self, sent: Mapping[str, Any], headers: Mapping[str, str]) -> Act:
        with self.lock:
            self.sent.append(sent)
            self.times.append(time.monotonic())
            self.headers.append(headers)
            times = self._came[prompt_of(sent)]
            self._came[prompt_of(sent)] += 1
        return self.script(sent, times)

    def bill(self, sent: Mapping[str, Any], act: Act) -> None:
        with self.lock:
            self.paid[prompt_of(sent)] += 1
            for kind, n in zip(("input", "cached", "reasoning", "output"), act.tokens, strict=True):
                self.tokens[kind] += n

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        with self.lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self.lock:
                self._at_once -= 1


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.lists += 1
            if server.models is None:
                self._write(Act(b"", 404))
            elif (
                server.key is not None
                and self.headers.get("Authorization") != f"Bearer {server.key}"
            ):
                self._write(error(401, f"bad key {self.headers.get('Authorization')}"))
            else:
                self._write(Act(json.dumps({"data": server.models}).encode(), server.list_status))

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.busy():
                act = server.act(
                    sent, {name.lower(): value for name, value in self.headers.items()}
                )
                time.sleep(act.silence)
                # before the answer goes out: who pays for what is lost on the way is the client's
                # question
                if act.paid:
                    server.bill(sent, act)
                if act.dropped:
                    self.close_connection = True
                else:
                    self._write(act)

        def _write(self, act: Act) -> None:
            with contextlib.suppress(ConnectionError):
                self.send_response(act.status)
                for name, value in act.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(act.body) + 1000 * act.cut))
                self.end_headers()
                for byte in act.body if act.drip else ():
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(act.drip)
                if not act.drip:
                    self.wfile.write(act.body)
            self.close_connection = act.cut or self.close_connection

        def log_message(self, *args: Any) -> None: ...

    class Http(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False  # one that hangs is left behind

    running: list[tuple[Http, threading.Thread]] = []
    of_running = threading.Lock()

    def listen(port: int) -> int:
        http = Http(("127.0.0.1", port), Handler)
        thread = threading.Thread(
            target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        thread.start()
        running.append((http, thread))
        return http.server_address[1]

    def leave() -> None:
        with of_running:  # several requests may want it at once
            while running:
                http, thread = running.pop()
                http.shutdown()
                http.server_close()
                thread.join()

    server = Server(listen(0))
    server.leave, server.come_back = leave, lambda: listen(server.port)
    try:
        yield server
    finally:
        leave()
