"""A stand-in for the Hugging Face hub's HTTP interface: repositories whose files are listed and read."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from helpers.local_server import serving


class HubFiles:
    """`repos` maps `datasets/OWNER/NAME` or `models/OWNER/NAME` to the files by their paths; `tokens` are those that requests had."""

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str | None] = set()

    def answer(self, path: str, asked: dict[str, list[str]]) -> tuple[str, Any]:
        """A code of the hub's errors, empty where there is none, and JSON or bytes. `asked` are the parameters of the request."""
        if found := re.fullmatch(r"/api/((?:datasets|models)/[^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            files = self.repos.get(found[1])
            return (
                ("RepoNotFound", {})
                if files is None
                else ("", {"id": found[1].partition("/")[2], "sha": "0" * 40, "siblings": []})
            )
        if found := re.fullmatch(r"/api/((?:datasets|models)/[^/]+/[^/]+)/(tree|paths-info)/[^/]+/?(.*)", path):
            repo, what, below = found.groups()
            entries = self._entries(repo)
            if what == "paths-info":
                return "", [entry for name, entry in entries.items() if name in asked["paths"]]
            # Names behind that of the folder; without `recursive` those in the folder itself.
            found_below = {name: name.removeprefix(f"{below}/") for name in entries if not below or name.startswith(f"{below}/")}
            deep = asked.get("recursive", [""])[0].lower() == "true"
            listed = [entries[name] for name, rest in found_below.items() if deep or "/" not in rest]
            return ("", listed) if listed else ("EntryNotFound", {})
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = self.repos.get(f"{found[1] or 'models/'}{found[2]}", {}).get(found[3])
            return ("EntryNotFound", {}) if content is None else ("", content)
        return "EntryNotFound", {}

    def _entries(self, repo: str) -> dict[str, dict[str, Any]]:
        files = self.repos.get(repo, {})
        folders = {str(folder) for name in files for folder in PurePosixPath(name).parents if folder != PurePosixPath(".")}
        return {
            **{name: {"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)},
            **{
                name: {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
                for name, content in files.items()
            },
        }


@contextlib.contextmanager
def serving_hub_files() -> Iterator[HubFiles]:
    hub = HubFiles()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(urllib.parse.parse_qs(self.path.partition("?")[2]))

        def do_HEAD(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            is_json = "json" in (self.headers.get("Content-Type") or "")
            self._answer(json.loads(body) if is_json else urllib.parse.parse_qs(body))

        def _answer(self, asked: dict[str, list[str]]) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            error, found = hub.answer(urllib.parse.unquote(self.path.partition("?")[0]), asked)
            content, status = found if isinstance(found, bytes) else json.dumps(found).encode(), 404 if error else 200
            if (wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")) and not error:
                first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
                content, status = content[first : last + 1], 206
            self.send_response(status)
            if error:
                self.send_header("X-Error-Code", error)
            self.send_header("Content-Type", "application/octet-stream" if isinstance(found, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    with serving(Handler) as port:
        hub.url = f"http://127.0.0.1:{port}"
        yield hub
