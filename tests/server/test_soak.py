"""The server and the studio as processes under load for a time: memory, threads, open files and slots stay the same.

`make soak SECONDS=3600` takes an hour for each; `make test-slow` half a minute.
"""

import contextlib
import http.client
import itertools
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.server.conftest import write_model
from tests.server.studio.made import STEPS, write_work
from tests.server.test_limits import until
from tests.test_terminal import without_progress

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc"),
]

N_CLIENTS = 6
ROUNDS = 12
"""The first third warms up: allocators and caches grow to their size."""
MOST_GROWTH = 64 << 20
"""Bytes that the memory may grow after the warm-up. Large requests that happen to meet take less; a kilobyte that each
request of an hour left behind would take more."""
PATIENCE = 600
"""Seconds that a client waits for an answer: the machine may be busy."""
LEAVES = 0.2
"""Share of the clients that leave in mid-stream."""


@dataclass(frozen=True)
class Standing:
    """A process between two rounds, when it has nothing to do."""

    memory: int
    """Bytes that are resident."""
    n_threads: int
    n_open: int
    """Open files and connections."""
    n_asked: int
    """Requests so far."""


class Subject:
    """A server that runs as a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        place = urlsplit(address)
        self.process = process
        self.port = place.port or 0
        token = parse_qs(place.query).get("token")
        self.asked: Iterator[int] = itertools.count(1)
        self.n_asked = 0
        self.headers = {"Authorization": f"Bearer {token[0]}"} if token else {}

    def ask(self, path: str, body: Any = None, leave: bool = False) -> tuple[int, bytes]:
        """Status and body of an answer; `leave`: only its beginning is read."""
        self.n_asked = next(self.asked)
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        ) as connection:
            content = json.dumps(body) if body is not None else None
            connection.request("GET" if body is None else "POST", path, content, self.headers)
            answer = connection.getresponse()
            with answer:
                return answer.status, answer.read(1) if leave else answer.read()

    def standing(self) -> Standing:
        folder = Path(f"/proc/{self.process.pid}")
        lines = (folder / "status").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in lines)
        n_open = len(list((folder / "fd").iterdir()))
        return Standing(
            int(facts["VmRSS"].split()[0]) << 10, int(facts["Threads"]), n_open, self.n_asked
        )


@contextlib.contextmanager
def running(folder: Path, *command: str) -> Iterator[Subject]:
    """`homespun` with a command that serves; it prints its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "homespun", *command, "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        lines = iter(process.stdout.readline, "")
        address = next(word for line in lines for word in line.split() if word.startswith("http"))
        yield Subject(process, address)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
        assert without_progress(errors.encode()) == b""
    finally:
        process.kill()
        process.wait()


def ask_server(subject: Subject, rng: random.Random) -> None:
    """One request to `homespun serve`."""
    body: dict[str, Any] = {"model": "small", "max_tokens": rng.randint(1, 60)}
    if rng.random() < 0.5:
        body["temperature"] = 0
    message = {"role": "user", "content": "Who found the key? " * rng.randint(1, 3)}
    kind = rng.randrange(7)
    if kind == 0:
        assert subject.ask("/v1/completions", body | {"prompt": "Once"})[0] == 200
    elif kind == 1:
        many = {"prompt": ["a", "b"], "n": rng.randint(1, 8), "logprobs": 5, "echo": True}
        assert subject.ask("/v1/completions", body | many)[0] in (200, 429)
    elif kind == 2:
        body |= {"prompt": "a", "stream": True, "max_tokens": 4000, "logit_bias": {"0": -100}}
        assert subject.ask("/v1/completions", body, leave=True)[0] in (200, 429)
    elif kind == 3:
        stream = {"messages": [message], "stream": True}
        leaves = rng.random() < LEAVES
        assert subject.ask("/v1/chat/completions", body | stream, leave=leaves)[0] in (200, 429)
    elif kind == 4:
        wrong = rng.choice([{"n": -1}, {"prompt": "word " * 300}, {"top_p": 7}, {"what": "\ud800"}])
        assert subject.ask("/v1/completions", body | wrong)[0] == 400
    elif kind == 5:
        path = rng.choice(["/v1/models", "/metrics", "/health", f"/{rng.random()}"])
        assert subject.ask(path)[0] in (200, 404)
    else:
        with socket.create_connection(("127.0.0.1", subject.port), timeout=PATIENCE) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-")


