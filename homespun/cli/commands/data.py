"""Commands that fetch a text, train a tokenizer on it, and turn it into tokens."""

from homespun.cli.arguments import Settings
from homespun.config import DownloadConfig, PrepareConfig, TokenizerConfig
from homespun.terminal import say


def download(settings: Settings) -> int:
    config = DownloadConfig(**settings)
    from homespun.data.download import download

    download(config, say)
    return 0


def tokenizer(settings: Settings) -> int:
    config = TokenizerConfig(**settings)
    from homespun.data.train_tokenizer import train_tokenizer
    from homespun.engine import hardware

    hardware.limit_workers(None)
    train_tokenizer(config, say)
    return 0


def prepare(settings: Settings) -> int:
    config = PrepareConfig(**settings)
    from homespun.engine import hardware

    if config.cluster is None:  # otherwise each machine has its own number of processors
        hardware.limit_workers(None)
    if config.cluster is not None:
        from homespun.preparing.cluster import prepare_on_cluster

        prepare_on_cluster(config, say)
    elif config.part is not None:
        from homespun.preparing.several_machines import prepare_part

        prepare_part(config, say)
    else:
        from homespun.preparing.one_machine import prepare_text

        prepare_text(config, say)
    return 0
