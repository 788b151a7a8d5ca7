"""An application and an address flow in; the application answers there until it is stopped.

The server is bound to this machine alone unless another address is named, and then it needs a key. Deadlines that lie
below an application are here: for clients that send their headers slowly, and for those that do not read.
"""

import asyncio
import contextlib
import errno
import http
import importlib.util
import ipaddress
import json
import logging
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from homespun.errors import UserError
from homespun.server import INSTALL
from homespun.server.guard import SECURITY_HEADERS, Application, error_body
from homespun.server.limits import Limits

if TYPE_CHECKING:
    import uvicorn

LINGER_SECONDS = 1
"""For which a refused connection stays open and what it sends is thrown away."""
SPARE_DESCRIPTORS = 256
"""Open files beside the connections: the model, the runs of a folder, pipes."""


def check_installed(command: str) -> None:
    """
    Raises:
        UserError: the packages that a server needs are not installed.
    """
    for package in ("starlette", "uvicorn", "h11"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"homespun {command} needs {package}: {INSTALL}")


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int, key: str | None) -> socket.socket:
    """A socket that listens. Connections wait in it until `serve` takes them.

    Args:
        port: 0 for any free one; `address` tells which.
        key: what every request has to send.

    Raises:
        UserError: other machines reach the address and there is no key, or it cannot be used.
    """
    if not is_loopback(host) and not key:
        raise UserError(
            f"other machines reach {host}, so a key is needed: name a file that holds one with --key-file, or leave "
            "--host out"
        )
    try:
        [family, kind, protocol, _, place], *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        raise UserError(f"there is no address {host}: check --host") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(socket.SOMAXCONN)
    except OSError as error:
        listening.close()
        raise UserError(_why_not(error, host, port)) from None
    return listening


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use: choose another one with --port, or stop the program that uses it"
    if error.errno == errno.EACCES:
        return f"port {port} is for the system: choose one from 1024 on with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine: check --host"
    return f"{host}, port {port} cannot be used ({error.strerror}): choose another one with --port"


def address(listening: socket.socket) -> str:
    """The beginning of the addresses on this server, such as http://127.0.0.1:8000."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: Application, listening: socket.socket, limits: Limits | None = None) -> None:
    """Answer requests until a signal stops the process.

    Raises:
        KeyboardInterrupt: on Ctrl-C and SIGTERM, after running answers have had `stop_seconds` to end.
    """
    server = new_server(app, limits)
    # It warns of each client that leaves while much is sent to it, which is no fault.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with _terminated_as_interrupted():
        server.run(sockets=[listening])


def new_server(app: Application, limits: Limits | None = None) -> "uvicorn.Server":
    """A server that is not running yet: `run(sockets=[bind(...)])` starts it, `should_exit = True` ends it."""
    import uvicorn

    limits = limits or Limits()
    _allow_descriptors(limits.connections + SPARE_DESCRIPTORS)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",  # the guard reports errors
        access_log=False,  # an address may have a token
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=limits.stop_seconds,
        h11_max_incomplete_event_size=limits.header_bytes,
    )
    return uvicorn.Server(config)


def _protocol(limits: Limits) -> type[asyncio.Protocol]:
    """HTTP of one connection, with deadlines."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        deadline: asyncio.TimerHandle | None = None
        """For the headers of a request."""
        unread: asyncio.TimerHandle | None = None
        """For a client that has to read before more is sent."""
        is_refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self.refuse(503, "too many connections are open: try again later")
            else:
                self.wait_for_headers()

        def data_received(self, data: bytes) -> None:
            if self.is_refused:
                return
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self.wait_for_headers()
            else:
                self.stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_waiting()
            self.resume_writing()
            super().connection_lost(exc)

        def wait_for_headers(self) -> None:
            if self.deadline is None and not self.transport.is_closing():
                self.deadline = self.loop.call_later(limits.header_seconds, self.headers_are_late)

        def stop_waiting(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

        def headers_are_late(self) -> None:
            self.deadline = None
            seconds = limits.header_seconds
            self.refuse(408, f"the headers did not arrive within {seconds:g} seconds")

        def pause_writing(self) -> None:
            super().pause_writing()
            if self.unread is None:
                self.unread = self.loop.call_later(limits.unread_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.unread is not None:
                self.unread.cancel()
                self.unread = None

        def send_400_response(self, msg: str) -> None:
            """Answer what h11 refuses with the status that fits. uvicorn calls this where it handles the exception."""
            error = sys.exc_info()[1]
            if getattr(error, "error_status_hint", 400) == 431:
                most = limits.header_bytes
                self.refuse(431, f"the headers are larger than {most:,} bytes: send less")
            elif "Content-Length" in str(error):
                self.refuse(411, "Content-Length is not a whole number of bytes")
            else:
                self.refuse(400, "this is no valid HTTP request")

        def refuse(self, status: int, message: str) -> None:
            """Answer outside the application, and close the connection."""
            self.stop_waiting()
            if self.cycle is not None and not self.cycle.response_complete:
                self.transport.close()
                return
            self.is_refused = True
            self.transport.write(_plain_answer(status, message))
            self.transport.write_eof()
            # A connection that is closed while data arrives is reset, and the client might not see the answer.
            self.deadline = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    return Protocol


def _plain_answer(status: int, message: str) -> bytes:
    body = json.dumps(error_body(status, message)).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **SECURITY_HEADERS,
    }
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _allow_descriptors(wanted: int) -> None:
    """Allow this process so many open files, if the system lets it: some systems start with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the body like Ctrl-C, so that what is open gets closed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Stopped(KeyboardInterrupt):
    """A signal has stopped the server."""

    def __init__(self, number: int) -> None:
        self.number = number
