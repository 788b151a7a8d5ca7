"""Random requests, mostly nonsense: every one is answered or closed, the server stays healthy, and prints nothing."""

import json
import random
import socket
from typing import Any

import pytest

from homespun.language_model import LanguageModel
from homespun.server.limits import Limits
from tests.server.conftest import Server, Start
from tests.server.test_limits import in_flight, until

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 16, 17, 1 << 40, 10**400, 0.5, 1e-300, 1e308, -0.0),
    *("", "a", "Once", "\0", "\ud800", "🙂", "x" * 3000, "<script>", "\x1b[31m", "small", "0"),
    *([], [1, 2], [[1], [2]], ["a", "b"], [None], [[]], {}, {"0": -100}, {"5": 1e9}, {"a": {}}),
]
FIELDS = [
    *("model", "prompt", "messages", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n"),
    *("seed", "stop", "stream", "stream_options", "logprobs", "top_logprobs", "echo", "logit_bias"),
    *("suffix", "best_of", "user", "presence_penalty", "max_completion_tokens", "nonsense"),
]
PATHS = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/models",
    "/health",
    "/metrics",
    "/",
    "/v1/models/a%00b",
]
HEADERS = [
    *(b"Host: localhost", b"Host: evil.example", b"Origin: http://evil.example", b"X: \xff\x00"),
    *(
        b"Authorization: Bearer x",
        b"Cookie: \xff=;;",
        b"Expect: 100-continue",
        b"Connection: upgrade",
    ),
    *(
        b"Upgrade: websocket",
        b"Transfer-Encoding: chunked",
        b"Content-Length: 3",
        b"Range: bytes=0-",
    ),
    *(
        b"Content-Length: -3",
        b"Content-Type: text/plain",
        b"Accept-Encoding: *",
        b": empty",
        b"X" * 20_000,
    ),
]


def body(rng: random.Random) -> bytes:
    """Good fields with some of them replaced, and sometimes broken bytes."""
    good: dict[str, Any] = {"model": "small", "prompt": "Once", "max_tokens": rng.randint(1, 8)}
    good["messages"] = [{"role": "user", "content": "Hi"}]
    if rng.random() < 0.5:
        del good["messages"]
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        good[rng.choice(FIELDS)] = rng.choice(VALUES)
    data = json.dumps(good).encode()
    if rng.random() < 0.2:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randint(0, 3)) + data[at + rng.randint(0, 3) :]
    return data


def request(rng: random.Random) -> bytes:
    method = rng.choice(["POST"] * 6 + ["GET", "GET", "HEAD", "OPTIONS", "DELETE", "PRI", "G\0T"])
    path = PATHS[0] if rng.random() < 0.6 else rng.choice(PATHS)
    content = body(rng) if method == "POST" else b""
    lines = [f"{method} {path} HTTP/1.{rng.choice('1110')}".encode(), b"Connection: close"]
    if rng.random() < 0.9:
        lines.append(b"Host: localhost")
    if rng.random() < 0.9:
        lines.append(b"Content-Length: %d" % len(content))
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        lines.append(rng.choice(HEADERS))
    data = b"\r\n".join(lines) + b"\r\n\r\n" + content
    if rng.random() < 0.05:
        data = data[: rng.randrange(1, len(data))]
    return data


def fuzz(server: Server, n: int, seed: int) -> set[int]:
    """Send `n` requests; returns the statuses that came."""
    statuses = set()
    rng = random.Random(seed)
    for number in range(n):
        data = request(rng)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            try:
                connection.sendall(data)
                if rng.random() < 0.1:
                    continue  # leave at once
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            except ConnectionError:
                continue
        if answer:
            assert answer.startswith(b"HTTP/1.1 "), (number, data, answer)
            statuses.add(int(answer.split()[1]))
        assert b"Traceback" not in answer
        if number % 50 == 0:
            assert server.ask("/health").status == 200
    return statuses


@pytest.mark.parametrize(
    "n", [150, pytest.param(2000, marks=pytest.mark.slow)], ids=["quick", "slow"]
)
def test_random_requests_leave_the_server_healthy(
    model: LanguageModel, start: Start, capsys: pytest.CaptureFixture[str], n: int
) -> None:
    server = start(model, Limits(header_seconds=0.3, body_seconds=0.3))
    statuses = fuzz(server, n, seed=n)
    assert {200, 400, 403, 411} <= statuses
    assert not {status for status in statuses if status >= 500}
    assert server.ask("/health").status == 200
    assert until(lambda: in_flight(server) == 0)
    assert server.complete(max_tokens=3).status == 200
    shown = capsys.readouterr()
    assert shown.out + shown.err == ""
