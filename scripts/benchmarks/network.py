"""
The network of the benchmarks: a namespace of its own, in which names, a web server and an internet are on loopback.

Nothing outside is reached or changed: ports 53, 80 and 443, the resolver's configuration and the bundle of certificate
authorities are those of the namespace only. It takes root, or a kernel that lets users have namespaces.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).parent
#: Set inside of the namespace.
INSIDE = "CRAWLER_BENCH_INSIDE"
SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

NGINX = """
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    types {{ image/jpeg jpg; image/png png; image/webp webp; image/gif gif; }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:80 backlog=4096;
        listen 127.0.0.1:443 ssl backlog=4096;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        root {corpus};
    }}
}}
"""


def enter() -> None:
    """Start this program anew inside a namespace, unless it is in one already."""
    if INSIDE in os.environ:
        return
    unshare = ["unshare", "--net", "--mount", *(["--map-root-user"] if os.getuid() else [])]
    os.execvpe("unshare", [*unshare, sys.executable, "-P", *sys.argv], {**os.environ, INSIDE: "1"})


@contextmanager
def network(folder: Path, corpus: Path) -> Iterator[None]:
    """
    Have names resolve and *corpus* served, http and https, and slowly.

    Args:
        folder: For configuration and certificates.
        corpus: What is served.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    resolver = folder / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", resolver, "/etc/resolv.conf"], check=True)
    _certificates(folder)
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder.absolute(), corpus=corpus.absolute()))
    with ExitStack() as stack:
        _start(stack, sys.executable, "-P", str(HERE / "names.py"))
        _start(stack, sys.executable, "-P", str(HERE / "internet.py"), str(corpus))
        nginx = subprocess.Popen(["nginx", "-c", configuration.absolute(), "-e", folder.absolute() / "nginx.log"])
        stack.callback(_stop, nginx)
        latest = time.monotonic() + 10
        while not (folder / "nginx.pid").exists():
            if nginx.poll() is not None or time.monotonic() > latest:
                raise RuntimeError(f"nginx did not start: see {folder / 'nginx.log'}")
            time.sleep(0.02)
        yield


def _start(stack: ExitStack, *command: str) -> None:
    """Start a server that says when it serves."""
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    stack.callback(_stop, server)
    assert server.stdout is not None
    if server.stdout.readline() != b"serving\n":
        raise RuntimeError(f"{command} did not start")


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    server.wait(10)


def _certificates(folder: Path) -> None:
    """Make a certificate authority and a certificate for all hosts; have the system trust it beside all others."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
    openssl("req", "-x509", *key, "-subj", "/CN=bench CA", "-keyout", "ca.key", "-out", "ca.pem")
    name = ("-addext", "subjectAltName=DNS:*.bench.test", "-addext", "basicConstraints=CA:FALSE")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key")
    openssl("req", "-x509", *key, *signed, *name, "-subj", "/CN=bench", "-keyout", "server.key", "-out", "server.pem")
    bundle = folder / "bundle.pem"
    bundle.write_text(SYSTEM_BUNDLE.read_text() + (folder / "ca.pem").read_text())
    subprocess.run(["mount", "--bind", bundle, SYSTEM_BUNDLE], check=True)
    # Pythons that were not built by the system look elsewhere.
    os.environ["SSL_CERT_FILE"] = str(SYSTEM_BUNDLE)
