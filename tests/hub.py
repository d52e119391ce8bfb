"""A stand-in for the model hub on this machine."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# The command `lavish` without the pauses between retries of the hub's client.
COMMAND = "import sys, time; time.sleep = lambda _: None; from lavish.cli.main import main; sys.exit(main())"
NOWHERE = "http://127.0.0.1:9"


class Hub:
    """Repositories that all hold the same file, model.safetensors, on the branch `main`."""

    def __init__(self, content: bytes) -> None:
        self.commit(content)
        self.requests: list[str] = []
        self.large = True
        """Whether the hub tells the file's sha256, as it does for large files."""
        self.endpoint = NOWHERE

    def commit(self, content: bytes) -> None:
        """Make `content` the newest one."""
        self.content = content
        self.revision = hashlib.sha1(content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def environment(self, folder: Path, *, reachable: bool = True) -> dict[str, str]:
        """Return variables for processes that use this hub, with a cache in `folder`."""
        return {
            "HF_ENDPOINT": self.endpoint if reachable else NOWHERE,
            "HF_HOME": str(folder / "hub_cache"),
            "HF_HUB_DISABLE_XET": "1",
        }

    def lavish(self, folder: Path, *arguments: str, reachable: bool = True) -> subprocess.CompletedProcess[str]:
        """Call `lavish` in a folder."""
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=folder,
            env={**os.environ, **self.environment(folder, reachable=reachable)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a hub while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            if "/resolve/" in self.path:
                hub.requests.append(f"{self.command} {self.path}")
            if not re.fullmatch(rf"/[\w.-]+/[\w.-]+/resolve/(main|{hub.revision})/model.safetensors", self.path):
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("ETag", f'"{hub.sha256 if hub.large else hub.revision}"')
            self.send_header("X-Repo-Commit", hub.revision)
            self.send_header("Content-Length", str(len(hub.content)))
            self.end_headers()
            if body:
                self.wfile.write(hub.content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
