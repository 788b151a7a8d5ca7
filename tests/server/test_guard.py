"""The guard stops requests that are foreign, too large, too slow or without the key."""

import contextlib
import json
import socket
import time
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from homespun.language_model import LanguageModel
from homespun.server.app import ROUTES
from homespun.server.guard import Guard
from homespun.server.limits import Limits
from tests.server.conftest import Server, Start
from tests.server.test_limits import until

KEY = "0123456789abcdef"


async def length(request: Request) -> JSONResponse:
    return JSONResponse({"length": len(await request.body())})


async def broken(request: Request) -> JSONResponse:
    raise ValueError("a secret \x1b[31m")


def client(**options: Any) -> TestClient:
    routes = [Route("/", length, methods=["GET", "POST"]), Route("/broken", broken)]
    guarded = Guard(Starlette(routes=routes), **options)
    return TestClient(guarded, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LocalHost:1", "[::1]:8000"])
def test_names_of_this_machine_are_hosts(host: str) -> None:
    assert client().get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "192.168.1.5", "localhost.", "[::2]:1"]
)
def test_other_names_are_no_hosts(host: str) -> None:
    assert client().get("/", headers={"Host": host}).status_code == 403


def test_a_public_server_has_any_address_and_its_own_name() -> None:
    public = client(is_public=True)
    for host in ("192.168.1.5:80", "[fe80::1]:80", socket.gethostname()):
        assert public.get("/", headers={"Host": host}).status_code == 200
    assert public.get("/", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://127.0.0.1:8001"}, 403),
        ({"Origin": "https://127.0.0.1:8000"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, 403),
    ],
)
def test_pages_of_other_servers_are_refused(headers: dict[str, str], status: int) -> None:
    for method in ("GET", "POST"):
        answer = client().request(method, "/", headers=headers, content=b"")
        assert answer.status_code == status
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_question_of_a_browser_before_a_foreign_request_is_refused() -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client().options("/", headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x"]
)
def test_without_the_key_nothing_is_answered(given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    answer = client(key=KEY).get("/", headers=headers)
    assert answer.status_code == 401
    assert KEY not in answer.text
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_key_is_sent_in_a_header_and_not_in_an_address() -> None:
    guarded = client(key=KEY)
    assert guarded.get("/", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert guarded.get(f"/?token={KEY}").status_code == 401
    assert guarded.get("/", headers={"Authorization": b"Bearer \xff"}).status_code == 401


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Any] = []
    monkeypatch.setattr(
        "homespun.server.guard.hmac.compare_digest", lambda *pair: bool(compared.append(pair))
    )
    assert client(key=KEY).get("/", headers={"Authorization": f"Bearer {KEY}"}).status_code == 401
    assert compared == [(KEY.encode(), KEY.encode())]


def test_a_page_keeps_its_token_in_a_cookie() -> None:
    page = client(key=KEY, is_page=True)
    assert page.get("/").status_code == 401
    assert page.get("/?token=wrong").status_code == 401
    assert page.get(f"/?token={KEY}&token={KEY}").status_code == 401
    first = page.get(f"/?token={KEY}")
    assert first.status_code == 200
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert page.get("/").status_code == 200
    assert page.get("/", headers={"Origin": "http://evil.example"}).status_code == 403


def test_every_route_needs_the_key(model: LanguageModel, start: Start) -> None:
    server = start(model, key=KEY)
    assert ROUTES
    for route in ROUTES:
        for method in route.methods or ():
            body = b"{}" if method == "POST" else None
            path = route.path.replace("{name:path}", "small")
            assert server.ask(path, body, method).status == 401, route.path
            key = {"Authorization": f"Bearer {KEY}"}
            assert server.ask(path, body, method, **key).status not in (401, 403), route.path


def test_every_answer_has_the_headers_that_protect_a_page(server: Server) -> None:
    for path in ("/health", "/nothing", "/v1/models"):
        headers = server.ask(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
    refused = server.raw(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"default-src 'none'" in refused
    assert b"default-src 'none'" in server.raw(b"nonsense\r\n\r\n")


def test_an_error_inside_is_one_line_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    answer = client().get("/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    shown = capsys.readouterr().err
    assert shown == "error: GET /broken failed: ValueError: a secret [31m\n"


HEAD = b"Host: localhost\r\nConnection: close\r\n"


def status(answer: bytes) -> int:
    first, body = answer.split(b"\r\n", 1)
    assert json.loads(body.split(b"\r\n\r\n", 1)[1])["error"]["message"]
    return int(first.split()[1])


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (None, 411),
        (b"-1", 411),
        (b"1e3", 411),
        (b"10000000000", 413),
        (b"9" * 20, 413),
        (b"9" * 30, 411),  # no number of this many digits is a length
        (b"9" * 5000, 411),
    ],
)
def test_a_body_has_a_possible_length(server: Server, length: bytes | None, expected: int) -> None:
    stated = b"" if length is None else b"Content-Length: " + length + b"\r\n"
    answer = server.raw(b"POST /v1/completions HTTP/1.1\r\n" + HEAD + stated + b"\r\n")
    assert status(answer) == expected
    assert server.ask("/health").status == 200


def test_chunks_do_not_replace_a_length(server: Server) -> None:
    request = b"POST /v1/completions HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    assert status(server.raw(request + b"5\r\nabcde\r\n0\r\n\r\n")) == 411
    both = request.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n")
    assert server.raw(both + b"0\r\n\r\n").startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("size", [17_000, 300_000, 3_000_000])
def test_huge_headers_are_refused(server: Server, size: int) -> None:
    request = b"GET /health HTTP/1.1\r\n" + HEAD + b"X: " + b"y" * size + b"\r\n\r\n"
    assert status(server.raw(request)) == 431
    many = b"".join(b"X-%d: y\r\n" % n for n in range(size // 8))
    assert status(server.raw(b"GET /health HTTP/1.1\r\n" + HEAD + many + b"\r\n")) == 431
    assert status(server.raw(b"GET /" + b"a" * size + b" HTTP/1.1\r\n" + HEAD + b"\r\n")) == 431
    assert server.ask("/health").status == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{",
    ],
)
def test_what_is_no_request_is_refused(server: Server, request_: bytes) -> None:
    assert 400 <= status(server.raw(request_)) < 500
    assert server.ask("/health").status == 200


def test_health_answers_while_200_slow_clients_hang(model: LanguageModel, start: Start) -> None:
    """They send half of the headers, or half of a body, and then nothing."""
    limits = Limits(header_seconds=60, body_seconds=60)
    server = start(model, limits)
    begun = [
        b"GET /health HT",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    ]
    with contextlib.ExitStack() as stack:
        for number in range(200):
            slow = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            stack.enter_context(slow)
            slow.sendall(begun[number % 2])
        began = time.monotonic()
        assert server.ask("/health").status == 200
        assert time.monotonic() - began < 1
        assert server.complete(max_tokens=3).status == 200


def test_slow_clients_are_told_so_and_closed(model: LanguageModel, start: Start) -> None:
    server = start(model, Limits(header_seconds=0.1, body_seconds=0.1))
    assert status(server.raw(b"GET /health HT")) == 408
    assert status(server.raw(b"")) == 408
    body = b"POST /v1/completions HTTP/1.1\r\n" + HEAD + b"Content-Length: 5\r\n\r\n{"
    assert status(server.raw(body)) == 408


def test_a_client_that_reads_nothing_is_closed(model: LanguageModel, start: Start) -> None:
    server = start(model, Limits(unread_seconds=0.1))
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        fields = {"model": "small", "prompt": "Once", "n": 16, "stream": True, "max_tokens": 4000}
        fields |= {"logit_bias": {"0": -100}, "logprobs": 20}
        body = json.dumps(fields).encode()
        slow.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        batcher = server.service.batcher
        assert until(lambda: server.is_idle and batcher.tokens_written > 0)
    assert server.service.batcher.tokens_written < 16 * 4000
