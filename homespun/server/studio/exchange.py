"""JSON of a request flows in, JSON or a stream of server-sent events flows out.

An error that the user can fix names the field at fault, so that the page shows the reason beside it.
"""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from homespun.errors import UserError
from homespun.server.guard import error_body
from homespun.tokenizer.utf8 import utf8

JSON = dict[str, Any]
Value = TypeVar("Value")


class FieldError(UserError):
    """A setting of a form refuses its value."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


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


def explained(error: UserError) -> JSON:
    """An error as the page shows it."""
    return error_body(400, str(error), getattr(error, "field", None))


async def on_field_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FieldError)
    return JSONResponse(explained(error), 400)


def events(source: Iterator[JSON]) -> Response:
    """Each object as one server-sent event. `source` runs in a thread, and is closed when the reader leaves."""
    return StreamingResponse(_lines(source), media_type="text/event-stream")


async def _lines(source: Iterator[JSON]) -> AsyncIterator[str]:
    try:
        while (told := await run_in_threadpool(_next, source)) is not None:
            yield f"data: {json.dumps(told)}\n\n"
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


def _next(source: Iterator[JSON]) -> JSON | None:
    try:
        return next(source, None)
    except UserError as error:
        return explained(error)
