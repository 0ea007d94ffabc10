"""A hub on this machine: the few addresses that huggingface_hub asks for a listing and for files,
over real HTTP.

What asks it runs in a process of its own, since that library reads its address and its cache's when
it is imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
COMMIT = "a" * 40


class Hub:
    """Repositories by id, each a folder; `downloaded` are the files that were fetched, as
    `owner/name/path`."""

    def __init__(self, repositories: Mapping[str, Path], address: str) -> None:
        self.repositories, self.address = repositories, address
        self.downloaded: list[str] = []

    def answer(self, path: str, method: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/tree/[^/]+|/revision/[^/]+)?", path):
            repository, what = found[1], found[2] or ""
            if repository not in self.repositories:
                return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
            root = self.repositories[repository]
            files = [path for path in sorted(root.rglob("*")) if path.is_file()]
            names = {file.relative_to(root).as_posix(): file for file in files}
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": _digest(file)}
                for name, file in names.items()
            ]
            told: Any = (
                tree
                if what.startswith("/tree")
                else {"id": repository, "sha": COMMIT, "siblings": []}
            )
            return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            file = self.repositories.get(found[1], Path("nowhere")) / found[2]
            if not file.is_file():
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            if method == "GET":
                self.downloaded.append(f"{found[1]}/{found[2]}")
            return 200, {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": COMMIT}, file.read_bytes()
        return 404, {}, b""

    def run(self, code: str, home: Path, **variables: str) -> Any:
        """What Python code prints as its last line, as JSON, in a process that knows this hub
        only."""
        environment = os.environ | {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **variables,
        }
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def hub(repositories: Mapping[str, Path]) -> Iterator[Hub]:
    """Serves repositories on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = served.answer(self.path.partition("?")[0], self.command)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Hub(repositories, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()
