"""Faults of clients: nonsense in every field, leaving in mid-stream, coming all at once; and a model that
breaks. The next good request is answered, and nothing is left behind."""

import contextlib
import http.client
import json
import socket
import threading
from typing import Any

import numpy as np
import pytest

from homespun.language_model import LanguageModel
from homespun.server.limits import Limits
from tests.server.conftest import Answer, Gate, Server, Start
from tests.server.test_limits import in_flight, until

NO_END = {"0": -100}

BAD_FIELDS: list[tuple[str, str]] = [
    ("temperature", "NaN"),
    ("temperature", "Infinity"),
    ("temperature", "-Infinity"),
    ("temperature", "1e999"),
    ("temperature", "1e-300"),
    ("temperature", "1" + "0" * 400),
    ("temperature", "-0.5"),
    ("temperature", "true"),
    ("temperature", '"1"'),
    ("temperature", "[1]"),
    ("max_tokens", "1000000000000"),
    ("max_tokens", "-1"),
    ("max_tokens", "0"),
    ("max_tokens", "1.5"),
    ("max_tokens", "1e2"),
    ("max_tokens", "true"),
    ("max_tokens", "9" * 5000),
    ("n", "1000000000"),
    ("n", "0"),
    ("n", "true"),
    ("logprobs", "1000000"),
    ("logprobs", "-1"),
    ("logprobs", "true"),
    ("top_p", "0"),
    ("top_p", "1.1"),
    ("top_p", "false"),
    ("seed", "-1"),
    ("seed", "0.5"),
    ("seed", str(1 << 63)),
    ("top_k", "0"),
    ("min_p", "2"),
    ("repetition_penalty", "0"),
    ("stop", '""'),
    ("stop", '["a", ""]'),
    ("stop", '["a", 5]'),
    ("stop", "{}"),
    ("stop", r'"\ud800"'),
    ("stop", r'"\u0000"'),
    ("prompt", r'"a\u0000b"'),
    ("prompt", r'"\ud800"'),
    ("prompt", r'["ok", "\udc00"]'),
    ("prompt", "[1, -1]"),
    ("prompt", "[1, 320]"),
    ("prompt", "[1, true]"),
    ("prompt", "[1.0]"),
    ("prompt", "[[]]"),
    ("prompt", "[]"),
    ("prompt", "{}"),
    ("prompt", "5"),
    ("prompt", json.dumps("word " * 200)),
    ("prompt", json.dumps([1] * 65)),
    ("prompt", json.dumps(["a"] * 17)),
    ("prompt", "[" * 10_000 + "]" * 10_000),
    ("logit_bias", '{"320": 1}'),
    ("logit_bias", '{"-1": 1}'),
    ("logit_bias", '{"1e1": 1}'),
    ("logit_bias", '{"٣": 1}'),
    ("logit_bias", '{"5": NaN}'),
    ("logit_bias", '{"5": 101}'),
    ("logit_bias", '{"5": 1' + "0" * 400 + "}"),
    ("logit_bias", '{"5": true}'),
    ("logit_bias", "[5]"),
    ("stream", "1"),
    ("stream", '"true"'),
    ("echo", "0"),
    ("stream_options", "{}"),
    ("stream_options", "true"),
    ("model", "5"),
    ("model", r'"small\u0000"'),
    ("user", "5"),
    ("unknown", "1"),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS, ids=lambda text: text[:20])
