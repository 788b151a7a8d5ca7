"""The studio as one application: the page, and what it asks for, behind the guard.

The token comes with the address that the command opens; a cookie keeps it for everything else that the page asks for.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from homespun.server.answers import HANDLERS
from homespun.server.guard import Guard
from homespun.server.limits import Limits
from homespun.server.studio import conversation, inside, playground, runs, told
from homespun.server.studio.state import State

STATIC = Path(__file__).parent / "static"


def studio_app(folder: Path, token: str, limits: Limits | None = None) -> Guard:
    """The application for the runs and models below `folder`."""
    state = State(folder, limits)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            state.processes.close()

    routes = [
        Route("/", page),
        Mount("/static", StaticFiles(directory=STATIC)),
        *playground.routes(state),
        *conversation.routes(state),
        *inside.routes(state),
        *told.routes(state),
        *runs.routes(state),
    ]
    app = Starlette(routes=routes, exception_handlers=HANDLERS, lifespan=lifespan)
    return Guard(app, key=token, is_page=True, limits=limits)


def page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html")
