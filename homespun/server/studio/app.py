"""The studio as one application: the page, and what it asks for, below the token of its address.

The first part of every path is the token. Modules, styles and questions of the page are relative to it, so each carries
it, and no other page in the same browser can guess it.
"""

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from homespun.errors import UserError
from homespun.server.studio import inside, playground, runs, told
from homespun.server.studio.exchange import on_http_error, on_user_error
from homespun.server.studio.state import State

STATIC = Path(__file__).parent / "static"


def studio_app(folder: Path, token: str) -> Starlette:
    """The application for the runs and models below `folder`."""
    state = State(folder.resolve())
    routes = [
        Route("/", page),
        Mount("/static", StaticFiles(directory=STATIC)),
        *playground.routes(state),
        *inside.routes(state),
        *told.routes(state),
        *runs.routes(state),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        exception_handlers={UserError: on_user_error, HTTPException: on_http_error},
    )


def page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-store"})
