"""Settings flow in; the studio answers on this machine, and the browser opens its page, until Ctrl-C."""

import os
import secrets
import sys
import threading
import webbrowser
from pathlib import Path

from homespun.config import StudioConfig
from homespun.errors import UserError
from homespun.server import launch
from homespun.server.limits import Limits
from homespun.server.studio.app import studio_app
from homespun.terminal import Say

HOST = "127.0.0.1"


def run(config: StudioConfig, say: Say) -> None:
    """Serve the studio of a folder until it is stopped.

    Raises:
        UserError: there is no such folder, or the port cannot be used.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    folder = Path(config.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name the one that holds your runs and models")
    token, limits = secrets.token_urlsafe(24), Limits()
    listening = launch.bind(HOST, config.port, token)
    address = f"{launch.address(listening)}/?token={token}"
    say(f"The studio of {folder.resolve()} is at {address}")
    say("Ctrl-C ends it.")
    if config.browser and _has_screen():
        # The socket already listens, so the browser may be faster than the server.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    launch.serve(studio_app(folder, token, limits), listening, limits)


def _has_screen() -> bool:
    """Whether a browser with a window can open: without one, a browser for terminals would take this terminal."""
    if sys.platform == "darwin":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
