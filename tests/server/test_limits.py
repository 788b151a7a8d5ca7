"""Each limit of the table at its value, where it is accepted, and above, where it is refused with its status."""

import contextlib
import dataclasses
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homespun.language_model import LanguageModel
from homespun.server.limits import Limits, rows
from tests.server.conftest import Answer, Gate, Server, Start
from tests.server.test_chat import ask

LIMITS = Limits()
FIELD_CASES: dict[str, tuple[Any, Any]] = {
    "texts": ({"n": LIMITS.texts}, {"n": LIMITS.texts + 1}),
    "max_tokens": (
        {"max_tokens": LIMITS.max_tokens, "stop": [chr(n) for n in (97, 101, 111, 32)], "seed": 1},
        {"max_tokens": LIMITS.max_tokens + 1},
    ),
    "logprobs": ({"logprobs": LIMITS.logprobs}, {"logprobs": LIMITS.logprobs + 1}),
    "stops": ({"stop": ["x"] * LIMITS.stops}, {"stop": ["x"] * (LIMITS.stops + 1)}),
    "stop_characters": (
        {"stop": "x" * LIMITS.stop_characters},
        {"stop": "x" * (LIMITS.stop_characters + 1)},
    ),
    "bias": ({"logit_bias": {"5": LIMITS.bias}}, {"logit_bias": {"5": LIMITS.bias + 0.001}}),
    "temperature": (
        {"temperature": LIMITS.temperature},
        {"temperature": LIMITS.temperature + 0.001},
    ),
}
"""Fields of a completion at a limit, and above it."""


@pytest.mark.parametrize("name", FIELD_CASES)
def test_a_field_at_its_limit_and_above(server: Server, name: str) -> None:
    at, above = FIELD_CASES[name]
    assert server.complete(**{"max_tokens": 1} | at).status == 200
    refused = server.complete(**{"max_tokens": 1} | above)
    assert refused.status == 400
    assert refused.json["error"]["param"] in above


def test_the_texts_of_several_prompts_count_together(server: Server) -> None:
    assert server.complete(["a"] * 4, n=4, max_tokens=1).status == 200
    assert server.complete(["a"] * 4, n=5, max_tokens=1).status == 400
    assert server.complete(["a"] * 17, max_tokens=1).status == 400


def test_biases(model: LanguageModel, start: Start) -> None:
    server = start(model, Limits(biases=3))
    at = {str(n): 1 for n in range(3)}
    assert server.complete(logit_bias=at, max_tokens=1).status == 200
    assert server.complete(logit_bias=at | {"9": 1}, max_tokens=1).status == 400


def test_echo_logits(model: LanguageModel, start: Start) -> None:
    server = start(model, Limits(echo_logits=3 * 320))
    settings = {"echo": True, "logprobs": 1, "max_tokens": 0}
    assert server.complete([1, 2, 3], **settings).status == 200
    assert server.complete([1, 2, 3, 4], **settings).status == 400


def test_messages(answering_model: LanguageModel, start: Start) -> None:
    server = start(answering_model, Limits(messages=3))
    talk = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    assert ask(server, talk, max_tokens=1).status == 200
    assert "at most 3" in ask(server, [*talk, *talk], max_tokens=1).message


def test_cache_bytes(model: LanguageModel, start: Start) -> None:
    """The cache of one text of 64 positions fits, or it does not."""
    shape = model.config
    per_position = 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * 4
    server = start(model, Limits(cache_bytes=64 * per_position))
    assert server.complete(["a", "b", "c"], max_tokens=100).status == 200
    small = start(model, Limits(cache_bytes=64 * per_position - 1))
    refused = small.complete(max_tokens=100)
    assert refused.status == 400
    assert "there is memory for 63" in refused.message


def test_body_bytes(server: Server) -> None:
    def padded(size: int) -> Answer:
        body = json.dumps({"model": "small", "prompt": "a", "max_tokens": 1}).encode()
        return server.ask("/v1/completions", body + b" " * (size - len(body)))

    assert padded(LIMITS.body_bytes).status == 200
    assert padded(LIMITS.body_bytes + 1).status == 413
    assert padded(10 * LIMITS.body_bytes).status == 413
    assert server.ask("/health").status == 200


def test_header_bytes(server: Server) -> None:
    def with_headers(size: int) -> int:
        """The status of a request whose headers have about so many bytes."""
        answer = server.ask("/health", X="y" * (size - 100))
        return answer.status

    assert with_headers(LIMITS.header_bytes) == 200
    assert with_headers(LIMITS.header_bytes + 100) == 431


