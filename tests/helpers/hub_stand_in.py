"""A stand-in for the Hugging Face hub's HTTP interface: makes repositories and branches, and takes a commit with large files."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
from collections.abc import Iterator
from typing import Any

from helpers.local_server import serving

TOKEN = "hf_of_the_tests"
LARGE = (".safetensors", ".onnx", ".pt2", ".png")


class Hub:
    """What the stand-in holds. `refuse` maps a part of a path to the status that it is answered with."""

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, bool] = {}
        self.branches: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.refuse: dict[str, int] = {}
        self.tokens: set[str | None] = set()
        self.commits: list[str] = []

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {}
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(\w+)/([\w%.-]+)", path):
            repo, what, revision = found.groups()
            return {"branch": self._branch, "preupload": self._preupload, "commit": self._commit}[what](repo, revision, body)
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return 200, {"transfer": "basic", "objects": [self._upload(one) for one in json.loads(body)["objects"]]}
        return 404, {"error": "no such route"}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.repos:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{repo}"}
        self.repos[repo] = asked.get("visibility") == "private"
        return 200, {"url": f"{self.url}/{repo}"}

    def info(self, repo: str) -> tuple[int, Any]:
        if repo not in self.repos:
            return 404, {"error": "Repository not found"}
        return 200, {"id": repo, "sha": "0" * 40, "private": self.repos[repo], "tags": [], "siblings": []}

    def _branch(self, repo: str, revision: str, body: bytes) -> tuple[int, Any]:
        self.branches.append(revision)
        return 200, {}

    def _preupload(self, repo: str, revision: str, body: bytes) -> tuple[int, Any]:
        files = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        return 200, {"files": files}

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "actions": {"upload": {"href": f"{self.url}/objects/{asked['oid']}"}}}

    def _commit(self, repo: str, revision: str, body: bytes) -> tuple[int, Any]:
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                self.files[value["path"]] = self.objects[value["oid"]]
        self.commits.append(revision)
        return 200, {"commitOid": "a" * 40, "commitUrl": f"{self.url}/{repo}/commit/{'a' * 40}"}


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            self._send(*self._refused(hub.answer, self.path.partition("?")[0], self._body()))

        def do_GET(self) -> None:
            self._send(*self._refused(hub.info, self.path.partition("?")[0].removeprefix("/api/models/")))

        def do_PUT(self) -> None:
            body = self._body()
            hub.objects[self.path.rpartition("/")[2]] = body
            assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
            self._send(*self._refused(lambda: (200, {})))

        def _refused(self, answer: Any, *arguments: Any) -> tuple[int, Any]:
            for part, status in hub.refuse.items():
                if part in self.path:
                    return status, {"error": f"refused with {status}"}
            found: tuple[int, Any] = answer(*arguments)
            return found

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline().strip(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _send(self, status: int, answer: Any) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with serving(Handler) as port:
        hub.url = f"http://127.0.0.1:{port}"
        yield hub
