"""A hub of data sets over real HTTP: as much of Hugging Face's as reading files takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

#: Digests that a hub tells and nobody here looks at.
COMMIT, BLOB = "a" * 40, "b" * 40


@contextmanager
def hub(repository: str, files: dict[str, bytes]) -> Iterator[str]:
    """Serve the files of a repository of data sets, by their paths in it; yields the hub's address."""

    class Handler(_Handler):
        pass

    Handler.repository, Handler.files = repository, files
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repository: ClassVar[str]
    files: ClassVar[dict[str, bytes]]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer what is known of the repository, what is in a folder of it, or a file."""
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        api, tree, file = (f"{start}/{self.repository}{end}" for start, end in _PATHS)
        if path.startswith(tree):
            self._tell(self._folder(path.removeprefix(tree).strip("/"), query["recursive"] == ["true"]))
        elif path.startswith(file) and path.removeprefix(file) in self.files:
            self._send_file(self.files[path.removeprefix(file)])
        elif path == api:
            self._tell({"id": self.repository, "sha": COMMIT, "private": False, "tags": [], "siblings": []})
        else:
            self._send(404, b"{}", {})

    def _folder(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, data in self.files.items():
            name, _, below = path.removeprefix(prefix).partition("/")
            if path.startswith(prefix) and (recursive or not below):
                found[path] = {"type": "file", "path": path, "size": len(data), "oid": BLOB}
            if path.startswith(prefix) and below:
                found[prefix + name] = {"type": "directory", "path": prefix + name, "oid": BLOB}
        return list(found.values())

    def _tell(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send_file(self, data: bytes) -> None:
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1]
        said = {"Content-Range": f"bytes {first}-{last}/{len(data)}", "ETag": f'"{BLOB}"', "X-Repo-Commit": COMMIT}
        self._send(206, part, said)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


#: Before and behind the name of a repository: what is known of it, a folder in it, a file.
_PATHS = (("/api/datasets", ""), ("/api/datasets", "/tree/main"), ("/datasets", "/resolve/main/"))
