"""Every request flows through here before it reaches a route: what is foreign, too large, too slow or without the key
is answered at once.

Plain ASGI around any application, so no route can be forgotten. A browser lets every web page send requests to this
machine, and a name that a page controls may lead here (DNS rebinding). Therefore `Host` has to name this server, a
request that another page makes is refused, and no header allows one (no CORS).
"""

import asyncio
import hmac
import ipaddress
import json
import math
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from homespun.server.limits import Limits
from homespun.terminal import warn

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")

SECURITY_HEADERS: Mapping[str, str] = {
    # Scripts, styles and requests of a page are from this server alone; nothing embeds the page.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the address of a page has its token
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

HAS_BODY = {"POST", "PUT", "PATCH"}

DISCARDED = 16
"""A body of up to so many times the limit is read and thrown away before it is refused: most clients read an answer
only after they have sent all. A longer one is cut off."""


class Refused(Exception):
    """A request that gets no further."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Guard:
    """An application with checks around it."""

    def __init__(
        self,
        app: Application,
        *,
        key: str | None = None,
        is_page: bool = False,
        is_public: bool = False,
        limits: Limits | None = None,
        report: Callable[[str], None] = warn,
    ) -> None:
        """
        Args:
            key: has to come with every request: in the header `Authorization: Bearer KEY`.
            is_page: a browser shows pages of this server. The key may also be the `token` in the address of the first
                page; a cookie keeps it for the other requests of this page.
            is_public: the server is bound to another address than this machine's own, so `Host` may be any address in
                numbers, or the name of this machine.
            report: takes a line about an error inside the application.
        """
        self._app = app
        self._key = key
        self._is_page = is_page
        self._is_public = is_public
        self._limits = limits or Limits()
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":  # there are no websockets here
            return
        answer = _Answer(send)
        try:
            headers = _headers(scope, self._limits)
            self._check_host(headers)
            _check_origin(headers)
            answer.cookie = self._check_key(scope, headers)
            body = await self._body(scope, headers, receive)
            if body is None:  # the client has left
                return
            await self._app(scope, _Replayed(body, receive), answer.send)
        except Refused as refused:
            await answer.refuse(refused)
        except Exception as error:
            route = f"{scope['method']} {scope['path']}"
            self._report(f"error: {route} failed: {type(error).__name__}: {error}")
            if not answer.has_begun:
                await answer.refuse(Refused(500, "the server failed; its terminal shows the error"))
            elif not answer.has_ended:
                raise  # uvicorn closes the connection, so the client sees that the answer is cut off

    def _check_host(self, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        name = host.rpartition("]")[0].lstrip("[") if "]" in host else host.partition(":")[0]
        name = name.lower()
        if name in LOOPBACK:
            return
        if self._is_public and (_is_address(name) or name == socket.gethostname().lower()):
            return
        raise Refused(
            403,
            "the Host header does not name this server: use its address in numbers, or localhost",
        )

    def _check_key(self, scope: Scope, headers: Mapping[str, str]) -> str | None:
        """Returns the cookie to set, if the token was in the address."""
        if self._key is None:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_key(given.strip()):
            return None
        if self._is_page:
            port = (scope.get("server") or ("", 0))[1]
            name = f"homespun-{port}"  # browsers send the cookies of one port to all ports
            if self._is_key(_cookie(headers.get("cookie", ""), name)):
                return None
            query = scope["query_string"].decode("latin-1")
            try:
                [token] = parse_qs(query, max_num_fields=100).get("token", [""])
            except ValueError:
                token = ""
            if self._is_key(token):
                return f"{name}={self._key}; HttpOnly; SameSite=Strict; Path=/"
            raise Refused(401, "open the address that homespun studio has printed, with its token")
        raise Refused(
            401,
            "this server needs its key, in the header Authorization: Bearer KEY",
            www_authenticate="Bearer",
        )

    def _is_key(self, given: str) -> bool:
        """Whether a text is the key; the time of the comparison does not tell how much of it is right."""
        return hmac.compare_digest(
            given.encode("utf-8", "surrogateescape"), (self._key or "").encode()
        )

    async def _body(
        self, scope: Scope, headers: Mapping[str, str], receive: Receive
    ) -> bytes | None:
        """The whole body of a request, or None if the client has left before its end."""
        stated = headers.get("content-length")
        if stated is None:
            if scope["method"] in HAS_BODY or "transfer-encoding" in headers:
                raise Refused(411, "the request does not state its length: send Content-Length")
            return b""
        if not (stated.isascii() and stated.isdigit()):
            raise Refused(411, "Content-Length is not a whole number of bytes")
        most = self._limits.body_bytes
        too_large = Refused(413, f"the body is larger than {most:,} bytes: send less")
        length = int(stated) if len(stated) <= 20 else math.inf
        if length > DISCARDED * most:
            raise too_large
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if max(length, size) <= most:
                        body += part
                    more = message.get("more_body", False)
        except TimeoutError:
            seconds = self._limits.body_seconds
            raise Refused(408, f"the body did not arrive within {seconds:g} seconds") from None
        if max(length, size) > most:
            raise too_large
        return bytes(body)


class _Replayed:
    """Gives the body that was read already, and then what comes after it."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            message = await self._receive()
            # Behind a body of no bytes, the server may still give the message with its end.
            while message["type"] == "http.request":
                message = await self._receive()
            return message
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Answer:
    """Sends an answer with the headers of the guard, and knows how far it got."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.cookie: str | None = None
        self.has_begun = False
        self.has_ended = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            given = {name.lower() for name, _ in message.get("headers", ())}
            added = [
                (name.encode(), value.encode())
                for name, value in SECURITY_HEADERS.items()
                if name.encode() not in given
            ]
            if self.cookie:
                added.append((b"set-cookie", self.cookie.encode()))
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.has_ended = True
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        body = json.dumps(error_body(refused.status, str(refused))).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",  # the rest of the request is not read
            **refused.headers,
        }
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refused.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error in OpenAI's form, which its clients understand."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _headers(scope: Scope, limits: Limits) -> dict[str, str]:
    """The headers of a request by their names in small letters."""
    pairs = scope["headers"]
    size = sum(len(name) + len(value) + 4 for name, value in pairs)
    size += len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"])
    if size > limits.header_bytes:
        raise Refused(431, f"the headers are larger than {limits.header_bytes:,} bytes: send less")
    headers: dict[str, str] = {}
    for name, value in pairs:
        key = name.decode("latin-1").lower()
        if key in headers and key in ("host", "origin", "authorization", "content-length"):
            raise Refused(400, f"the header {key} is there twice")
        headers[key] = value.decode("latin-1")
    return headers


def _check_origin(headers: Mapping[str, str]) -> None:
    """Refuse what a page of another server asks for. Programs that are no browsers send neither header."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin is not None:
        is_own = origin.lower() == f"http://{headers.get('host', '')}".lower()
    else:
        is_own = site in ("same-origin", "none")
    if not is_own:
        raise Refused(403, "the request comes from a page of another server")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""
