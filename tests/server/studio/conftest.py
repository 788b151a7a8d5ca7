"""A studio on the loopback interface, and Chromium without a screen; see `make test-studio`."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import chromium
from tests.server.studio.made import write_work
from tests.server.studio.pages import TOKEN


@contextmanager
def serving(app: Any, port: int = 0) -> Iterator[str]:
    """An application on a port of the loopback interface, by default a free one; gives its address."""
    from homespun.server import launch

    listening = launch.bind("127.0.0.1", port, None)
    server = launch.new_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield launch.address(listening)
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models that were never trained; see `made`. Tests do not change it."""
    return write_work(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def address(work: Path) -> Iterator[str]:
    """The address of the page of a studio for `work`."""
    from homespun.server.studio.app import studio_app

    with serving(studio_app(work, TOKEN)) as place:
        yield f"{place}/?token={TOKEN}"


@pytest.fixture
def studio() -> Iterator[Callable[[Path], str]]:
    """Starts a studio for a folder; gives the address of its page."""
    from homespun.server.studio.app import studio_app

    with ExitStack() as running:

        def start(folder: Path) -> str:
            return f"{running.enter_context(serving(studio_app(folder, TOKEN)))}/?token={TOKEN}"

        yield start


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver
