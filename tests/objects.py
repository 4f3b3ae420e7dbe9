"""An object store over real HTTP, and a proxy before it that fails as such stores do."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, urlsplit

from tests.conftest import free_port, wait_until

#: What the library for S3 takes from its environment.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "a-secret-for-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
#: The store looks at the name only.
_AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)
_SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class Bucket:
    """One bucket of an object store, looked at without the library that crawler uses."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.endpoint = endpoint
        self.name = name
        self._ask("PUT", "").close()

    @property
    def environment(self) -> dict[str, str]:
        """Return what a process must be given to reach the store."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint}

    def names(self) -> list[str]:
        """Return the names of all objects, sorted; each one is whole."""
        found: list[str] = []
        more = "?list-type=2"
        while more:
            with self._ask("GET", more) as answer:
                page = ET.fromstring(answer.read())
            found += [str(item.findtext(f"{_SPACE}Key")) for item in page.iter(f"{_SPACE}Contents")]
            token = page.findtext(f"{_SPACE}NextContinuationToken")
            more = f"?list-type=2&continuation-token={quote(token, safe='')}" if token else ""
        return sorted(found)

    def unfinished(self) -> int:
        """Return the number of uploads in parts that were neither completed nor given up."""
        with self._ask("GET", "?uploads") as answer:
            return len(list(ET.fromstring(answer.read()).iter(f"{_SPACE}Upload")))

    def get(self, name: str) -> bytes:
        """Return an object."""
        with self._ask("GET", f"/{name}") as answer:
            content: bytes = answer.read()
            return content

    def put(self, name: str, content: bytes) -> None:
        """Put an object."""
        self._ask("PUT", f"/{name}", content).close()

    def delete(self, name: str) -> None:
        """Delete an object."""
        self._ask("DELETE", f"/{name}").close()

    def _ask(self, method: str, path: str, content: bytes | None = None) -> Any:
        headers = {"Authorization": _AUTHORIZATION, "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.endpoint}/{self.name}{path}", content, headers, method=method)
        return urllib.request.urlopen(request, timeout=20)


@contextmanager
def object_store() -> Iterator[str]:
    """Serve an empty object store in a process of its own; yields its address."""
    port = free_port()
    command = ["-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with served_by(command, f"http://127.0.0.1:{port}", "/moto-api/data.json", CREDENTIALS) as address:
        yield address


@contextmanager
def served_by(command: list[str], address: str, ready: str, environment: dict[str, str]) -> Iterator[str]:
    """
    Run a server for the time of the block; yields its address once it answers.

    Args:
        command: What Python is started with.
        address: Where the server listens then.
        ready: Path that it answers.
        environment: Beside that of this process.
    """
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"{address}{ready}", timeout=5).close()
        except OSError:
            return False
        return True

    try:
        wait_until(answers, 40)
        yield address
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


class Faults:
    """A proxy before an object store. What it does to uploads can be changed at any time."""

    def __init__(self, endpoint: str) -> None:
        self.behind = urlsplit(endpoint)
        #: Kind of fault for the uploads to come, in turn; "" passes one on.
        self.plan: tuple[str, ...] = ("",)
        #: Uploads that are refused whatever the plan says: those whose names contain it, none where it is empty.
        self.refused = ""
        #: Uploads by what was done to them.
        self.done: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._calls = 0
        proxy = self

        class Handler(_Handler):
            faults = proxy

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing of clients that are gone."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def next_fault(self, path: str) -> str:
        """Return what is to be done to an upload."""
        with self._lock:
            if self.refused and self.refused in path:
                self.done["refused"] += 1
                return "403"
            fault = self.plan[self._calls % len(self.plan)]
            self._calls += 1
            self.done[fault] += 1
            return fault

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        is_upload = self.command in ("PUT", "POST") and not any(name in self.path for name in _SPARED)
        fault = self.faults.next_fault(self.path) if is_upload else ""
        if fault == "cut":  # half of the upload is read, and then nobody is there
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.close_connection = True
            return
        content = self._content()
        if fault in _CODES:
            body = f"<Error><Code>{_CODES[fault]}</Code></Error>"
            self._answer(int(fault), [("Content-Type", "application/xml")], body.encode())
            return
        if fault == "slow":
            time.sleep(0.5)
        self._pass_on(content, is_lost=fault == "lost")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _pass_on(self, content: bytes, is_lost: bool) -> None:
        behind = self.faults.behind
        connection = http.client.HTTPConnection(str(behind.hostname), behind.port, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            headers["Content-Length"] = str(len(content))
            connection.request(self.command, self.path, content, headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if is_lost:  # it was done, and nobody is told
            self.close_connection = True
            return
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OURS]
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, kept, body, length)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


#: What is said with a status.
_CODES = {"401": "Unauthorized", "403": "AccessDenied", "503": "SlowDown"}
#: What is uploaded at a start, which ends where that fails.
_SPARED = ("nonce", ".probe", ".crawl")
#: Headers that are about one connection.
_OURS = {"connection", "content-length", "transfer-encoding", "keep-alive"}
