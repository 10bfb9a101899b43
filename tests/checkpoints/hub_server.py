"""A Hugging Face Hub of one process: what huggingface_hub asks of the real one, answered from a table of files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """``files`` of the one repository ``owner/name``; ``asked`` lists the paths of all requests."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked = files, list[str]()
        self.refuses: tuple[int, str] | None = None  # (status, X-Error-Code)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if self.refuses is not None:
            return self.refuses[0], {"X-Error-Code": self.refuses[1]}, b"{}"
        if parts[:4] == ["api", "models", "owner", "name"]:
            if "revision" in parts and parts[-1] not in ("main", COMMIT):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            if "tree" in parts:
                body: object = [{"type": "file", "path": name, "size": len(data), "oid": self.oid(name)}
                                for name, data in self.files.items()]  # fmt: skip
            else:
                siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
                body = {"id": "owner/name", "sha": COMMIT, "siblings": siblings}
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        if parts[:3] == ["owner", "name", "resolve"] and (name := "/".join(parts[4:])) in self.files:
            return 200, {"ETag": f'"{self.oid(name)}"', "X-Repo-Commit": COMMIT}, self.files[name]
        missing = "EntryNotFound" if parts[:2] == ["owner", "name"] else "RepoNotFound"
        return 404, {"X-Error-Code": missing}, b"{}"

    def oid(self, name: str) -> str:
        return hashlib.sha1(self.files[name]).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address of a server that answers as ``hub`` does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self, body: bool = True) -> None:
            hub.asked.append(self.path)
            status, headers, data = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
