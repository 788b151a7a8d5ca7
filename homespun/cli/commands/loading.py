"""The model that a command works with, from its settings."""

from typing import TYPE_CHECKING

from homespun.config import LoadConfig

if TYPE_CHECKING:
    from homespun.language_model import LanguageModel


def load_model(config: LoadConfig) -> "LanguageModel":
    from homespun.language_model import load

    return load(
        config.checkpoint, engine=config.engine, precision=config.precision, threads=config.threads
    )