def test_a_field_out_of_bounds_is_refused(server: Server, name: str, value: str) -> None:
    fields = {"model": '"small"', "prompt": '"a"', "max_tokens": "1"} | {name: value}
    body = "{" + ", ".join(f'"{key}": {field}' for key, field in fields.items()) + "}"
    answer = server.ask("/v1/completions", body.encode())
    assert answer.status == 400
    assert len(answer.message) < 500
    assert server.complete(max_tokens=1).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"model": "small"} {}',
        b'\xef\xbb\xbf{"model": "small"}',
        '{"model": "small"}'.encode("utf-16"),
        b'{"model": "small", "prompt": "\x00"}',
        b'{"model": "small", "prompt": "\xed\xa0\x80"}',
        b'{"model": "small", "\\ud800": 1}',
        b"{" + b'"a":{' * 10_000 + b"}" * 10_001,
        b"[" * 500_000,
    ],
    ids=range(14),
)
def test_a_body_that_is_no_object_of_json_is_refused(server: Server, body: bytes) -> None:
    assert server.ask("/v1/completions", body).status == 400
    assert server.ask("/v1/chat/completions", body).status == 400
    assert server.complete(max_tokens=1).status == 200


def stream_of(server: Server, **fields: Any) -> tuple[http.client.HTTPConnection, Any]:
    """A stream that has begun."""
    connection = server.connect()
    body = json.dumps({"model": "small", "prompt": "a", "stream": True, **fields})
    connection.request("POST", "/v1/completions", body)
    return connection, connection.getresponse()


def cut(connection: http.client.HTTPConnection, response: Any) -> None:
    """Leave without a word."""
    response.close()
    connection.close()


def test_a_client_that_leaves_frees_its_slot_within_two_tokens(
    gated: tuple[LanguageModel, Gate], start: Start
) -> None:
    model, gate = gated
    server = start(model, Limits(slots=1))
    settings = {"max_tokens": 4000, "logit_bias": NO_END}
    connection, response = stream_of(server, **settings)
    gate.let(3)
    for _ in range(4):
        gate.wait()
    cut(connection, response)
    assert until(lambda: n_open(server) == 1)  # that of this question: the server has seen the end
    before = gate.n_steps
    other = threading.Thread(target=server.complete, kwargs={"max_tokens": 1})
    other.start()
    assert until(lambda: in_flight(server) == 2)
    for _ in range(2):
        gate.let()
    other.join(60)
    assert not other.is_alive()
    assert gate.n_steps <= before + 2


def n_open(server: Server) -> int:
    """Requests that have begun and not ended, with the one that asks."""
    text = server.ask("/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    begun = sum(int(v) for name, v in values.items() if name.startswith("homespun_requests_total"))
    return 1 + begun - int(values["homespun_request_seconds_count"])


def test_a_client_that_leaves_before_a_whole_answer_frees_its_slot(
    gated: tuple[LanguageModel, Gate], start: Start
) -> None:
    model, gate = gated
    server = start(model, Limits(slots=1))
    body = json.dumps({"model": "small", "prompt": "a", "max_tokens": 4000, "logit_bias": NO_END})
    connection = server.connect()
    connection.request("POST", "/v1/completions", body)
    gate.wait()
    assert connection.sock
    connection.sock.close()
    connection.close()
    assert until(lambda: server.service.batcher._rows[0].request.is_cancelled)
    gate.let()
    assert until(lambda: in_flight(server) == 0)


def test_a_client_that_leaves_while_it_waits_is_forgotten(
    gated: tuple[LanguageModel, Gate], start: Start
) -> None:
    model, gate = gated
    server = start(model, Limits(slots=1, queue=1))
    first = stream_of(server, max_tokens=4000, logit_bias=NO_END)
    gate.wait()
    waiting = server.connect()
    waiting.request("POST", "/v1/completions", json.dumps({"model": "small", "prompt": "b"}))
    assert until(lambda: in_flight(server) == 2)
    assert server.complete().status == 429
    waiting.sock.close()
    waiting.close()
    assert until(lambda: server.service.batcher._waiting[0].request.is_cancelled)
    gate.let()
    assert until(lambda: in_flight(server) == 1)
    cut(*first)
    gate.open()
    assert until(lambda: in_flight(server) == 0)


def test_of_fifty_at_once_those_that_fit_get_their_text_and_others_are_told_to_wait(
    gated: tuple[LanguageModel, Gate], start: Start
) -> None:
    model, gate = gated
    server = start(model, Limits(slots=4, queue=16))
    prompts = [f"{number} times" for number in range(50)]
    settings = {"temperature": 0, "max_tokens": 12, "logit_bias": NO_END}
    answers: dict[str, Answer] = {}
    threads = [
        threading.Thread(
            target=lambda prompt=prompt: answers.update(
                {prompt: server.complete(prompt, **settings)}
            )
        )
        for prompt in prompts
    ]
    for thread in threads:
        thread.start()
    assert until(lambda: len(answers) == 30)
    assert {answer.status for answer in answers.values()} == {429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers.values())
    assert server.ask("/health").status == 200
    gate.open()
    for thread in threads:
        thread.join(60)
    written = {prompt: answer for prompt, answer in answers.items() if answer.status == 200}
    assert len(written) == 20
    for prompt, answer in written.items():
        alone = server.complete(prompt, **settings)
        assert answer.json["choices"] == alone.json["choices"]


def test_when_the_generating_thread_dies_health_says_so_and_streams_end(
    gated: tuple[LanguageModel, Gate], start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    model, gate = gated
    server = start(model, Limits(slots=1))
    connection, response = stream_of(server, max_tokens=4000, logit_bias=NO_END)
    waiting: list[Answer] = []
    thread = threading.Thread(target=lambda: waiting.append(server.complete()))
    thread.start()
    assert until(lambda: in_flight(server) == 2)
    gate.error = RuntimeError("the device is gone")
    gate.open()
    lines = response.read().decode().strip().split("\n\n")
    connection.close()
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert "RuntimeError: the device is gone" in error["message"]
    assert lines[-1] != "data: [DONE]"
    thread.join(60)
    assert waiting[0].status == 503
    health = server.ask("/health")
    assert health.status == 503
    assert "the device is gone" in health.json["status"]
    assert server.complete().status == 503
    assert "homespun_alive 0" in server.ask("/metrics").body.decode()
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "Traceback" not in shown


def test_a_model_that_gives_no_numbers_is_told_and_the_thread_lives(
    gated: tuple[LanguageModel, Gate], start: Start
) -> None:
    model, gate = gated
    gate.open()
    make = model.session.make_decoder

    def broken(rows: int, length: int) -> Any:
        decoder = make(rows, length)
        step = decoder.step
        decoder.step = lambda tokens: step(tokens) * float("nan")
        return decoder

    model.session.make_decoder = broken
    server = start(model)
    answer = server.complete(max_tokens=5, logit_bias=NO_END)
    assert answer.status == 500
    assert "not finite" in answer.message
    assert server.ask("/health").status == 200
    model.session.make_decoder = make
    assert server.complete(max_tokens=5).status == 200


def test_text_of_a_client_reaches_the_terminal_without_control_sequences(
    model: LanguageModel, start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ValueError("\x1b[31m red")

    server = start(model)
    monkeypatch.setattr(type(server.service.batcher), "submit", broken)
    body = json.dumps({"model": "small", "prompt": "a"}).encode()
    head = b"POST /v1/%1b[31m HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    server.raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert server.ask("/v1/completions", body).status == 500
    shown = capsys.readouterr().err
    assert shown == "error: POST /v1/completions failed: ValueError: [31m red\n"
    assert "\x1b" not in shown
    assert "Traceback" not in shown


def test_a_reset_connection_hurts_nobody(server: Server) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as hasty:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            with contextlib.suppress(OSError):
                hasty.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")
    assert server.complete(max_tokens=1).status == 200


def test_a_prompt_that_a_broken_model_scores_is_refused(
    model: LanguageModel, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = model.engine.logits
    monkeypatch.setattr(model.engine, "logits", lambda tokens: logits(tokens) * np.float32("nan"))
    server = start(model)
    answer = server.complete(max_tokens=0, echo=True, logprobs=1)
    assert answer.status == 500
    assert "not finite" in answer.message