def test_connections(model: LanguageModel, start: Start) -> None:
    server = start(model, Limits(connections=3))
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            open_ = stack.enter_context(contextlib.closing(server.connect()))
            open_.request("GET", "/health")
            assert open_.getresponse().read()
        assert server.ask("/health").status == 200
        third = stack.enter_context(contextlib.closing(server.connect()))
        third.request("GET", "/health")
        assert third.getresponse().read()
        refused = server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert refused.startswith(b"HTTP/1.1 503 ")
    assert until(lambda: server.ask("/health").status == 200)


def until(condition: Callable[[], bool]) -> bool:
    """Ask again and again; False if it does not hold within a minute."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def in_flight(server: Server) -> int:
    """Texts that are written, and those that wait."""
    health = server.ask("/health").json
    return int(health["running"] + health["waiting"])


def test_idle_seconds(model: LanguageModel, start: Start) -> None:
    """A connection serves the next request until its pause is too long."""
    server = start(model, Limits(idle_seconds=1))
    with contextlib.closing(server.connect()) as connection:
        for _ in range(2):
            connection.request("GET", "/health")
            assert connection.getresponse().read()
        assert connection.sock
        assert connection.sock.recv(1) == b""  # the server closes it


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("header_seconds", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"),
        (
            "body_seconds",
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{",
        ),
    ],
)
def test_deadlines(model: LanguageModel, start: Start, name: str, sent: bytes) -> None:
    server = start(model, dataclasses.replace(LIMITS, **{name: 0.2}))
    assert server.raw(sent).startswith(b"HTTP/1.1 408 ")
    patient = start(model, dataclasses.replace(LIMITS, **{name: 60}))
    with socket.create_connection(("127.0.0.1", patient.port), timeout=60) as slow:
        slow.sendall(sent)
        assert patient.ask("/health").status == 200
        slow.sendall(b"\r\n" if name == "header_seconds" else b"}")
        assert slow.recv(12) == (b"HTTP/1.1 200" if name == "header_seconds" else b"HTTP/1.1 400")


def test_slots_and_queue(gated: tuple[LanguageModel, Gate], start: Start) -> None:
    """Two texts are written, three wait, and the sixth is told when to try again."""
    model, gate = gated
    server = start(model, Limits(slots=2, queue=3))
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.complete(max_tokens=3)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    assert until(lambda: in_flight(server) == 5)
    assert server.service.batcher.n_running <= 2
    refused = server.complete(max_tokens=3)
    assert refused.status == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json["error"]["type"] == "rate_limit_error"
    gate.open()
    for thread in threads:
        thread.join(60)
    assert [answer.status for answer in answers] == [200] * 5
    assert server.complete(max_tokens=3).status == 200


def test_stop_seconds(gated: tuple[LanguageModel, Gate], start: Start) -> None:
    """A server that is stopped waits no longer than this for an answer that does not end."""
    model, gate = gated
    server = start(model, Limits(stop_seconds=0))
    with contextlib.closing(server.connect()) as connection:
        body = json.dumps({"model": "small", "prompt": "a", "stream": True})
        connection.request("POST", "/v1/completions", body)
        response = connection.getresponse()
        gate.wait()
        server.stop()
        with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
            assert not response.read().endswith(b"data: [DONE]\n\n")


TESTED_ELSEWHERE = {
    "unread_seconds",  # test_guard.py: a client that reads nothing is closed
    *("points", "depth", "shown_runs", "searched", "trainers"),  # studio/test_runs.py
    *("sample_texts", "sample_characters", "notes", "message_bytes", "compared_runs"),
    "plan_seconds",  # with those before it: studio/test_run_limits.py
    "models",  # studio/test_models.py
    "inside_tokens",  # studio/test_inside.py
    "checkpoints",  # studio/test_playground.py
    "story_characters",  # studio/test_told.py
}


def test_every_limit_has_a_test() -> None:
    tested = {*FIELD_CASES, *TESTED_ELSEWHERE, "slots", "queue", "header_seconds", "body_seconds"}
    studio = Path(__file__).parent / "studio" / "test_runs.py"
    tested |= set(re.findall(r"Limits\((\w+)=", studio.read_text(encoding="utf-8")))
    tested |= {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {field.name for field in dataclasses.fields(Limits)} <= tested


def test_the_documentation_has_the_table() -> None:
    page = Path(__file__).parents[2] / "docs/server.md"
    text = page.read_text(encoding="utf-8")
    for row in rows():
        assert f"| {row.meaning} | {row.value} | {row.above} |" in text
