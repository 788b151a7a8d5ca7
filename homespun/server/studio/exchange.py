"""Results that a route computes one after the other flow in; server-sent events flow out."""

from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from homespun.server.sending import Streamed

JSON = dict[str, Any]


def events(source: Generator[JSON, None, None]) -> Response:
    """Each object as one server-sent event. `source` runs in threads, and is closed when the reader leaves."""
    return Streamed(_in_threads(source), source.close)


async def _in_threads(source: Iterator[JSON]) -> AsyncIterator[JSON]:
    while (told := await run_in_threadpool(next, source, None)) is not None:
        yield told
