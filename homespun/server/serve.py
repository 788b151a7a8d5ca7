"""The settings of `homespun serve` flow in; its server runs until it is stopped."""

from pathlib import Path

from homespun.config import ServeConfig, TrainConfig
from homespun.errors import UserError, cannot_read
from homespun.language_model import load
from homespun.model_formats.formats import model_name
from homespun.server import launch
from homespun.server.app import server_app
from homespun.server.writing import Service
from homespun.terminal import encodable, say

SHORTEST_KEY = 16
"""Characters."""


def serve(config: ServeConfig) -> None:
    """Load a model and answer requests until a signal stops the process.

    Raises:
        UserError: the model cannot be loaded, the address cannot be used, or the key is none.
        KeyboardInterrupt: the process was stopped.
    """
    key = None if config.key_file is None else read_key(Path(config.key_file))
    listening = launch.bind(config.host, config.port, key)  # before the model, which may take long
    with listening:
        model = load(
            config.model, engine=config.engine, precision=config.precision, threads=config.threads
        )
        service = Service(model, served_name(config.model))
        with service.batcher:
            app = server_app(service, key=key, is_public=not launch.is_loopback(config.host))
            say(f"model    {service.name} ({model.stored.path}), context {model.config.seq_len:,}")
            say(f"address  {launch.address(listening)}/v1")
            say(f"key      {f'in {config.key_file}' if key else 'none needed on this machine'}")
            say("Ctrl-C stops the server.")
            launch.serve(app, listening, service.limits)


def served_name(path: str | None) -> str:
    """The name of a model for its clients: that of its file or folder."""
    return encodable(model_name(Path(path or TrainConfig.checkpoint_dir)))


def read_key(file: Path) -> str:
    """The key in a file.

    Raises:
        UserError: the file cannot be read, or holds no key.
    """
    try:
        key = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        key = ""
    except OSError as error:
        raise cannot_read(error, f"{file} cannot be read", "check --key-file") from None
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"{file} holds no key: write one line of {SHORTEST_KEY} or more letters and digits into it, for example "
            f"with: openssl rand -hex 16 > {file}"
        )
    return key