def ask_studio(subject: Subject, rng: random.Random) -> None:
    """One question of the page of `homespun studio`. There are more models than stay in memory."""
    steps = [f"checkpoints/checkpoint_step_{step}.npz" for step in STEPS]
    model = rng.choice([*steps, "checkpoints/best.npz", "answers/best.npz", "mixture/best.npz"])
    settings = {"max_tokens": str(rng.randint(1, 60)), "num_samples": str(rng.randint(1, 3))}
    leaves = rng.random() < LEAVES
    kind = rng.randrange(7)
    if kind == 0:
        settings["max_tokens"] = "4000" if leaves else settings["max_tokens"]
        body: dict[str, Any] = {"model": model, "prompt": "Once", "settings": settings}
        assert subject.ask("/api/write", body, leave=leaves)[0] in (200, 429)
    elif kind == 1:
        messages = [{"role": "user", "content": f"Who has {rng.randrange(9)}?"}]
        body = {"model": "answers/best.npz", "messages": messages, "settings": {}}
        assert subject.ask("/api/chat/answer", body, leave=leaves)[0] in (200, 429)
    elif kind == 2:
        body = {"model": model, "text": f"Once {rng.random()}", "position": 1}
        assert subject.ask("/api/lens", body)[0] == 200
    elif kind == 3:
        body = {"model": steps[0], "prompt": "Once", "next": " upon"}
        assert subject.ask("/api/growth", body, leave=leaves)[0] == 200
    elif kind == 4:
        assert subject.ask("/api/judge", {"text": f"Tom has {rng.random()} cats."})[0] == 200
    elif kind == 5:
        body = {"model": "none", "prompt": "Once", "settings": settings, "x": "\ud800"}
        assert subject.ask("/api/write", body)[0] == 400
    else:
        path = rng.choice(["/api/studio", "/api/chat", "/api/runs", "/", "/static/app.js"])
        assert subject.ask(path)[0] == 200
        assert subject.ask("/api/runs/live", leave=True)[0] == 200


def rounds(
    subject: Subject, ask: Callable[[Subject, random.Random], None], seconds: float
) -> Iterator[Standing]:
    """Load in `ROUNDS` rounds; the standing after each, as soon as all connections are closed."""
    subject.ask("/")  # with the first request, the event loop has opened its own files
    at_rest = subject.standing()
    errors: list[BaseException] = []

    def client(number: int, end: float) -> None:
        rng = random.Random(number)
        try:
            while time.monotonic() < end:
                ask(subject, rng)
        except BaseException as error:
            errors.append(error)

    for number in range(ROUNDS):
        end = time.monotonic() + seconds / ROUNDS
        threads = [
            threading.Thread(target=client, args=(number * N_CLIENTS + n, end))
            for n in range(N_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        assert until(lambda: subject.standing().n_open <= at_rest.n_open), "open files are left"
        yield subject.standing()


def check(standings: list[Standing]) -> None:
    warm, later = standings[: ROUNDS // 3], standings[ROUNDS // 3 :]
    memory = [standing.memory >> 20 for standing in standings]
    growth = max(one.memory for one in later) - max(one.memory for one in warm)
    print(f"MiB after each round: {memory}; {standings[-1].n_asked:,} requests")
    assert growth < MOST_GROWTH
    n_threads = [standing.n_threads for standing in standings]
    assert max(n_threads) <= max(one.n_threads for one in warm) + N_CLIENTS, n_threads


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--soak-seconds"))


def test_the_server(tmp_path: Path, seconds: float) -> None:
    write_model(tmp_path / "small.npz", answers=True)
    with running(tmp_path, "serve", "small.npz", "--engine", "numpy", "--threads", "1") as server:
        body = {"model": "small", "prompt": "Once", "temperature": 0, "max_tokens": 40}
        before = json.loads(server.ask("/v1/completions", body)[1])["choices"]
        check(list(rounds(server, ask_server, seconds)))
        health = json.loads(server.ask("/health")[1])
        assert health == {"status": "ok", "running": 0, "waiting": 0}
        assert json.loads(server.ask("/v1/completions", body)[1])["choices"] == before


def test_the_studio(tmp_path: Path, seconds: float) -> None:
    write_work(tmp_path)
    with running(tmp_path, "studio", "--no-browser") as studio:
        body = {"model": "checkpoints/best.npz", "prompt": "Once"}
        body |= {"settings": {"temperature": "0", "max_tokens": "20"}}  # type: ignore[dict-item]

        def text() -> list[str]:
            events = studio.ask("/api/write", body)[1].decode().split("\n\n")
            told = [json.loads(event.removeprefix("data: ")) for event in events if event]
            return [one["text"] for one in told if "text" in one]

        before = text()
        assert before
        check(list(rounds(studio, ask_studio, seconds)))
        assert text() == before
