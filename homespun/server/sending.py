"""JSON and server-sent events to a client that may leave at any time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from homespun.errors import UserError
from homespun.server.answers import Unanswerable, explained

to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

DONE = b"data: [DONE]\n\n"
"""Ends a stream of OpenAI's."""
STILL_THERE = b": nothing new\n\n"
"""A comment, which readers skip. It shows whether the client is still there."""


async def answered(request: Request, work: Awaitable[Any]) -> Response:
    """The JSON that `work` gives. If the client leaves before, the work is cancelled."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return JSONResponse(working.result())
        return Response(status_code=499)  # nobody reads it
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Wait until the client leaves. The body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Streamed(StreamingResponse):
    """Server-sent events: one for each object, a comment for each None; bytes are events already. An error ends the
    stream as an event."""

    def __init__(
        self,
        source: AsyncIterator[Any],
        on_end: Callable[[], object] = lambda: None,
        *,
        last: bytes = b"",
    ) -> None:
        """
        Args:
            on_end: is called in any case, also if the client leaves before the first event.
            last: is sent behind the last object, if there was no error.
        """
        super().__init__(_events(source, last), media_type="text/event-stream")
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _events(source: AsyncIterator[Any], last: bytes) -> AsyncIterator[bytes]:
    try:
        async for told in source:
            if isinstance(told, bytes):
                yield told
            else:
                yield STILL_THERE if told is None else event(told)
    except (Unanswerable, UserError) as error:
        yield event(explained(error))
    else:
        if last:
            yield last


def event(data: Any) -> bytes:
    """One event."""
    return f"data: {to_json(data)}\n\n".encode()


class Chunks:
    """The chunks of one answer in OpenAI's form, as events. They differ in their choices alone, so the rest of their
    JSON is made once."""

    def __init__(self, frame: dict[str, Any], more: dict[str, Any]) -> None:
        """The fields before and behind the choices."""
        self._head = f'data: {to_json(frame)[:-1]},"choices":['
        self._tail = f"]{',' if more else ''}{to_json(more)[1:-1]}}}\n\n"

    def of(self, choices: Iterable[Any]) -> bytes:
        """A chunk for each choice."""
        return "".join(f"{self._head}{to_json(one)}{self._tail}" for one in choices).encode()
