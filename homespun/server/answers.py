"""Exceptions of a route flow in, answers in JSON flow out: `Starlette(..., exception_handlers=HANDLERS)`."""

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from homespun.errors import UserError
from homespun.server.guard import error_body


class Unanswerable(Exception):
    """A request that is refused with a status, and a message for the person who sent it."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers: dict[str, str] = {}


class FieldError(UserError):
    """A setting of a form refuses its value."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def explained(error: Unanswerable | UserError) -> dict[str, Any]:
    """The body that tells of an error, with the field at fault."""
    if isinstance(error, Unanswerable):
        return error_body(error.status, str(error), error.param, error.code)
    return error_body(400, str(error), error.field if isinstance(error, FieldError) else None)


async def _unanswerable(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Unanswerable)
    return JSONResponse(explained(error), error.status, headers=error.headers)


async def _user_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UserError)
    return JSONResponse(explained(error), 400)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status, message = error.status_code, error.detail
    if status == 404:
        message = f"there is nothing at {request.url.path}"
    elif status == 405:
        message = f"{request.url.path} does not take {request.method}"
    return JSONResponse(error_body(status, message), status, headers=error.headers)


async def _failure(request: Request, error: Exception) -> JSONResponse:
    raise error  # the guard writes it to the terminal, and then answers


HANDLERS: Mapping[Any, Any] = {
    Unanswerable: _unanswerable,
    UserError: _user_error,
    HTTPException: _http_error,
    Exception: _failure,
}
