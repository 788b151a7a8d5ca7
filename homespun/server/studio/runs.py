"""Routes of a page of the studio."""

from starlette.routing import BaseRoute

from homespun.server.studio.state import State


def routes(state: State) -> list[BaseRoute]:
    return []
