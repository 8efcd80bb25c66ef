"""A hub on this machine: the part of its HTTP interface that fetching a data set uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "someone/gated"


@contextmanager
def fake_hub(datasets: dict[str, dict[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """(URL, requested paths) of a server with these data sets: name -> file name -> content."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            requests.append(f"{self.command} {self.path}")
            path = self.path.split("?")[0]
            for name, files in datasets.items():
                if path.startswith(f"/api/datasets/{name}"):
                    rest = path.removeprefix(f"/api/datasets/{name}")
                    return self.about(name, files, rest.split("/"))
                if path.startswith(f"/datasets/{name}/resolve/"):
                    return self.file(files, path.split("/resolve/")[1].partition("/")[2])
            self.answer(404, b"{}", X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def about(self, name: str, files: dict[str, bytes], rest: list[str]) -> None:
            if name == GATED:
                return self.answer(401, b"{}", X_Error_Code="GatedRepo")
            if rest[-1] not in ("main", COMMIT):
                return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
            if "tree" in rest:
                body = [
                    {"type": "file", "path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for f, c in files.items()
                ]
            else:
                body = {
                    "id": name, "sha": COMMIT, "private": False, "gated": False, "tags": [],
                    "siblings": [{"rfilename": f} for f in files],
                }  # fmt: skip
            self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

        def file(self, files: dict[str, bytes], name: str) -> None:
            if name not in files:
                return self.answer(404, X_Error_Code="EntryNotFound")
            etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
            self.answer(200, files[name], ETag=etag, X_Repo_Commit=COMMIT)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
