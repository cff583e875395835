"""A Hub on loopback that takes what is pushed to it, and gives it back."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


class _Handler(BaseHTTPRequestHandler):
    files: dict[str, bytes]

    def _answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = f"http://{self.headers['Host']}"
        if self.path == "/api/repos/create":
            self._answer({"url": f"{address}/lab/model", "name": "lab/model"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]}
            )
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"commitUrl": f"{address}/lab/model/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._answer({"error": self.path}, 404)

    def do_GET(self) -> None:
        found = re.fullmatch(r"/lab/model/resolve/[^/]+/(.*)", self.path.partition("?")[0])
        if found is None and self.path.startswith("/api/models/lab/model/tree"):
            self._answer(
                [{"type": "file", "path": name, "size": len(each), "oid": ""} for name, each in self.files.items()]
            )
        elif found is None and self.path.startswith("/api/models/lab/model"):
            names = [{"rfilename": name} for name in self.files]
            self._answer({"id": "lab/model", "sha": COMMIT, "siblings": names, "tags": [], "private": False})
        elif found and found[1] in self.files:
            content = self.files[found[1]]
            self._answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')
        else:
            self._answer({"error": "not there"}, 404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def hub_server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Address of the Hub, and its files by name; its one repository is lab/model."""
    files: dict[str, bytes] = {}
    handler = type("Handler", (_Handler,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
