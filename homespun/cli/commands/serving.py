"""Commands that answer over HTTP until they are stopped."""

from homespun.cli.arguments import Settings
from homespun.config import ServeConfig, StudioConfig
from homespun.terminal import say


def studio(settings: Settings) -> int:
    config = StudioConfig(**settings)
    from homespun.server.launch import check_installed

    check_installed("studio")
    from homespun.server.studio.run import run

    run(config, say)
    return 0


def serve(settings: Settings) -> int:
    config = ServeConfig(**settings)
    from homespun.server.launch import check_installed

    check_installed("serve")
    from homespun.server.serve import serve

    serve(config)
    return 0
