"""A test hub on loopback: two real HTTP servers that speak the protocol of the Hugging Face hub.

One server answers like the hub (API, file listing, headers of a file) and redirects to the other, the storage, which
serves bytes and supports range requests. Tests can make both of them fail.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

SEPARATOR = "<|endoftext|>"


@dataclass
class Fault:
    """A failure of the next requests of one kind.

    `cut`: the connection is closed after `at` bytes. `ignore_ranges`: 200 and the whole file.
    `status`: an error with that number. `loop`: a redirect to itself. `short`, `long`: a body
    without a length, `at` bytes less or more than it should be. `damage`: one byte is flipped.
    `hold`: the body stops after `at` bytes until the client goes away.
    """

    kind: str
    where: str = "storage"
    """`api`, `file` (the hub's answer about a file) or `storage`."""
    times: int = 1
    after: int = 0
    """The failure begins after the storage has served this many bytes."""
    at: int = 0
    status: int = 500
    retry_after: str | None = None


@dataclass
class Request:
    server: str
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""


@dataclass
class Hub:
    """Repositories by name and commit, the requests so far, and the failures to come."""

    page_size: int = 1000
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    bytes_served: int = 0
    """Bytes that the storage has written to its sockets, or is about to."""
    holding: threading.Event = field(default_factory=threading.Event)
    """Set while a `hold` is active."""
    token: str | None = None
    """If set, the hub requires this token; the storage does not."""

    def __post_init__(self) -> None:
        self._commits: dict[str, list[str]] = {}
        self._files: dict[tuple[str, str], dict[str, bytes]] = {}
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.hub_server = _serve(self, "hub")
        self.storage_server = _serve(self, "storage")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.hub_server.server_port}"

    @property
    def storage(self) -> str:
        return f"http://127.0.0.1:{self.storage_server.server_port}"

    def publish(self, repository: str, files: dict[str, bytes]) -> str:
        """Add a commit with exactly these files; returns its name."""
        content = repr(
            sorted((path, hashlib.sha256(data).digest()) for path, data in files.items())
        )
        commit = hashlib.sha1((repository + content).encode()).hexdigest()
        self._commits.setdefault(repository, []).append(commit)
        self._files[repository, commit] = dict(files)
        return commit

    def publish_tinystories(self, stories: list[str], **more: bytes) -> str:
        """Publish a repository like roneneldan/TinyStories, with these training stories."""
        text = "".join(f"{story}\n{SEPARATOR}\n" for story in stories).encode()
        return self.publish(
            "roneneldan/TinyStories",
            {
                "README.md": b"stories",
                "Evaluation prompts.yaml": b"- Once",
                "TinyStoriesV2-GPT4-train.txt": b"\n" + text,
                "TinyStoriesV2-GPT4-valid.txt": b"valid\n",
                "TinyStories-train.txt": b"the older text\n",
                "data/train-00000-of-00004-2d5a1467fff1081b.parquet": b"PAR1",
                **more,
            },
        )

    def content(self, repository: str, path: str) -> bytes:
        return self._files[repository, self._commits[repository][-1]][path]

    def alter(self, repository: str, path: str, data: bytes) -> None:
        """Replace a file without a new commit, which the real hub never does."""
        self._files[repository, self._commits[repository][-1]][path] = data

    def withdraw(self, repository: str, commit: str) -> None:
        self._commits[repository].remove(commit)
        del self._files[repository, commit]

    def fail(self, kind: str, **settings: Any) -> None:
        self.faults.append(Fault(kind, **settings))

    def ranges(self) -> list[int]:
        """The first byte of each range that was requested from the storage."""
        asked = (r.headers.get("range", "") for r in self.requests if r.server == "storage")
        return [int(text.partition("=")[2].partition("-")[0]) for text in asked if text]

    def close(self) -> None:
        self._released.set()
        for server in (self.hub_server, self.storage_server):
            server.shutdown()
            server.server_close()

    # The methods below run in the threads of the servers.

    def fault(self, where: str, kinds: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.where != where or fault.kind not in kinds.split():
                    continue
                if fault.times > 0 and self.bytes_served >= fault.after:
                    fault.times -= 1
                    return fault
        return None

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self._commits.get(repository, [])
        if revision == "main" and commits:
            revision = commits[-1]
        files = self._files.get((repository, revision))
        return None if files is None else (revision, files)

    def answer_hub(self, handler: "_Handler") -> None:
        path = unquote(urlsplit(handler.path).path)
        where = "api" if path.startswith("/api/") else "file"
        if fault := self.fault(where, "status loop"):
            handler.reply_fault(fault)
        elif self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            handler.reply(401, {"X-Error-Message": "Invalid username or password."})
        elif match := re.fullmatch(
            r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/(revision|tree)/(\w+)(?:/(.+))?)?", path
        ):
            self._answer_api(handler, *match.groups())
        elif match := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            self._answer_file(handler, *match.groups())
        else:
            handler.reply(404, {})

    def _answer_api(
        self,
        handler: "_Handler",
        repository: str,
        what: str | None,
        revision: str | None,
        folder: str | None,
    ) -> None:
        found = self.find(repository, revision or "main")
        if found is None:
            handler.reply(404, {"X-Error-Code": "RepoNotFound"})
        elif what != "tree":
            handler.reply_json({"id": repository, "sha": found[0]})
        else:
            inside = f"{folder}/" if folder else ""
            files = {name: data for name, data in found[1].items() if name.startswith(inside)}
            self._answer_listing(handler, files)

    def _answer_file(self, handler: "_Handler", repository: str, revision: str, path: str) -> None:
        commit, files = self.find(repository, revision) or ("", {})
        if path not in files:
            handler.reply(404, {"X-Error-Code": "EntryNotFound"})
            return
        data = files[path]
        facts = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)),
            "ETag": '"of-the-pointer"',
            "Location": f"{self.storage}/{repository}/{commit}/{quote(path)}?signature=1",
        }
        handler.reply(302, facts)

    def _answer_listing(self, handler: "_Handler", files: dict[str, bytes]) -> None:
        url = urlsplit(handler.path)
        query = parse_qs(url.query)
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": folder, "oid": "0", "size": 0}
            for folder in sorted({name.rpartition("/")[0] for name in files} - {""})
        ]
        entries += [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in sorted(files.items())
        ]
        begin = int(query.get("cursor", ["0"])[0])
        end = begin + self.page_size
        more = {}
        if end < len(entries):
            address = f"{self.endpoint}{url.path}?recursive=true&cursor={end}"
            more["Link"] = f'<{address}>; rel="next"'
        handler.reply_json(entries[begin:end], more)

    def answer_storage(self, handler: "_Handler") -> None:
        repository_and_commit, path = re.fullmatch(  # type: ignore[union-attr]
            r"/([^/]+/[^/]+/\w+)/(.+)", unquote(urlsplit(handler.path).path)
        ).groups()
        repository, _, commit = repository_and_commit.rpartition("/")
        data = self._files[repository, commit][path]
        if fault := self.fault("storage", "status loop"):
            handler.reply_fault(fault)
            return
        status, headers, body = 200, {"ETag": '"of-the-storage"'}, memoryview(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if asked and not self.fault("storage", "ignore_ranges"):
            begin = int(asked[1])
            end = min(int(asked[2] or len(data)) + 1, len(data))
            if begin >= len(data):
                handler.reply(416, {"Content-Range": f"bytes */{len(data)}"})
                return
            status, body = 206, body[begin:end]
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        fault = self.fault("storage", "cut short long damage hold")
        if fault and fault.kind == "damage":
            body = memoryview(bytes([body[0] ^ 1]) + bytes(body[1:]))
        if fault and fault.kind in ("short", "long"):
            body = body[: -fault.at] if fault.kind == "short" else memoryview(bytes(body) + b"x")
        else:
            headers["Content-Length"] = str(len(body))
        handler.start(status, headers)
        if fault and fault.kind in ("cut", "hold"):
            self._send(handler, body[: fault.at])
            if fault.kind == "hold":
                self.holding.set()
                self._released.wait()
        else:
            self._send(handler, body)

    def _send(self, handler: "_Handler", body: memoryview) -> None:
        for begin in range(0, len(body), 1 << 16):
            piece = body[begin : begin + (1 << 16)]
            with self._lock:  # before the reader can have it
                self.bytes_served += len(piece)
            handler.wfile.write(piece)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    name: str

    def do_GET(self) -> None:
        with self.hub._lock:
            self.hub.requests.append(
                Request(
                    self.name,
                    self.command,
                    self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                )
            )
        answer: Callable[[_Handler], None] = getattr(self.hub, f"answer_{self.name}")
        with contextlib.suppress(ConnectionError):  # the client has closed the connection
            answer(self)
        self.close_connection = True

    do_HEAD = do_GET

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.start(status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_fault(self, fault: Fault) -> None:
        if fault.kind == "loop":
            self.reply(302, {"Location": self.path})
        else:
            self.reply(
                fault.status, {"Retry-After": fault.retry_after} if fault.retry_after else {}
            )

    def reply_json(self, content: Any, headers: dict[str, str] | None = None) -> None:
        self.reply(200, headers or {}, json.dumps(content).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _serve(hub: Hub, name: str) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"hub": hub, "name": name})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub; `HF_ENDPOINT` is its address."""
    running = Hub()
    monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield running
    running.close()
