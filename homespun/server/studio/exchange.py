"""The body of a request flows in as JSON, what a route finds out step by step flows out as server-sent events."""

import json
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from homespun.errors import UserError
from homespun.server.answers import FieldError
from homespun.server.sending import Streamed
from homespun.tokenizer.utf8 import utf8

JSON = dict[str, Any]
Value = TypeVar("Value")


async def asked(request: Request) -> JSON:
    """The object in the body of a request.

    Raises:
        UserError: the body is no JSON object, or a text in it is no valid one.
    """
    try:
        body = json.loads(await request.body())
        utf8(json.dumps(body, ensure_ascii=False))
    except (ValueError, RecursionError):
        raise UserError("the request is not JSON that can be read") from None
    if not isinstance(body, dict):
        raise UserError("the request is no JSON object")
    return body


def stated(body: JSON, name: str, kind: type[Value]) -> Value:
    """An entry of a request.

    Raises:
        FieldError: it is missing, or of another type.
    """
    value = body.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise FieldError(name, f"{name} is missing in the request, or of another type")
    return value


def events(source: Generator[JSON, None, None]) -> Response:
    """Each object as one server-sent event. `source` runs in threads, and is closed when the reader leaves."""
    return Streamed(_in_threads(source), source.close)


async def _in_threads(source: Iterator[JSON]) -> AsyncIterator[JSON]:
    while (told := await run_in_threadpool(next, source, None)) is not None:
        yield told
